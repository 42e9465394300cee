"""What expressions are, and what happens while they are evaluated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dropaudit.static.program.code import (
    Attribute,
    Call,
    Choice,
    Compare,
    Constant,
    Each,
    Element,
    Expression,
    Inner,
    Mix,
    Name,
    Not,
    Several,
)
from dropaudit.static.program.computing import compared, elements, mixed, negated, truth
from dropaudit.static.program.frames import Context, Outcome
from dropaudit.static.program.resolve import FunctionRef, GlobalRef
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Foreign,
    Frame,
    Function,
    Group,
    Module,
    Object,
    Plain,
    State,
    Values,
    merged,
    one,
    union,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine

_MOST_OUTCOMES = 8  # of the parts of an expression, before those are joined whose modes agree


class Expressions:
    """Evaluates expressions, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap
        self._resolver = machine.resolver

    def value(self, ctx: Context, state: State, node: Expression) -> list[Outcome]:
        """What `node` is, in each of the states in which its evaluation may end."""
        match node:
            case Call():
                return self._machine.calls.call(ctx, state, node)
            case Choice(test, left, right):
                return self._choice(ctx, state, test, left, right)
            case Several(items) | Mix(items):
                outcomes = self.values(ctx, state, items)
                if isinstance(node, Mix):
                    return [(after, mixed(parts)) for after, parts in outcomes]
                return [(after, one(Group(tuple(parts)))) for after, parts in outcomes]
            case Each():
                return self._each(ctx, state, node)
            case Not(value):
                return [(s, negated(v)) for s, v in self.value(ctx, state, value)]
            case Compare(left, how, right):
                pairs = self.values(ctx, state, (left, right))
                return [(s, self._compared(v[0], how, v[1])) for s, v in pairs]
            case Attribute(inner, name) if isinstance(inner, Call):
                return [(s, self.attribute(s, v, name)) for s, v in self.value(ctx, state, inner)]
            case Element(inner):
                return [(s, elements(v)) for s, v in self.value(ctx, state, inner)]
        return [(state, self.read(ctx, state, node))]

    def _compared(self, left: Values, how: str, right: Values) -> Values:
        """As `compared`; what the program is seen to build is not None."""
        built = (isinstance(v, Object) and not self._heap.origins[v.number].is_given for v in left)
        if left and right == one(Plain(None)) and all(built):
            return one(Plain(how in ("is not", "!=")))
        return compared(left, how, right)

    def values(
        self, ctx: Context, state: State, nodes: Iterable[Expression]
    ) -> list[tuple[State, list[Values]]]:
        """As `value`, for one expression after the other."""
        outcomes: list[tuple[State, list[Values]]] = [(state, [])]
        for node in nodes:
            outcomes = [
                (after, [*before, values])
                for current, before in outcomes
                for after, values in self.value(ctx, current, node)
            ]
            if len(outcomes) > _MOST_OUTCOMES:
                outcomes = _fewer(outcomes)
        return outcomes

    def _each(self, ctx: Context, state: State, node: Each) -> list[Outcome]:
        """A comprehension: a loop, of which a second round is run where the first changed modes."""
        inside = self._machine.loop_context(ctx, node)
        result: list[Outcome] = []
        for after, values in self.value(ctx, state, node.source):
            self._machine.bind(ctx, after, node.target, elements(values))
            before = after.key()
            for end, each in self.value(inside, after, node.value):
                found = one(Group((each,))) if each else UNKNOWN
                if end.key() == before:
                    result.append((end, found))
                else:
                    again = self.value(inside, end, node.value)
                    result += [(last, found) for last, _ in again]
        return result

    def _choice(
        self, ctx: Context, state: State, test: Expression, left: Expression, right: Expression
    ) -> list[Outcome]:
        result: list[Outcome] = []
        for after, values in self.value(ctx, state, test):
            known = truth(values)
            if known is not None:
                result += self.value(ctx, after, left if known else right)
                continue
            other = after.copy()
            sides = [*self.value(ctx, after, left), *self.value(ctx, other, right)]
            keys = {state.key() for state, _ in sides}
            if len(keys) == 1:  # nothing happened in either
                result.append((sides[0][0], union(*(values for _, values in sides))))
            else:
                result += sides
        return result

    def peek(self, ctx: Context, state: State, node: Expression) -> Values:
        """What `node` is, without anything happening."""
        match node:
            case Call() | Choice() | Each():
                return UNKNOWN
            case Several(items):
                return one(Group(tuple(self.peek(ctx, state, each) for each in items)))
        return self.read(ctx, state, node)

    def read(self, ctx: Context, state: State, node: Expression) -> Values:
        """What an expression without calls is."""
        match node:
            case Constant(value):
                return one(Plain(value))
            case Name(name):
                return self.name(ctx, state, name)
            case Attribute(inner, name):
                return self.attribute(state, self.read(ctx, state, inner), name)
            case Element(inner):
                return elements(self.read(ctx, state, inner))
            case Inner(qualified):
                return one(Function(FunctionRef(ctx.frame.path, qualified), frame=ctx.frame))
        return UNKNOWN

    def name(self, ctx: Context, state: State, name: str) -> Values:
        """What a name stands for: in this function, in those around it, in the module."""
        frame: Frame | None = ctx.frame
        while frame is not None:
            if (found := state.cell(frame.number, name)) is not None:
                return found or self._heap.someone(state, frame.number, name)
            if name in frame.names and name not in frame.elsewhere:
                if not frame.qualified and self._resolver.imports(frame.path, name):
                    break  # `import net` ... `net = net.Net()`: not yet assigned
                return self._heap.someone(state, frame.number, name)
            frame = frame.around
        symbol = self._resolver.resolve(ctx.frame.path, name)
        if isinstance(symbol, GlobalRef):
            number = self._heap.number("module", symbol.path)
            found = state.cell(number, symbol.name)
            return found or self._heap.someone(state, number, symbol.name)
        return UNKNOWN if symbol is None else self._heap.symbol_value(symbol)

    def attribute(self, state: State, owners: Values, name: str) -> Values:
        """`.name` of values."""
        found: list[Values] = []
        for owner in sorted(owners, key=repr):
            match owner:
                case Object():
                    found.append(self._machine.methods.member(state, owner, name))
                case Module(path):
                    symbol = self._resolver.resolve(path, name)
                    found.append(UNKNOWN if symbol is None else self._heap.symbol_value(symbol))
                case Class(ref):
                    symbol = self._resolver.member(ref, name)
                    if isinstance(symbol, FunctionRef):
                        found.append(one(Function(symbol, cls=ref)))
                    else:
                        found.append(UNKNOWN if symbol is None else self._heap.symbol_value(symbol))
                case Foreign(outside, None):
                    found.append(one(Foreign(f"{outside}.{name}")))
                case _:
                    found.append(UNKNOWN)
        return union(*found) if found else UNKNOWN


def _fewer(outcomes: list[tuple[State, list[Values]]]) -> list[tuple[State, list[Values]]]:
    """Outcomes joined where their modes agree."""
    found: dict[object, tuple[State, list[Values]]] = {}
    for state, parts in outcomes:
        key = state.key()
        if key not in found:
            found[key] = state, parts
            continue
        other, known = found[key]
        joined = [union(a, b) for a, b in zip(known, parts, strict=True)]
        found[key] = merged([other, state])[0], joined
    return list(found.values())
