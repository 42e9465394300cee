"""Functions of the project: entered with what they are given, remembered by what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import (
    Constant,
    Expression,
    Span,
)
from dropaudit.static.program.computing import truth
from dropaudit.static.program.facts import FunctionFacts
from dropaudit.static.program.frames import Arguments, Context, Exits, Outcome
from dropaudit.static.program.resolve import ClassRef, FunctionRef
from dropaudit.static.program.settled import Settled
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Frame,
    Function,
    Object,
    Origin,
    Plain,
    State,
    Step,
    Values,
    objects,
    one,
    union,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine

_DEEPEST = 12


class Functions:
    """Runs functions, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap
        self._entered: set[FunctionRef] = set()
        self._outcomes: dict[object, list[Outcome]] = {}
        self._around: dict[str, frozenset[str]] = {}

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
            if owner is not None:
                self._receive(state, frame, facts, Function(ref, owner))
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
        self,
        ctx: Context,
        frame: Frame,
        facts: FunctionFacts,
        called_at: Span | None,
        settled: Settled = frozenset(),
    ) -> Context:
        """The context of a function that is entered."""
        grad_off, hidden = ctx.grad_off, ctx.hidden
        for decorator in facts.decorators:
            symbol = self._machine.resolver.resolve(frame.path, decorator) if decorator else None
            name = getattr(symbol, "dotted", decorator)
            if name in lexicon.GRAD_OFF or decorator.endswith(("no_grad", "inference_mode")):
                grad_off = True
            elif isinstance(symbol, (FunctionRef, ClassRef)):
                hidden = hidden or self._may_switch(symbol)
            elif not lexicon.PLAIN_DECORATORS.search(name or "?"):
                hidden = True
        units = self._machine.units
        trains = units.trains_if(frame.ref, settled)
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
            settled=settled,
            told=not trains and units.trains(frame.ref),
        )

    def _may_switch(self, decorator: FunctionRef | ClassRef) -> bool:
        prefix = f"{decorator.qualified}."
        functions = self._machine.resolver.functions(decorator.path)
        inside = (
            f for n, f in functions.items() if n == decorator.qualified or n.startswith(prefix)
        )
        return any(f.calls & {"eval", "train"} for f in inside)

    def _run(self, ctx: Context, state: State, facts: FunctionFacts) -> list[Outcome]:
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

    def call(
        self, ctx: Context, state: State, callee: Function, given: Arguments, where: Span
    ) -> list[Outcome]:
        """Enter a function of the project."""
        ref = callee.ref
        facts = self._machine.resolver.functions(ref.path).get(ref.qualified)
        if facts is None or ref in ctx.chain or len(ctx.chain) >= _DEEPEST:
            self._machine.calls.escape(state, given)
            return [(state, UNKNOWN)]
        if not self._concerns(state, callee, given):
            return [(state, UNKNOWN)]
        self._entered.add(ref)
        number = self._heap.number("frame", ctx.frame.number, where, ref)
        frame = self._frame(ref, facts, number, callee.owner, callee.frame)
        state.rows.pop(number, None)
        self._pass(state, frame, facts, callee, [*callee.given, *given])
        inside = self._context(ctx, frame, facts, where, _settled(state, frame, facts))
        # the number of the frame stands for the whole way here: the same state ends the same
        memo = inside, state.key(), frozenset(state.rows.items())
        known = self._outcomes.get(memo)
        decided = dict(state.decided)  # loops in there forget what was decided around them
        if known is None:
            ends = self._run(inside, state, facts)
            if not self._has_inner(ref):  # nobody can read its variables any more
                for after, _ in ends:
                    after.rows.pop(number, None)
            known = self._outcomes[memo] = [(after.copy(), values) for after, values in ends]
        return [(after.deciding(decided), values) for after, values in known]

    def _has_inner(self, ref: FunctionRef) -> bool:
        """Whether functions are defined in a function, which keep its variables."""
        if ref.path not in self._around:
            names = self._machine.resolver.functions(ref.path)
            self._around[ref.path] = frozenset(name.rpartition(".")[0] for name in names)
        return ref.qualified in self._around[ref.path]

    def _concerns(self, state: State, callee: Function, given: Arguments) -> bool:
        """Whether a function is given a model, or may reach one by itself."""
        things = [each for _, values in (*callee.given, *given) for each in objects(values)]
        if callee.owner is not None:
            things.append(callee.owner)
        if any(number in state.modes for t in things for number in self._heap.family(state, t)):
            return True
        if callee.frame is not None and callee.frame.qualified:
            return True  # it sees the variables of the function around it
        passed = (v for _, values in given for v in values if isinstance(v, Function))
        if any(self._concerns(state, one, []) for one in passed):
            return True
        if callee.owner is not None:
            symbol = self._heap.origins[callee.owner.number].symbol
            if isinstance(symbol, ClassRef) and symbol != self._machine.units.owner(callee.ref):
                return self._machine.units.some_method_matters(symbol)  # may be called for it
        return self._machine.units.matters(callee.ref)

    def _pass(
        self, state: State, frame: Frame, facts: FunctionFacts, callee: Function, given: Arguments
    ) -> None:
        """Bind parameters to arguments."""
        plain = [p for p in facts.parameters if not p.name.startswith("*") and not p.keyword_only]
        if plain and self._receive(state, frame, facts, callee):
            del plain[0]
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

    def _receive(self, state: State, frame: Frame, facts: FunctionFacts, callee: Function) -> bool:
        """Bind `self` or `cls`; False where there is none, or where it is passed as any other."""
        if not facts.is_method or not facts.parameters or "staticmethod" in facts.decorators:
            return False
        own = UNKNOWN
        if "classmethod" in facts.decorators:
            cls = self._class_of(callee)
            own = UNKNOWN if cls is None else one(Class(cls))
        elif callee.owner is not None:
            own = one(callee.owner)
        else:
            return False  # called on the class
        self._heap.store(state, frame.number, facts.parameters[0].name, own)
        return True

    def _class_of(self, callee: Function) -> ClassRef | None:
        """What `cls` stands for in a class method."""
        if callee.owner is None:
            return callee.cls
        symbol = self._heap.origins[callee.owner.number].symbol
        return symbol if isinstance(symbol, ClassRef) else None


def _settled(state: State, frame: Frame, facts: FunctionFacts) -> Settled:
    """The parameters that are known to be true or false, and that the function leaves so."""
    found = (
        (name, truth(values))
        for name, values in state.row(frame.number).items()
        if name not in facts.assigned
    )
    return frozenset((name, known) for name, known in found if known is not None)


def _default(node: Expression) -> Values:
    return one(Plain(node.value)) if isinstance(node, Constant) else UNKNOWN
