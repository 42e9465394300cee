"""Methods of things: switches of the mode, forward passes, methods that the project defines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import (
    Attribute,
    Call,
    Name,
    Return,
    Span,
    dotted,
)
from dropaudit.static.program.computing import truth
from dropaudit.static.program.facts import FunctionFacts
from dropaudit.static.program.foreign import Foreigners
from dropaudit.static.program.frames import Arguments, Context, Outcome
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef
from dropaudit.static.program.values import (
    UNKNOWN,
    Event,
    Function,
    ModeKind,
    Object,
    Origin,
    Plain,
    State,
    Values,
    one,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine

_MODE_WORDS = frozenset(
    ["train", "eval", "no_grad", "inference_mode", "set_grad_enabled", *lexicon.BACKWARD]
)
LOADS = frozenset(
    ["load_state_dict", "load_weights", "load_checkpoint", "load_pretrained", "restore", "load"]
)


class Methods:
    """Calls methods and reads attributes, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap
        self._foreigners = Foreigners(machine.heap)

    def call(
        self, ctx: Context, state: State, node: Call, thing: Object, name: str, given: Arguments
    ) -> list[Outcome]:
        origin = self._heap.origins[thing.number]
        known = state.cell(thing.number, name)
        if known:
            return self._machine.calls.any(ctx, state, node, known, given)
        method = self.find(origin, name)
        if name in ("train", "eval") and self._is_switch(origin, method, name, given):
            self.switch(ctx, state, thing, name, given, node.where)
            return [(state, one(thing))]
        if isinstance(method, FunctionRef):
            if self._is_property(method):
                found = self.member(state, thing, name)
                if found:
                    return self._machine.calls.any(ctx, state, node, found, given)
                self._machine.calls.escape(state, given)
                return [(state, UNKNOWN)]
            return self._own_method(ctx, state, node, thing, name, method, given)
        if self._heap.is_attribute(state, thing, name):
            attribute = self._heap.someone(state, thing.number, name)
            return self._machine.calls.any(ctx, state, node, attribute, given)
        if name in lexicon.SAME_METHODS:
            return [(state, one(thing))]
        if name in lexicon.STEPS:
            self._machine.events.step(ctx, state, node.where, origin.name)
            return self._machine.calls.closure(ctx, state, node, given)
        if name in LOADS:
            self._heap.load(state, thing)
        elif self._heap.is_framework(origin.symbol) or not self._is_quiet(origin, name):
            for each in origin.holds:
                self._heap.lose(state, each)
            if self._heap.is_framework(origin.symbol):
                self._heap.lose(state, thing)
        if self._runs(state, thing, origin, name):
            self._machine.events.forward(ctx, state, thing, node, _owner(node))
        wrapped = self._foreigners.wrapped(name, given)
        if wrapped is not None:
            return [(state, wrapped)]
        self._machine.calls.escape(state, given, name)
        return [(state, UNKNOWN)]

    def find(self, origin: Origin, name: str) -> FunctionRef | External | None:
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
            return own and not facts.calls & lexicon.BACKWARD
        return origin.is_model or not isinstance(origin.symbol, (ClassRef, External))

    def switch(
        self,
        ctx: Context,
        state: State,
        thing: Object,
        name: str,
        given: Arguments,
        where: Span,
    ) -> None:
        on: bool | None = name == "train"
        if given:
            on = truth(given[0][1])
        kind: ModeKind = "unknown" if on is None else "train" if on else "eval"
        if self._heap.is_framework(self._heap.origins[thing.number].symbol):
            kind = "unknown"
        event = Event(ctx.frame.path, where, ctx.frame.qualified)
        at_end = kind == "eval" and any(lexicon.LAST_BATCH.search(text) for text in ctx.guards)
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
                self._machine.events.forward(ctx, state, thing, node, _owner(node))
                return [(state, UNKNOWN)]
            if not facts.calls & _MODE_WORDS:
                if lexicon.NOT_FORWARD.search(name):
                    return [(state, UNKNOWN)]
                if self._uses_layers(thing, facts):
                    self._machine.events.forward(ctx, state, thing, node, _owner(node))
                    return [(state, UNKNOWN)]
        return self._machine.functions.call(ctx, state, Function(method, thing), given, node.where)

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
        if mode is None or lexicon.NOT_FORWARD.search(name):
            return False
        return origin.is_model or mode.kind in ("train", "eval")

    def _is_quiet(self, origin: Origin, name: str) -> bool:
        """Whether a foreign thing leaves the models alone that it was built with."""
        symbol = origin.symbol
        if isinstance(symbol, External) and lexicon.OPTIMIZER_LIKE.search(symbol.dotted):
            return True
        return bool(lexicon.HARMLESS.search(name)) or name in LOADS

    def call_super(self, ctx: Context, state: State, node: Call, name: str) -> list[Outcome]:
        """`super().name(...)`: the method of a base, for the same object."""
        owner = ctx.frame.owner
        cls = self._machine.units.owner(ctx.frame.ref)
        result: list[Outcome] = []
        for ready, given in self._machine.calls.arguments(ctx, state, node):
            method = None
            if owner is not None and cls is not None:
                bases = self._machine.resolver.lineage(cls)[1:]
                found = (
                    self._machine.resolver.method(b, name) for b in bases if isinstance(b, ClassRef)
                )
                method = next((m for m in found if isinstance(m, FunctionRef)), None)
            if owner is not None and name in ("train", "eval") and self._heap.is_model(owner):
                self.switch(ctx, ready, owner, name, given, node.where)
                result.append((ready, one(owner)))
            elif method is not None and owner is not None and not self._heap.is_model(owner):
                callee = Function(method, owner)
                result += self._machine.functions.call(ctx, ready, callee, given, node.where)
            else:
                result.append((ready, UNKNOWN))
        return result

    def member(self, state: State, owner: Object, name: str) -> Values:
        """`owner.name`, for reading."""
        found = state.cell(owner.number, name)
        if found:
            return found
        origin = self._heap.origins[owner.number]
        if name in lexicon.SAME_ATTRIBUTES and not self._heap.is_attribute(state, owner, name):
            return one(owner)
        if name == "training":
            mode = self._heap.mode(state, owner.number)
            known = mode is not None and mode.kind in ("train", "eval")
            return one(Plain(mode is not None and mode.kind == "train")) if known else UNKNOWN
        method = self.find(origin, name)
        if isinstance(method, FunctionRef):
            if self._is_property(method):
                facts = self._machine.resolver.function_facts(method)
                return self._property(state, owner, facts)
            return one(Function(method, owner))
        return self._heap.someone(state, owner.number, name)

    def _is_property(self, method: FunctionRef) -> bool:
        facts = self._machine.resolver.function_facts(method)
        return any(decorator.endswith("property") for decorator in facts.decorators)

    def _property(self, state: State, owner: Object, facts: FunctionFacts) -> Values:
        """What a property gives that does nothing but to give an attribute."""
        first = facts.parameters[0].name if facts.parameters else ""
        match facts.body:
            case (Return(Attribute(Name(own), name), _),) if own == first != name:
                method = self.find(self._heap.origins[owner.number], name)
                return UNKNOWN if method is not None else self.member(state, owner, name)
        return UNKNOWN


def _owner(node: Call) -> str:
    """How the owner of a method that is called is written."""
    return dotted(node.function.value) if isinstance(node.function, Attribute) else ""
