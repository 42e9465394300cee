"""What a name or attribute that is called holds, and what a call hands to a function."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.droppers import Dropper, alternatives, is_switch
from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.unread import params

Origin = Dropper | cst.Param | None  # None is anything else
Value = tuple[Origin, ...]


def module_builders(source: Source, func: cst.BaseExpression) -> list[tuple[cst.Call, bool]] | None:
    """The calls that build the module `func`, with whether only switches choose it.

    None where the file does not say; empty where it is no module, or not all are seen.
    """
    found: list[tuple[cst.Call, bool]] = []
    values = _held(source, func)
    if values is None:
        return None
    for value, statement in values:
        certain = _only_switches(source, statement)
        for arm, sure in alternatives(source, value):
            if is_name(arm, "None"):
                continue
            if not isinstance(arm, cst.Call):
                return [] if isinstance(arm, cst.Lambda) else None
            found.append((arm, sure and certain))
    return found


def _held(
    source: Source, func: cst.BaseExpression
) -> list[tuple[cst.BaseExpression, cst.CSTNode]] | None:
    attribute = self_attribute(func)
    if attribute and (facts := source.class_of(func)) is not None:
        return [
            (a.value, a.statement) for f in facts.lineage for a in f.assigned if a.name == attribute
        ] or None
    if isinstance(func, cst.Name):
        bindings = source.bindings(func)
        if len(bindings) == 1 and bindings[0].kind is Kind.ASSIGNMENT:
            value = bindings[0].value
            if isinstance(value, cst.Call):
                return [(value, bindings[0].node)]
            return _held(source, value) if self_attribute(value) and value is not None else None
    return None


def _only_switches(source: Source, statement: cst.CSTNode) -> bool:
    for around in source.ancestors(statement):
        if isinstance(around, cst.FunctionDef):
            return True
        if isinstance(around, cst.If) and not is_switch(source, around.test):
            return False
    return True


def passed_values(
    call: cst.Call, function: cst.FunctionDef, given: list[Value], bound: bool
) -> dict[cst.Param, tuple[cst.BaseExpression, Value]]:
    """What `call` hands to each parameter of `function`, and what that comes from."""
    slots = [*function.params.posonly_params, *function.params.params]
    if bound and not any(is_name(d.decorator, "staticmethod") for d in function.decorators):
        slots = slots[1:]
    named = {p.name.value: p for p in params(function)}
    found: dict[cst.Param, tuple[cst.BaseExpression, Value]] = {}
    for at, (arg, value) in enumerate(zip(call.args, given, strict=False)):
        if arg.star:
            break
        if arg.keyword is not None:
            param = named.get(arg.keyword.value)
        else:
            param = slots[at] if at < len(slots) else None
        if param is not None:
            found[param] = (arg.value, value)
    return found
