"""Calls that apply one of torch's dropouts: functions, and modules built in the same file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.arguments import arguments
from dropaudit.static.constants import origins
from dropaudit.static.facts import DROPOUT_MODULES, is_container
from dropaudit.static.source import Source, is_name

_NAMES = ("dropout", "alpha_dropout", "feature_alpha_dropout")
_WITH_INPLACE = frozenset(
    f"torch.nn.functional.{n}" for n in (*_NAMES, "dropout1d", "dropout2d", "dropout3d")
)
_WITHOUT_INPLACE = frozenset(f"torch.{n}" for n in (*_NAMES, "feature_dropout"))
FUNCTIONAL_DROPOUTS = _WITH_INPLACE | _WITHOUT_INPLACE


@dataclass(frozen=True, eq=False)
class Application:
    """One call that drops: its input and, where they are known, its settings.

    `built` is the call that builds the module, None for a function. `inplace` is None where the
    file does not show it.
    """

    name: str
    input: cst.BaseExpression | None
    rate: cst.BaseExpression | None
    inplace: bool | None
    built: cst.Call | None


def application(source: Source, call: cst.Call) -> Application | None:
    """What `call` applies, or None where it is no dropout of torch as far as the file shows."""
    name = source.name_of(call.func)
    if name in FUNCTIONAL_DROPOUTS:
        given = arguments(source, call, ("input", "p", "training", "inplace"))
        inplace = _truth(source, given.values.get("inplace"))
        if name in _WITHOUT_INPLACE:
            inplace = False
        elif not given.complete and "inplace" not in given.values:
            inplace = None
        return Application(name, given.values.get("input"), given.values.get("p"), inplace, None)
    built = [b for b in builders(source, call.func) if not _is_identity(source, b)]
    if not built or not all(source.name_of(b.func) in DROPOUT_MODULES for b in built):
        return None
    input = call.args[0].value if call.args and not call.args[0].star else None
    rates = [settings(source, b) for b in built]
    inplace_values = {inplace for _, inplace in rates}
    return Application(
        source.name_of(built[0].func),
        input,
        rates[0][0],
        inplace_values.pop() if len(inplace_values) == 1 else None,
        built[0],
    )


def settings(source: Source, built: cst.Call) -> tuple[cst.BaseExpression | None, bool | None]:
    """Rate and in-place flag of a call that builds a dropout module."""
    given = arguments(source, built, ("p", "inplace"))
    inplace = _truth(source, given.values.get("inplace"))
    if not given.complete and "inplace" not in given.values:
        inplace = None
    return given.values.get("p"), inplace


def builders(source: Source, func: cst.BaseExpression) -> Iterator[cst.Call]:
    """The calls that build the module `func`; one without a func of torch where unknown.

    Yields nothing when some value of `func` is no call.
    """
    if isinstance(func, cst.Subscript):
        found = list(_elements(source, func.value))
    else:
        found = [o for o in origins(source, func) if not is_name(o, "None")]
    calls = [f for f in found if isinstance(f, cst.Call)]
    if calls and len(calls) == len(found):
        yield from calls


def _elements(source: Source, container: cst.BaseExpression) -> Iterator[cst.CSTNode]:
    for origin in origins(source, container):
        if not isinstance(origin, cst.Call) or not is_container(source.name_of(origin.func)):
            return
        for arg in origin.args:
            match arg.value:
                case cst.List(elements=elements) | cst.Tuple(elements=elements):
                    yield from (e.value for e in elements)
                case cst.Dict(elements=elements):
                    yield from (e.value for e in elements)
                case cst.ListComp(elt=element) | cst.GeneratorExp(elt=element):
                    yield element
                case other:
                    yield other


def _is_identity(source: Source, built: cst.Call) -> bool:
    return source.name_of(built.func) == "torch.nn.Identity"


def _truth(source: Source, node: cst.BaseExpression | None) -> bool | None:
    if node is None:
        return False
    found = list(origins(source, node))
    if all(is_name(o, "True") for o in found):
        return True
    if all(is_name(o, "False") for o in found):
        return False
    return None
