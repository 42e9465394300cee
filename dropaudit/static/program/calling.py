"""What a call does: functions are entered, classes built, models run, foreign code distrusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import (
    Attribute,
    Call,
    Element,
    Expression,
    Name,
    dotted,
)
from dropaudit.static.program.computing import truth
from dropaudit.static.program.foreign import Foreigners
from dropaudit.static.program.frames import Arguments, Context, Outcome
from dropaudit.static.program.resolve import ClassRef, FunctionRef
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Event,
    Foreign,
    Function,
    Group,
    Object,
    Plain,
    State,
    Value,
    Values,
    objects,
    one,
    union,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine


class Calling:
    """Calls, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap
        self._foreigners = Foreigners(machine.heap)

    def call(self, ctx: Context, state: State, node: Call) -> list[Outcome]:
        """What a call gives, in each state in which it may end."""
        self._machine.tick(1)
        match node.function:
            case Attribute(Call(Name("super")), name):
                return self._machine.methods.call_super(ctx, state, node, name)
            case Attribute(inner, name):
                result: list[Outcome] = []
                for after, owners in self._machine.expressions.value(ctx, state, inner):
                    for ready, given in self.arguments(ctx, after, node):
                        result += self._method_of(ctx, ready, node, inner, owners, name, given)
                return result
        result = []
        for after, callees in self._machine.expressions.value(ctx, state, node.function):
            for ready, given in self.arguments(ctx, after, node):
                if not callees:
                    self.escape(ready, given)
                    result.append((ready, UNKNOWN))
                else:
                    result += self.any(ctx, ready, node, callees, given)
        return result

    def arguments(self, ctx: Context, state: State, node: Call) -> list[tuple[State, Arguments]]:
        names = [one.name for one in node.arguments]
        outcomes = self._machine.expressions.values(
            ctx, state, [one.value for one in node.arguments]
        )
        return [(after, list(zip(names, values, strict=True))) for after, values in outcomes]

    def any(
        self, ctx: Context, state: State, node: Call, callees: Values, given: Arguments
    ) -> list[Outcome]:
        every = _models_first(callees)
        if isinstance(every[0], Object):
            outcomes: list[Outcome] = [(state, UNKNOWN)]
            for callee in every:
                outcomes = [
                    end
                    for current, _ in outcomes
                    for end in self._value(ctx, current, node, callee, given)
                ]
            return outcomes
        result: list[Outcome] = []
        for callee in every:
            mine = state.copy() if len(every) > 1 else state
            result += self._value(ctx, mine, node, callee, given)
        return result

    def _value(
        self, ctx: Context, state: State, node: Call, callee: Value, given: Arguments
    ) -> list[Outcome]:
        match callee:
            case Function(ref):
                if lexicon.OWN_WRAPPERS.search(ref.qualified) and given and objects(given[0][1]):
                    return [(state, given[0][1])]
                return self._machine.functions.call(ctx, state, callee, given, node.where)
            case Class(ref):
                return self._machine.classes.build(ctx, state, node, ref, given)
            case Object():
                return self._run_object(ctx, state, node, callee, given)
            case Foreign():
                return self._foreign(ctx, state, node, callee, given)
        return [(state, UNKNOWN)]

    def _method_of(
        self,
        ctx: Context,
        state: State,
        node: Call,
        inner: Expression,
        owners: Values,
        name: str,
        given: Arguments,
    ) -> list[Outcome]:
        if name in lexicon.BACKWARD:
            self._machine.events.backward(ctx, state, node.where)
            return [(state, UNKNOWN)]
        if name in ("train", "eval") and isinstance(inner, (Name, Element, Call)):
            self._heap.lose_elements(state, owners)
        if not owners:
            self.escape(state, given, name)
            return [(state, UNKNOWN)]
        every = _models_first(owners)
        if not isinstance(every[0], Object):
            result: list[Outcome] = []
            for owner in every:
                mine = state.copy() if len(every) > 1 else state
                result += self._method(ctx, mine, node, inner, owner, name, given)
            return result
        outcomes: list[Outcome] = [(state, one(every[0]))]
        found: list[Values] = []
        for owner in every:  # whichever it is: all of them
            outcomes = [
                end
                for current, _ in outcomes
                for end in self._method(ctx, current, node, inner, owner, name, given)
            ]
            found.append(union(*(values for _, values in outcomes)))
        if len(every) == 1:
            return outcomes
        return [(after, union(*found)) for after, _ in outcomes]

    def _method(
        self,
        ctx: Context,
        state: State,
        node: Call,
        inner: Expression,
        owner: Value,
        name: str,
        given: Arguments,
    ) -> list[Outcome]:
        if isinstance(owner, Object):
            return self._machine.methods.call(ctx, state, node, owner, name, given)
        if isinstance(owner, Group):
            return [(state, self._of_group(ctx, state, inner, owner, name, given))]
        callees = self._machine.expressions.attribute(state, one(owner), name)
        if not callees:
            self.escape(state, given, name)
            return [(state, UNKNOWN)]
        return self.any(ctx, state, node, callees, given)

    def closure(self, ctx: Context, state: State, node: Call, given: Arguments) -> list[Outcome]:
        """`optimizer.step(closure)` calls what it is given."""
        for _, values in given:
            for value in values:
                if isinstance(value, Function):
                    ends = self._machine.functions.call(ctx, state, value, [], node.where)
                    return [(after, UNKNOWN) for after, _ in ends]
        return [(state, UNKNOWN)]

    def _of_group(
        self,
        ctx: Context,
        state: State,
        inner: Expression,
        group: Group,
        name: str,
        given: Arguments,
    ) -> Values:
        """Methods of containers, as far as they move models."""
        if name in ("append", "add", "insert") and given:
            grown = one(Group((*group.items, given[-1][1]))) if len(group.items) < 8 else UNKNOWN
            self._machine.bind(ctx, state, inner, grown)
        elif name == "items":
            return one(Group(tuple(one(Group((UNKNOWN, item))) for item in group.items)))
        elif name in ("values", "copy"):
            return one(group)
        elif name in ("pop", "get"):
            return union(*group.items) if group.items else UNKNOWN
        return UNKNOWN

    def _run_object(
        self, ctx: Context, state: State, node: Call, thing: Object, given: Arguments
    ) -> list[Outcome]:
        """`thing(...)`."""
        origin = self._heap.origins[thing.number]
        if isinstance(origin.symbol, ClassRef) and not origin.is_model:
            method = self._machine.methods.find(origin, "__call__")
            if isinstance(method, FunctionRef):
                return self._machine.functions.call(
                    ctx, state, Function(method, thing), given, node.where
                )
        self._machine.events.forward(ctx, state, thing, node, dotted(node.function))
        self.escape(state, given)
        return [(state, UNKNOWN)]

    def _foreign(
        self, ctx: Context, state: State, node: Call, callee: Foreign, given: Arguments
    ) -> list[Outcome]:
        name = callee.dotted
        last = name.rpartition(".")[2]
        if last in lexicon.BACKWARD:
            self._machine.events.backward(ctx, state, node.where)
            return [(state, UNKNOWN)]
        if last in lexicon.STEPS:
            self._machine.events.step(ctx, state, node.where, name)
            return self.closure(ctx, state, node, given)
        if name in lexicon.EXPORTS:
            self._export(ctx, state, node, name, given)
        if name == "getattr" and len(given) >= 2:
            return [(state, self._getattr(state, given))]
        if name.endswith("set_grad_enabled") and given:
            state.grad = truth(given[0][1]) is not False
            return [(state, UNKNOWN)]
        where = Event(ctx.frame.path, node.where, ctx.frame.qualified)
        key = "built", ctx.frame.number, node.where, name
        values = self._foreigners.call(state, name, given, node, where, key)
        if values is not None:
            return [(state, values)]
        self.escape(state, given, name)
        return [(state, UNKNOWN)]

    def _export(self, ctx: Context, state: State, node: Call, name: str, given: Arguments) -> None:
        """A model is recorded as a graph, by itself or by one of its methods."""
        words = ("", lexicon.EXPORTS[name])
        values = next((v for n, v in given if n in words), UNKNOWN)
        bound = (v.owner for v in values if isinstance(v, Function) and v.owner is not None)
        things = [*(v for v in values if isinstance(v, Object)), *bound]
        if things and len(things) == len(values):
            self._machine.events.export(ctx, state, things, node.where)

    def _getattr(self, state: State, given: Arguments) -> Values:
        owner, name = given[0][1], given[1][1]
        texts = [v.value for v in name if isinstance(v, Plain) and isinstance(v.value, str)]
        if len(texts) != 1:
            return UNKNOWN
        return self._machine.expressions.attribute(state, owner, texts[0])

    def escape(self, state: State, given: Arguments, name: str = "?") -> None:
        """Models that are given to something unknown: it may switch them."""
        if lexicon.HARMLESS.search(name):
            return
        for _, values in given:
            for each in objects(values):
                self._heap.lose(state, each)


def _models_first(values: Values) -> list[Value]:
    """The things among values; the values in order where there is no thing.

    Something may be a model or, if a test had come out otherwise, a function: what is then done to
    it is done to the model.
    """
    every = sorted(values, key=repr)
    return [one for one in every if isinstance(one, Object)] or every
