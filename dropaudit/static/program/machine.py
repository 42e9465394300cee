"""An interpreter of programs that knows nothing but models and their modes.

It follows every path of every function that is worth it: calls are entered, branches split where
the modes differ, loops run until nothing changes. Values that it cannot know are unknown, and what
an unknown function does to a model that it is given makes that model's mode unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from dropaudit.static.program import lexicon
from dropaudit.static.program.calling import Calling
from dropaudit.static.program.classes import Classes
from dropaudit.static.program.code import (
    Assign,
    Attribute,
    Call,
    Constant,
    Define,
    Do,
    Each,
    Element,
    Expression,
    If,
    Import,
    Leave,
    Loop,
    Mix,
    Name,
    Return,
    Several,
    Statement,
    Try,
    With,
    dotted,
)
from dropaudit.static.program.computing import elements, truth, unpacked
from dropaudit.static.program.events import Events
from dropaudit.static.program.expressions import Expressions
from dropaudit.static.program.frames import Context, Exits
from dropaudit.static.program.functions import Functions
from dropaudit.static.program.heap import Heap
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.methods import Methods
from dropaudit.static.program.resolve import ClassRef, FunctionRef, Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.program.units import Units
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Frame,
    Function,
    Group,
    Object,
    Plain,
    State,
    Values,
    merged,
    objects,
    one,
    union,
)
from dropaudit.static.record import Options

_STATEMENTS = 60_000  # of one entry, those in functions that it calls included
_ROUNDS = 3  # of a loop
_UNROLLED = 6  # elements of a container that a loop takes one by one


class TooLong(Exception):
    """A program takes more statements than the interpreter has patience for."""


class Machine:
    """Statements. Expressions, calls, functions, classes and methods have a class each.

    What things are is in `heap`, what happens to them is told to `events`.
    """

    def __init__(self, resolver: Resolver, options: Options) -> None:
        self.resolver = resolver
        self.layers = Layers(resolver)
        self.units = Units(resolver, self.layers)
        self.heap = Heap(resolver, self.layers, options)
        self.seen = Sightings()
        self.events = Events(self.heap, self.seen)
        self.expressions = Expressions(self)
        self.calls = Calling(self)
        self.functions = Functions(self)
        self.classes = Classes(self)
        self.methods = Methods(self)
        self.entered: set[FunctionRef] = set()  # functions that were run from others, to the end
        self.statements = 0
        self._left = 0
        self._hopeless: dict[str, int] = {}  # entries that took too long, by file

    def run(self, ref: FunctionRef) -> None:
        """Interpret a function of which nothing is known that is passed to it, or a module."""
        impatience = self._hopeless.get(ref.path, 0)
        allowed = self._left = _STATEMENTS >> min(impatience, 5)
        before = self.seen.mark()
        entered: set[FunctionRef] = set()
        try:
            self.functions.enter(ref, entered)
        except TooLong:
            self.seen.keep_doubts(before)
            self.seen.given_up[f"{ref.path}:{ref.qualified}"] = None
            self._hopeless[ref.path] = impatience + 1
        else:
            self.entered |= entered
        self.statements += allowed - self._left

    def tick(self, states: int) -> None:
        """Count a statement in so many states; raises `TooLong` when there were too many."""
        self._left -= states
        if self._left < 0:
            raise TooLong

    # -- statements ------------------------------------------------------------------------

    def block(
        self, ctx: Context, states: list[State], body: Iterable[Statement], exits: Exits
    ) -> list[State]:
        """The states after `body`."""
        for statement in body:
            if not states:
                break
            self.tick(len(states))
            after = self._statement(ctx, states, statement, exits)
            grown = len(after) > len(states) or isinstance(statement, (If, Loop, Try, With))
            states = merged(after) if grown else after
        return states

    def _statement(
        self, ctx: Context, states: list[State], statement: Statement, exits: Exits
    ) -> list[State]:
        match statement:
            case Do(value):
                if isinstance(value, Call) and dotted(value.function) in lexicon.EXITS:
                    return []
                return [
                    after
                    for state in states
                    for after, _ in self.expressions.value(ctx, state, value)
                ]
            case Assign(targets, value):
                return self._assign(ctx, states, targets, value)
            case Return(value):
                for state in states:
                    if value is None:
                        exits.returned.append((state, one(Plain(None))))
                    else:
                        exits.returned.extend(self.expressions.value(ctx, state, value))
                return []
            case If():
                return self._if(ctx, states, statement, exits)
            case Loop():
                return self._loop(ctx, states, statement, exits)
            case With():
                return self._with(ctx, states, statement, exits)
            case Try(body, handlers, orelse, final):
                start = [state.copy() for state in states]
                after = self.block(ctx, states, body, exits)
                caught = after or start
                ends = self.block(ctx, [s.copy() for s in after], orelse, exits)
                for handler in handlers:
                    ends += self.block(ctx, [s.copy() for s in caught], handler, exits)
                ends = merged(ends)
                if final:
                    ends = self.block(ctx, ends, final, exits)
                    exits.returned = [
                        (after, value)
                        for state, value in exits.returned
                        for after in self.block(ctx, [state], final, Exits())
                    ]
                return ends
            case Leave(how):
                if how == "break":
                    exits.broken.extend(states)
                elif how == "continue":
                    exits.continued.extend(states)
                return []
            case Define(name, qualified, is_class):
                path = ctx.frame.path
                defined = (
                    one(Class(ClassRef(path, qualified)))
                    if is_class
                    else one(Function(FunctionRef(path, qualified), frame=ctx.frame))
                )
                for state in states:
                    state.put(ctx.frame.number, name, defined)
                return states
            case Import(name, imported):
                symbol = self.resolver.imported(ctx.frame.path, imported)
                for state in states:
                    state.put(ctx.frame.number, name, self.heap.symbol_value(symbol))
                return states
        return states

    def _assign(
        self,
        ctx: Context,
        states: list[State],
        targets: tuple[Expression, ...],
        value: Expression,
    ) -> list[State]:
        result: list[State] = []
        for state in states:
            for after, values in self.expressions.value(ctx, state, value):
                for target in targets:
                    self.bind(ctx, after, target, values)
                result.append(after)
        return result

    def bind(self, ctx: Context, state: State, target: Expression, values: Values) -> None:
        """Give `target` what was computed; a thing without a name is called by it."""
        match target:
            case Name(name):
                number = ctx.frame.number
                if name in ctx.frame.elsewhere:
                    number = self._owner_of_name(ctx.frame, name)
                self.heap.store(state, number, name, values)
            case Attribute(owner, name):
                owners = objects(self.expressions.read(ctx, state, owner))
                if name == "training":
                    for each in owners:
                        self.heap.lose(state, each)
                elif len(owners) == 1:
                    self.heap.store(state, owners[0].number, name, values)
                else:
                    for each in owners:
                        known = state.cell(each.number, name) or UNKNOWN
                        state.put(each.number, name, union(known, values))
            case Several(items):
                parts = unpacked(values, len(items))
                for item, part in zip(items, parts, strict=True):
                    self.bind(ctx, state, item, part)
            case Element(container):
                held = self.expressions.read(ctx, state, container)
                groups = [v for v in held if isinstance(v, Group)]
                if len(held) == len(groups) == 1:
                    grown = one(Group((*groups[0].items, values)))
                    self.bind(ctx, state, container, grown if values else UNKNOWN)

    def _owner_of_name(self, frame: Frame, name: str) -> int:
        """The variables in which a `global` or `nonlocal` name lives."""
        around = frame.around
        while around is not None:
            if name in around.names and around.qualified:
                return around.number
            around = around.around
        return self.heap.number("module", frame.path)

    def _if(self, ctx: Context, states: list[State], node: If, exits: Exits) -> list[State]:
        result: list[State] = []
        key = ctx.frame.number, node.text
        inside = replace(ctx, guards=(*ctx.guards, node.text))
        for state in states:
            for after, values in self.expressions.value(ctx, state, node.test):
                known = truth(values)
                if known is None:
                    known = after.decided.get(key)
                if known is not None:
                    if known:
                        result += self.block(inside, [after], node.body, exits)
                    else:
                        result += self.block(ctx, [after], node.orelse, exits)
                    continue
                yes, no = after.copy(), after
                yes.decided[key], no.decided[key] = True, False
                result += self.block(inside, [yes], node.body, exits)
                result += self.block(ctx, [no], node.orelse, exits)
        return result

    def _loop(self, ctx: Context, states: list[State], node: Loop, exits: Exits) -> list[State]:
        inside = replace(self.loop_context(ctx, node), loop_line=node.line, loop_top=node.top)
        if node.target is not None:
            unrolled = self._unrolled(ctx, states, node)
            if unrolled is not None:
                return self._each_element(inside, unrolled, node, exits)
        started: list[State] = []
        for state in states:
            for after, values in self.expressions.value(ctx, state, node.source):
                if node.target is not None:
                    self.bind(ctx, after, node.target, elements(values))
                started.append(after)
        ends: list[State] = []
        current = merged(started)
        seen: set[object] = set()
        for _ in range(_ROUNDS):
            seen.update(state.key() for state in current)
            mine = Exits(returned=exits.returned)
            for state in current:
                self._undecide(inside, state, node)
                if inside.trains:  # what was called before is not what this round trains
                    state.pending = {n: m for n, m in state.pending.items() if m.kind != "eval"}
                if node.target is not None:
                    self._forget(inside, state, node.target)
            after_body = self.block(inside, [s.copy() for s in current], node.body, mine)
            current = merged([*after_body, *mine.continued])
            ends += [s.copy() for s in current]
            ends += mine.broken
            if all(state.key() in seen for state in current):
                break
        ends = merged(ends)
        return self.block(ctx, ends, node.orelse, exits) if node.orelse else ends

    def _undecide(self, ctx: Context, state: State, node: Loop) -> None:
        """Keep what a test decided only where nothing in the loop can decide it otherwise."""
        assigned = self.units.loop_assigns(node, ctx.frame.ref)
        state.decided = {
            (number, text): decided
            for (number, text), decided in state.decided.items()
            if number == ctx.frame.number and is_settled(text, assigned)
        }

    def _forget(self, ctx: Context, state: State, target: Expression) -> None:
        """An unknown loop variable is another thing in each round."""
        for name in _names(target):
            if not state.cell(ctx.frame.number, name):
                self.heap.store(state, ctx.frame.number, name, UNKNOWN)

    def _unrolled(
        self, ctx: Context, states: list[State], node: Loop
    ) -> list[tuple[State, list[Values]]] | None:
        """The elements of a short container of objects, for a loop to take one by one."""
        found: list[tuple[State, list[Values]]] = []
        for state in states:
            values = self.expressions.peek(ctx, state, node.source)
            groups = [v for v in values if isinstance(v, Group)]
            if len(groups) != 1 or len(values) != 1 or len(groups[0].items) > _UNROLLED:
                return None
            if not any(objects(item) for item in groups[0].items):
                return None
            found.append((state, list(groups[0].items)))
        return found

    def _each_element(
        self, ctx: Context, started: list[tuple[State, list[Values]]], node: Loop, exits: Exits
    ) -> list[State]:
        ends: list[State] = []
        for state, items in started:
            current = [state]
            for item in items:
                mine = Exits(returned=exits.returned)
                for each in current:
                    assert node.target is not None
                    self.bind(ctx, each, node.target, item)
                current = merged([*self.block(ctx, current, node.body, mine), *mine.continued])
                ends += mine.broken
            ends += current
        return merged(ends)

    def loop_context(self, ctx: Context, node: Loop | Each) -> Context:
        """What holds inside of a loop, or of a comprehension."""
        held_out = ctx.held_out or any(lexicon.HELD_OUT.search(w) for w in _written(node.source))
        trains = self.units.loop_trains(node, ctx.frame.ref, ctx.settled)
        return replace(
            ctx,
            trains=trains,
            held_out=held_out and not trains,
            measures=not trains and (ctx.measures or self.units.measures(ctx.frame.ref, node)),
        )

    def _with(self, ctx: Context, states: list[State], node: With, exits: Exits) -> list[State]:
        inside = ctx
        restored: list[Object] = []
        for value, target in node.items:
            states, entered, hidden = self._enter(inside, states, value, target)
            if entered and not inside.grad_off:
                inside = replace(inside, grad_off=True, phase=len(ctx.steps) - 1)
            restored += hidden
        if not restored:
            return self.block(inside, states, node.body, exits)
        result: list[State] = []
        for state in states:  # a context that is given a model may switch it, and back
            before = dict(state.modes)
            numbers = [n for each in restored for n in self.heap.family(state, each)]
            for each in restored:
                self.heap.lose(state, each)
            for after in self.block(inside, [state], node.body, exits):
                for number in numbers:
                    if number in before:
                        after.modes[number] = before[number]
                    else:
                        after.modes.pop(number, None)
                result.append(after)
        return result

    def _enter(
        self, ctx: Context, states: list[State], value: Expression, target: Expression | None
    ) -> tuple[list[State], bool, list[Object]]:
        """The states inside of a context, whether it turns gradients off, whom it may switch."""
        function = value.function if isinstance(value, Call) else value
        symbol = self.resolver.resolve(ctx.frame.path, dotted(function)) if function else None
        name = getattr(symbol, "dotted", dotted(function))
        off = name in lexicon.GRAD_OFF or name.rpartition(".")[2] in (
            "no_grad",
            "inference_mode",
        )
        if name.rpartition(".")[2] == "set_grad_enabled" and isinstance(value, Call):
            off = value.arguments[:1] != () and value.arguments[0].value == Constant(False)
        given: list[Object] = []
        result: list[State] = []
        for state in states:
            if isinstance(value, Call) and not off:
                arguments = (self.expressions.peek(ctx, state, a.value) for a in value.arguments)
                given += [each for values in arguments for each in objects(values)]
                if isinstance(function, Attribute):
                    given += objects(self.expressions.peek(ctx, state, function.value))
            known = symbol is None or not lexicon.HARMLESS.search(name)
            if isinstance(value, Call) and given and known:
                outcomes = [(state, UNKNOWN)]
            else:
                outcomes = (
                    self.expressions.value(ctx, state, value) if not off else [(state, UNKNOWN)]
                )
            for after, values in outcomes:
                if target is not None:
                    self.bind(ctx, after, target, values)
                result.append(after)
        models = [each for each in given if any(self.heap.mode(s, each.number) for s in result)]
        keeps = name.rpartition(".")[2] in ("no_sync", "accumulate", "autocast", "join", "summon")
        return result, off, [] if keeps else models


_READ = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*(?:\.\w+)*")


def is_settled(text: str, assigned: frozenset[str]) -> bool:
    """Whether a test gives the same answer each time, if only `assigned` names change.

    >>> is_settled("args.amp and not fast", frozenset({"step"}))
    True
    >>> is_settled("step % 100 == 0", frozenset({"step"})), is_settled("ready()", frozenset())
    (False, False)
    """
    if "(" in text:
        return False
    for name in _READ.findall(text):
        parts = name.split(".")
        if any(".".join(parts[:count]) in assigned for count in range(1, len(parts) + 1)):
            return False
    return True


def _names(target: Expression) -> list[str]:
    match target:
        case Name(name):
            return [name]
        case Several(items):
            return [name for item in items for name in _names(item)]
    return []


def _written(node: Expression) -> list[str]:
    """The names in the source of a loop: of the loader, through `enumerate` and `tqdm`."""
    match node:
        case Name(name):
            return [name]
        case Attribute(inner, name):
            return [*_written(inner), name]
        case Call(function, arguments):
            inside = [w for one in arguments for w in _written(one.value)]
            return [*_written(function), *inside]
        case Element(inner):
            return _written(inner)
        case Several(items) | Mix(items):
            return [w for item in items for w in _written(item)]
    return []
