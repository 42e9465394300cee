"""Autograd Functions whose backward runs a function again, and the functions they are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.functions import FunctionFacts
from dropaudit.static.names import Kind
from dropaudit.static.reach import argument_for, exact_callers
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

_DEPTH = 3


@dataclass(frozen=True, eq=False)
class Rerun:
    """The call in backward, what this file passes to be run, and at which place of `apply`."""

    call: cst.Call
    given: tuple[cst.BaseExpression, ...]
    position: int


def rerun(source: Source, node: cst.ClassDef) -> Rerun | None:
    """What the class `node` runs again, where it is a Function that keeps no random state.

    `ctx.run = run` in forward and `ctx.run(...)` in backward, under `enable_grad`.
    """
    facts = source.facts(node)
    if not facts.is_function:
        return None
    function = FunctionFacts(facts, source)
    forward, backward = function.forward, function.backward
    if forward is None or backward is None or function.replays:
        return None
    kept = dict(_kept(forward))
    for call in descend(backward.body):
        match call:
            case cst.Call(func=cst.Attribute(value=cst.Name(), attr=cst.Name(value=name))) if (
                name in kept and is_name(call.func.value, _context(backward))  # type: ignore[attr-defined]
            ):
                if any(isinstance(a, cst.With) and _tracks(a) for a in source.ancestors(call)):
                    names = [p.name.value for p in forward.params.params]
                    at = names.index(kept[name]) - 1
                    return Rerun(call, tuple(_applied(source, node, at)), at)
    return None


def _context(function: cst.FunctionDef) -> str:
    params = (*function.params.posonly_params, *function.params.params)
    return params[0].name.value if params else ""


def _kept(forward: cst.FunctionDef) -> Iterator[tuple[str, str]]:
    """Attribute of the context to the parameter of forward that it is given."""
    params = {p.name.value for p in forward.params.params}
    for node in descend(forward.body):
        match node:
            case cst.Assign(
                targets=[
                    cst.AssignTarget(
                        target=cst.Attribute(value=cst.Name(context), attr=cst.Name(attribute))
                    )
                ],
                value=cst.Name(name),
            ) if context == _context(forward) and name in params:
                yield attribute, name


def _tracks(node: cst.With) -> bool:
    return any(
        isinstance(n, cst.Name) and n.value == "enable_grad"
        for item in node.items
        for n in descend(item.item)
    )


def _applied(source: Source, node: cst.ClassDef, at: int) -> Iterator[cst.BaseExpression]:
    """What the calls of `apply` in this file pass at a place, through wrapping functions."""
    for call in source.calls_by_name.get("apply", []):
        owner = call.func.value if isinstance(call.func, cst.Attribute) else None
        if source.definition(owner) is not node or at >= len(call.args):
            continue
        if not any(arg.star for arg in call.args[: at + 1]):
            yield from _from_callers(source, call.args[at].value, 0)


def _from_callers(
    source: Source, value: cst.BaseExpression, depth: int
) -> Iterator[cst.BaseExpression]:
    """`value`, or what the callers pass where it is a parameter of the function around."""
    function = source.function_of(value)
    if isinstance(value, cst.Name) and function is not None and depth < _DEPTH:
        found = [b for b in source.bindings(value) if b.kind is Kind.PARAMETER]
        own = (*function.params.posonly_params, *function.params.params)
        for binding in found:
            if binding.node not in own:
                continue
            for caller in exact_callers(source, function):
                passed = argument_for(source, caller, function, binding.node)  # type: ignore[arg-type]
                if passed is not None:
                    yield from _from_callers(source, passed, depth + 1)
        if found:
            return
    yield value
