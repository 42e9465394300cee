"""Classes of the project: what an instance is, and what its constructor does."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dropaudit.static.program.code import (
    Call,
    Constant,
)
from dropaudit.static.program.frames import Arguments, Context, Outcome
from dropaudit.static.program.resolve import ClassRef, FunctionRef
from dropaudit.static.program.values import (
    Event,
    Function,
    ModeKind,
    Origin,
    State,
    objects,
    one,
)

if TYPE_CHECKING:
    from dropaudit.static.program.machine import Machine


class Classes:
    """Builds instances, for one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._heap = machine.heap

    def build(
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
                self._machine.methods.switch(ctx, state, thing, "eval", [], node.where)
            return [(state, one(thing))]
        if framework:
            thing = self._heap.make(state, replace(origin, holds=holds), None, *key)
            return [(state, one(thing))]
        thing = self._heap.make(state, origin, None, *key)
        if init is None:
            every = (c for c in reversed(self._machine.resolver.lineage(ref)) if c != ref)
            bases = [
                self._machine.resolver.class_facts(c) for c in every if isinstance(c, ClassRef)
            ]
            fields = [
                f for c in (*bases, self._machine.resolver.class_facts(ref)) for f in c.fields
            ]
            plain = (values for name, values in given if not name)
            named = {n: values for n, values in given if n not in ("", "*", "**")}
            for name, values in {**dict(zip(fields, plain, strict=False)), **named}.items():
                self._heap.store(state, thing.number, name, values)
            return [(state, one(thing))]
        ends = self._machine.functions.call(ctx, state, Function(init, thing), given, node.where)
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
