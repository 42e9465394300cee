"""What a call passes, by parameter: positions, keywords, and dicts that are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.source import Source


@dataclass(frozen=True, eq=False)
class Arguments:
    """Parameter name to value; `complete` unless something was spread that cannot be seen."""

    values: dict[str, cst.BaseExpression] = field(default_factory=dict)
    complete: bool = True


def arguments(source: Source, call: cst.Call, parameters: Sequence[str]) -> Arguments:
    """What `call` passes to a function that takes `parameters` in this order."""
    values: dict[str, cst.BaseExpression] = {}
    seen_star = hidden = False
    for at, arg in enumerate(call.args):
        if arg.star == "**":
            spread = _spread(source, arg.value)
            values.update(spread or {})
            hidden = hidden or spread is None
        elif arg.star:
            hidden = seen_star = True
        elif arg.keyword is not None:
            values[arg.keyword.value] = arg.value
        elif not seen_star and at < len(parameters):
            values[parameters[at]] = arg.value
    return Arguments(values, complete=not hidden)


def _spread(source: Source, node: cst.BaseExpression) -> dict[str, cst.BaseExpression] | None:
    """The entries of a dict that is written down once and never changed, else None."""
    found = list(origins(source, node))
    if len(found) != 1 or (isinstance(node, cst.Name) and _is_changed(source, node.value)):
        return None
    match found[0]:
        case cst.Dict(elements=elements):
            values = {}
            for element in elements:
                match element:
                    case cst.DictElement(key=cst.SimpleString() as key, value=value):
                        values[str(key.evaluated_value)] = value
                    case _:
                        return None
            return values
        case cst.Call(func=cst.Name(value="dict"), args=args):
            if any(a.keyword is None for a in args):
                return None
            return {a.keyword.value: a.value for a in args if a.keyword is not None}
    return None


def _is_changed(source: Source, name: str) -> bool:
    """Whether the file stores into, or calls a changing method of, something named `name`."""
    for node in source.nodes[cst.Subscript]:
        if isinstance(node.value, cst.Name) and node.value.value == name:
            parent = source.parents[node]
            if isinstance(parent, (cst.AssignTarget, cst.AugAssign, cst.Del)):
                return True
    calls = (c for n in ("update", "setdefault", "pop") for c in source.calls_by_name.get(n, []))
    return any(
        isinstance(c.func, cst.Attribute)
        and isinstance(c.func.value, cst.Name)
        and c.func.value.value == name
        for c in calls
    )
