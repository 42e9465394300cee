"""What a call does: functions are entered, classes built, models run, foreign code distrusted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dropaudit.static.program import library
from dropaudit.static.program.code import (
    Attribute,
    Call,
    Constant,
    Expression,
    Name,
    Span,
    dotted,
)
from dropaudit.static.program.events import Events
from dropaudit.static.program.facts import FunctionFacts
from dropaudit.static.program.foreign import Foreigners
from dropaudit.static.program.frames import Context
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Event,
    Foreign,
    Frame,
    Function,
    Group,
    ModeKind,
    Object,
    Origin,
    Plain,
    State,
    Step,
    Value,
    Values,
    objects,
    one,
    union,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine, Outcome

_DEEPEST = 12
_MODE_WORDS = frozenset(
    ["train", "eval", "no_grad", "inference_mode", "set_grad_enabled", *library.BACKWARD]
)
_LOADS = frozenset(
    ["load_state_dict", "load_weights", "load_checkpoint", "load_pretrained", "restore", "load"]
)
Arguments = list[tuple[str, Values]]  # by keyword; "" for a positional one, "*" and "**"


class Calling:
    """Calls, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap
        self._events = Events(machine.heap, machine.seen)
        self._foreigners = Foreigners(machine.heap)
        self._entered: set[FunctionRef] = set()
        self._outcomes: dict[object, list[Outcome]] = {}

    # -- entries ---------------------------------------------------------------------------

    def enter(self, ref: FunctionRef, entered: set[FunctionRef]) -> None:
        """Run a function that is given nothing known, or the code of a module.

        The functions that are run on the way are added to `entered`.
        """
        self._entered = entered
        self._outcomes.clear()
        resolver = self._machine.resolver
        facts = resolver.functions(ref.path)[ref.qualified]
        state = State()
        owner = None
        cls = self._machine.units.owner(ref) if facts.is_method else None
        if cls is not None:
            model = self._machine.layers.is_module(cls)
            origin = Origin(cls, model, "self", is_given=True)
            owner = self._heap.make(state, origin, "given", "self", ref)
        if ref.qualified:
            frame = self._frame(ref, facts, self._heap.number("entry", ref), owner, None)
        else:
            number = self._heap.number("module", ref.path)
            frame = Frame(number, ref.path, "", frozenset(facts.assigned), frozenset())
        ctx = self._context(Context(frame), frame, facts, None)
        self._run(ctx, state, facts)

    def _frame(
        self,
        ref: FunctionRef,
        facts: FunctionFacts,
        number: int,
        owner: Object | None,
        around: Frame | None,
    ) -> Frame:
        names = frozenset((*facts.assigned, *(p.name.lstrip("*") for p in facts.parameters)))
        elsewhere = frozenset(facts.elsewhere)
        return Frame(number, ref.path, ref.qualified, names, elsewhere, owner, around)

    def _context(
        self, ctx: Context, frame: Frame, facts: FunctionFacts, called_at: Span | None
    ) -> Context:
        """The context of a function that is entered."""
        grad_off, hidden = ctx.grad_off, ctx.hidden
        for decorator in facts.decorators:
            symbol = self._machine.resolver.resolve(frame.path, decorator) if decorator else None
            name = getattr(symbol, "dotted", decorator)
            if name in library.GRAD_OFF or decorator.endswith(("no_grad", "inference_mode")):
                grad_off = True
            elif isinstance(symbol, (FunctionRef, ClassRef)):
                hidden = hidden or self._may_switch(symbol)
            elif not library.PLAIN_DECORATORS.search(name or "?"):
                hidden = True
        trains = self._machine.units.trains(frame.ref)
        return Context(
            frame,
            (*ctx.chain, frame.ref),
            (*ctx.steps, Step(frame.path, frame.qualified, facts.where, called_at, trains)),
            grad_off,
            hidden,
            trains,
            trains,
            measures=not trains and self._machine.units.measures(frame.ref),
            held_out=not trains and ctx.held_out,
            loop_line=ctx.loop_line,
            guards=ctx.guards,
            phase=len(ctx.steps) if grad_off and not ctx.grad_off else ctx.phase,
        )

    def _may_switch(self, decorator: FunctionRef | ClassRef) -> bool:
        prefix = f"{decorator.qualified}."
        functions = self._machine.resolver.functions(decorator.path)
        inside = (
            f for n, f in functions.items() if n == decorator.qualified or n.startswith(prefix)
        )
        return any(f.calls & {"eval", "train"} for f in inside)

    def _run(self, ctx: Context, state: State, facts: FunctionFacts) -> list[Outcome]:
        from dropaudit.static.program.machine import Exits

        exits = Exits()
        ends = self._machine.block(ctx, [state], facts.body, exits)
        nothing = one(Plain(None))
        by_key: dict[object, Outcome] = {}
        outcomes = [*exits.returned, *((end, nothing) for end in ends)]
        for end, values in outcomes:  # what differs in the value alone is one outcome
            key = end.key()
            known = by_key.get(key)
            by_key[key] = (end, values if known is None else union(known[1], values))
        return list(by_key.values())

    # -- calls -----------------------------------------------------------------------------

    def call(self, ctx: Context, state: State, node: Call) -> list[Outcome]:
        """What a call gives, in each state in which it may end."""
        self._machine.tick(1)
        match node.function:
            case Attribute(Call(Name("super")), name):
                return self._super(ctx, state, node, name)
            case Attribute(inner, name):
                result: list[Outcome] = []
                for after, owners in self._machine.value(ctx, state, inner):
                    for ready, given in self._arguments(ctx, after, node):
                        result += self._method_of(ctx, ready, node, inner, owners, name, given)
                return result
        result = []
        for after, callees in self._machine.value(ctx, state, node.function):
            for ready, given in self._arguments(ctx, after, node):
                if not callees:
                    self._escape(ready, given)
                    result.append((ready, UNKNOWN))
                else:
                    result += self._any(ctx, ready, node, callees, given)
        return result

    def _arguments(self, ctx: Context, state: State, node: Call) -> list[tuple[State, Arguments]]:
        names = [one.name for one in node.arguments]
        outcomes = self._machine.values(ctx, state, [one.value for one in node.arguments])
        return [(after, list(zip(names, values, strict=True))) for after, values in outcomes]

    def _any(
        self, ctx: Context, state: State, node: Call, callees: Values, given: Arguments
    ) -> list[Outcome]:
        every = sorted(callees, key=repr)
        if all(isinstance(one, Object) for one in every):
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
                if library.OWN_WRAPPERS.search(ref.qualified) and given and objects(given[0][1]):
                    return [(state, given[0][1])]
                return self.function(ctx, state, callee, given, node.where)
            case Class(ref):
                return self._build(ctx, state, node, ref, given)
            case Object():
                return self._run_object(ctx, state, node, callee, given)
            case Foreign():
                return self._foreign(ctx, state, node, callee, given)
        return [(state, UNKNOWN)]

    def function(
        self, ctx: Context, state: State, callee: Function, given: Arguments, where: Span
    ) -> list[Outcome]:
        """Enter a function of the project."""
        ref = callee.ref
        facts = self._machine.resolver.functions(ref.path).get(ref.qualified)
        if facts is None or ref in ctx.chain or len(ctx.chain) >= _DEEPEST:
            self._escape(state, given)
            return [(state, UNKNOWN)]
        if not self._concerns(state, callee, given):
            return [(state, UNKNOWN)]
        self._entered.add(ref)
        number = self._heap.number("frame", ctx.frame.number, where, ref)
        frame = self._frame(ref, facts, number, callee.owner, callee.frame)
        state.rows.pop(number, None)
        self._pass(state, frame, facts, callee, [*callee.given, *given])
        inside = self._context(ctx, frame, facts, where)
        # the number of the frame stands for the whole way here: the same state ends the same
        memo = inside, state.key(), frozenset(state.rows.items())
        known = self._outcomes.get(memo)
        if known is None:
            ends = self._run(inside, state, facts)
            known = self._outcomes[memo] = [(after.copy(), values) for after, values in ends]
            return ends
        return [(after.deciding(state.decided), values) for after, values in known]

    def _concerns(self, state: State, callee: Function, given: Arguments) -> bool:
        """Whether a function is given a model, or may reach one by itself."""
        things = [each for _, values in (*callee.given, *given) for each in objects(values)]
        if callee.owner is not None:
            things.append(callee.owner)
        if any(number in state.modes for t in things for number in self._heap.family(state, t)):
            return True
        if callee.frame is not None and callee.frame.qualified:
            return True  # it sees the variables of the function around it
        return self._machine.units.matters(callee.ref)

    def _pass(
        self, state: State, frame: Frame, facts: FunctionFacts, callee: Function, given: Arguments
    ) -> None:
        """Bind parameters to arguments."""
        plain = [p for p in facts.parameters if not p.name.startswith("*") and not p.keyword_only]
        if facts.is_method and "staticmethod" not in facts.decorators and plain:
            first, *plain = plain
            if callee.owner is not None and "classmethod" not in facts.decorators:
                self._heap.store(state, frame.number, first.name, one(callee.owner))
            elif "classmethod" not in facts.decorators:
                plain = [first, *plain]  # called on the class: self is passed
        positional = [values for name, values in given if name == ""]
        spread = any(name in ("*", "**") for name, _ in given)
        named = {name: values for name, values in given if name not in ("", "*", "**")}
        for parameter, values in zip(plain, positional, strict=False):
            self._heap.store(state, frame.number, parameter.name, values)
        rest = plain[len(positional) :]
        rest += [p for p in facts.parameters if p.keyword_only and not p.name.startswith("*")]
        for parameter in rest:
            if parameter.name in named:
                values = named[parameter.name]
            elif spread or parameter.default is None:
                values = UNKNOWN
            else:
                values = _default(parameter.default)
            self._heap.store(state, frame.number, parameter.name, values)

    # -- methods ---------------------------------------------------------------------------

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
        if name in library.BACKWARD:
            self._events.backward(ctx, state, node.where)
            return [(state, UNKNOWN)]
        if not owners:
            self._escape(state, given, name)
            return [(state, UNKNOWN)]
        every = sorted(owners, key=repr)
        if not all(isinstance(owner, Object) for owner in every):
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
            return self._of_object(ctx, state, node, owner, name, given)
        if isinstance(owner, Group):
            return [(state, self._of_group(ctx, state, inner, owner, name, given))]
        callees = self._machine.attribute(state, one(owner), name)
        if not callees:
            self._escape(state, given, name)
            return [(state, UNKNOWN)]
        return self._any(ctx, state, node, callees, given)

    def _of_object(
        self, ctx: Context, state: State, node: Call, thing: Object, name: str, given: Arguments
    ) -> list[Outcome]:
        origin = self._heap.origins[thing.number]
        known = state.cell(thing.number, name)
        if known:
            return self._any(ctx, state, node, known, given)
        method = self._method_ref(origin, name)
        if name in ("train", "eval") and self._is_switch(origin, method, name, given):
            self._switch(ctx, state, thing, name, given, node.where)
            return [(state, one(thing))]
        if isinstance(method, FunctionRef):
            return self._own_method(ctx, state, node, thing, name, method, given)
        if name in library.SAME_METHODS:
            return [(state, one(thing))]
        if name in library.STEPS:
            self._events.step(ctx, state, node.where, origin.name)
            return self._closure(ctx, state, node, given)
        if name in _LOADS:
            self._heap.load(state, thing)
        elif self._heap.is_framework(origin.symbol) or not self._is_quiet(origin, name):
            for each in origin.holds:
                self._heap.lose(state, each)
            if self._heap.is_framework(origin.symbol):
                self._heap.lose(state, thing)
        if self._runs(state, thing, origin, name):
            self._events.forward(ctx, state, thing, node, _owner(node))
        wrapped = self._foreigners.wrapped(name, given)
        if wrapped is not None:
            return [(state, wrapped)]
        self._escape(state, given, name)
        return [(state, UNKNOWN)]

    def _method_ref(self, origin: Origin, name: str) -> FunctionRef | External | None:
        if isinstance(origin.symbol, ClassRef):
            return self._machine.resolver.method(origin.symbol, name)
        return None

    def _is_switch(
        self,
        origin: Origin,
        method: FunctionRef | External | None,
        name: str,
        given: Arguments,
    ) -> bool:
        """Whether `.train(...)` or `.eval()` is that of a module."""
        if len(given) > (name == "train") or any(n not in ("", "mode") for n, _ in given):
            return False
        if isinstance(method, FunctionRef):
            facts = self._machine.resolver.function_facts(method)
            own = origin.is_model and bool(facts.calls & {"super", "train"})
            return own and not facts.calls & library.BACKWARD
        return origin.is_model or not isinstance(origin.symbol, (ClassRef, External))

    def _switch(
        self,
        ctx: Context,
        state: State,
        thing: Object,
        name: str,
        given: Arguments,
        where: Span,
    ) -> None:
        from dropaudit.static.program.machine import truth

        on: bool | None = name == "train"
        if given:
            on = truth(given[0][1])
        kind: ModeKind = "unknown" if on is None else "train" if on else "eval"
        if self._heap.is_framework(self._heap.origins[thing.number].symbol):
            kind = "unknown"
        event = Event(ctx.frame.path, where, ctx.frame.qualified)
        at_end = kind == "eval" and any(library.LAST_BATCH.search(text) for text in ctx.guards)
        self._heap.switch(state, thing, kind, None if at_end else event)

    def _own_method(
        self,
        ctx: Context,
        state: State,
        node: Call,
        thing: Object,
        name: str,
        method: FunctionRef,
        given: Arguments,
    ) -> list[Outcome]:
        """A method that the project defines."""
        facts = self._machine.resolver.function_facts(method)
        if self._heap.is_model(thing):
            if name in ("forward", "__call__"):
                self._events.forward(ctx, state, thing, node, _owner(node))
                return [(state, UNKNOWN)]
            if not facts.calls & _MODE_WORDS:
                if library.NOT_FORWARD.search(name):
                    return [(state, UNKNOWN)]
                if self._uses_layers(thing, facts):
                    self._events.forward(ctx, state, thing, node, _owner(node))
                    return [(state, UNKNOWN)]
        return self.function(ctx, state, Function(method, thing), given, node.where)

    def _uses_layers(self, thing: Object, facts: FunctionFacts) -> bool:
        """Whether a method runs the model, or something that the model holds."""
        if facts.calls & {"forward", "self"}:
            return True
        symbol = self._heap.origins[thing.number].symbol
        if not isinstance(symbol, ClassRef):
            return False
        return any(
            held.name in facts.calls
            for ref in self._machine.resolver.lineage(symbol)
            if isinstance(ref, ClassRef)
            for held in self._machine.resolver.class_facts(ref).held
        )

    def _runs(self, state: State, thing: Object, origin: Origin, name: str) -> bool:
        """Whether a method that the project does not define runs the model."""
        if name == "forward":
            return True
        mode = self._heap.mode(state, thing.number)
        if mode is None or library.NOT_FORWARD.search(name):
            return False
        return origin.is_model or mode.kind in ("train", "eval")

    def _is_quiet(self, origin: Origin, name: str) -> bool:
        """Whether a foreign thing leaves the models alone that it was built with."""
        symbol = origin.symbol
        if isinstance(symbol, External) and library.OPTIMIZER_LIKE.search(symbol.dotted):
            return True
        return bool(library.HARMLESS.search(name)) or name in _LOADS

    def _closure(self, ctx: Context, state: State, node: Call, given: Arguments) -> list[Outcome]:
        """`optimizer.step(closure)` calls what it is given."""
        for _, values in given:
            for value in values:
                if isinstance(value, Function):
                    ends = self.function(ctx, state, value, [], node.where)
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

    def _super(self, ctx: Context, state: State, node: Call, name: str) -> list[Outcome]:
        """`super().name(...)`: the method of a base, for the same object."""
        owner = ctx.frame.owner
        cls = self._machine.units.owner(ctx.frame.ref)
        result: list[Outcome] = []
        for ready, given in self._arguments(ctx, state, node):
            method = None
            if owner is not None and cls is not None:
                bases = self._machine.resolver.lineage(cls)[1:]
                found = (
                    self._machine.resolver.method(b, name) for b in bases if isinstance(b, ClassRef)
                )
                method = next((m for m in found if isinstance(m, FunctionRef)), None)
            if owner is not None and name in ("train", "eval") and self._heap.is_model(owner):
                self._switch(ctx, ready, owner, name, given, node.where)
                result.append((ready, one(owner)))
            elif method is not None and owner is not None and not self._heap.is_model(owner):
                callee = Function(method, owner)
                result += self.function(ctx, ready, callee, given, node.where)
            else:
                result.append((ready, UNKNOWN))
        return result

    # -- things ----------------------------------------------------------------------------

    def member(self, state: State, owner: Object, name: str) -> Values:
        """`owner.name`, for reading."""
        found = state.cell(owner.number, name)
        if found:
            return found
        origin = self._heap.origins[owner.number]
        if name in library.SAME_ATTRIBUTES and not isinstance(origin.symbol, ClassRef):
            return one(owner)
        if name == "training":
            mode = self._heap.mode(state, owner.number)
            known = mode is not None and mode.kind in ("train", "eval")
            return one(Plain(mode is not None and mode.kind == "train")) if known else UNKNOWN
        method = self._method_ref(origin, name)
        if isinstance(method, FunctionRef):
            facts = self._machine.resolver.function_facts(method)
            if any(d.endswith("property") for d in facts.decorators):
                return UNKNOWN
            return one(Function(method, owner))
        return self._heap.someone(state, owner.number, name)

    def _build(
        self, ctx: Context, state: State, node: Call, ref: ClassRef, given: Arguments
    ) -> list[Outcome]:
        """An instance of a class of the project."""
        holds = tuple(each for _, values in given for each in objects(values))
        model = self._machine.layers.is_module(ref)
        framework = self._heap.is_framework(ref)
        method = self._machine.resolver.method(ref, "__init__")
        init = method if isinstance(method, FunctionRef) else None
        where = Event(ctx.frame.path, node.where, ctx.frame.qualified)
        rates = self._rates(init, given, node)
        origin = Origin(ref, model, "", where, None, rates, False, holds if model else ())
        key = "built", ctx.frame.number, node.where, ref
        if model:
            kind: ModeKind | None = "unknown" if framework else "train"
            if not holds and not self._machine.layers.may_act_by_mode(ref):
                kind = None  # its mode changes nothing
            thing = self._heap.make(state, origin, kind, *key)
            if kind and init is not None and self._ends_in_eval(init):
                self._switch(ctx, state, thing, "eval", [], node.where)
            return [(state, one(thing))]
        if framework:
            thing = self._heap.make(state, replace(origin, holds=holds), None, *key)
            return [(state, one(thing))]
        thing = self._heap.make(state, origin, None, *key)
        if init is None:
            for name, values in given:
                if name not in ("", "*", "**"):
                    self._heap.store(state, thing.number, name, values)
            return [(state, one(thing))]
        ends = self.function(ctx, state, Function(init, thing), given, node.where)
        return [(after, one(thing)) for after, _ in ends]

    def _ends_in_eval(self, init: FunctionRef) -> bool:
        facts = self._machine.resolver.function_facts(init)
        return "eval" in facts.calls and b'"self"],"eval"]' in facts.text.encode()

    def _rates(self, init: FunctionRef | None, given: Arguments, node: Call) -> frozenset[str]:
        """The parameters of a constructor that are given something but zero."""
        names = []
        if init is not None:
            facts = self._machine.resolver.function_facts(init)
            names = [p.name for p in facts.parameters if not p.keyword_only][1:]
        found: set[str] = set()
        for position, ((name, _), argument) in enumerate(zip(given, node.arguments, strict=True)):
            if argument.value in (Constant(0), Constant(0.0), Constant(None)):
                continue
            if name:
                found.add(name)
            elif position < len(names):
                found.add(names[position])
        return frozenset(found)

    def _run_object(
        self, ctx: Context, state: State, node: Call, thing: Object, given: Arguments
    ) -> list[Outcome]:
        """`thing(...)`."""
        origin = self._heap.origins[thing.number]
        if isinstance(origin.symbol, ClassRef) and not origin.is_model:
            method = self._method_ref(origin, "__call__")
            if isinstance(method, FunctionRef):
                return self.function(ctx, state, Function(method, thing), given, node.where)
        self._events.forward(ctx, state, thing, node, dotted(node.function))
        self._escape(state, given)
        return [(state, UNKNOWN)]

    def _foreign(
        self, ctx: Context, state: State, node: Call, callee: Foreign, given: Arguments
    ) -> list[Outcome]:
        name = callee.dotted
        last = name.rpartition(".")[2]
        if last in library.BACKWARD:
            self._events.backward(ctx, state, node.where)
            return [(state, UNKNOWN)]
        if last in library.STEPS:
            self._events.step(ctx, state, node.where, name)
            return self._closure(ctx, state, node, given)
        if name in library.EXPORTS:
            self._export(ctx, state, node, name, given)
        if name == "getattr" and len(given) >= 2:
            return [(state, self._getattr(state, given))]
        if name.endswith("set_grad_enabled") and given:
            from dropaudit.static.program.machine import truth

            state.grad = truth(given[0][1]) is not False
            return [(state, UNKNOWN)]
        where = Event(ctx.frame.path, node.where, ctx.frame.qualified)
        key = "built", ctx.frame.number, node.where, name
        values = self._foreigners.call(state, name, given, node, where, key)
        if values is not None:
            return [(state, values)]
        self._escape(state, given, name)
        return [(state, UNKNOWN)]

    def _export(self, ctx: Context, state: State, node: Call, name: str, given: Arguments) -> None:
        """A model is recorded as a graph, by itself or by one of its methods."""
        words = ("", library.EXPORTS[name])
        values = next((v for n, v in given if n in words), UNKNOWN)
        bound = (v.owner for v in values if isinstance(v, Function) and v.owner is not None)
        things = [*(v for v in values if isinstance(v, Object)), *bound]
        if things and len(things) == len(values):
            self._events.export(ctx, state, things, node.where)

    def _getattr(self, state: State, given: Arguments) -> Values:
        owner, name = given[0][1], given[1][1]
        texts = [v.value for v in name if isinstance(v, Plain) and isinstance(v.value, str)]
        if len(texts) != 1:
            return UNKNOWN
        return self._machine.attribute(state, owner, texts[0])

    def _escape(self, state: State, given: Arguments, name: str = "?") -> None:
        """Models that are given to something unknown: it may switch them."""
        if library.HARMLESS.search(name):
            return
        for _, values in given:
            for each in objects(values):
                self._heap.lose(state, each)


def _owner(node: Call) -> str:
    """How the owner of a method that is called is written."""
    return dotted(node.function.value) if isinstance(node.function, Attribute) else ""


def _default(node: Expression) -> Values:
    return one(Plain(node.value)) if isinstance(node, Constant) else UNKNOWN
