"""Masks that are drawn on the host: by NumPy, by `random`, or by a distribution of floats."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.maskcallees import callee
from dropaudit.static.maskevidence import dropout_uses, in_test
from dropaudit.static.maskuses import DropoutUse
from dropaudit.static.source import Source
from dropaudit.static.walk import descend

_HOMES = {"numpy": "NumPy", "random": "Python's random"}
_ON_DEVICE = ("to", "cuda", "type_as")


def host_masks(source: Source) -> Iterator[tuple[cst.CSTNode, str]]:
    """(draw, what draws it) for each dropout of a module's own whose mask comes from the host."""
    seen: set[cst.CSTNode] = set()
    for found in dropout_uses(source):
        draw = found.use.draw
        if draw in seen or not isinstance(draw, cst.Call):
            continue
        seen.add(draw)
        home = _home(source, draw)
        if home and _in_forward(source, found) and not in_test(source, draw):
            yield draw, home


def _home(source: Source, draw: cst.Call) -> str:
    name = source.name_of(draw.func)
    home = _HOMES.get(name.split(".", 1)[0], "") if "." in name else ""
    if home:
        return home if _of_tensor_size(source, draw, name) else ""
    return "a distribution of Python floats" if _samples_floats(source, draw) else ""


def _of_tensor_size(source: Source, draw: cst.Call, name: str) -> bool:
    """Whether many numbers are drawn: one for all is a layer that is skipped as a whole."""
    if name.startswith("random."):
        loops = (cst.ListComp, cst.GeneratorExp)
        return source.enclosing(draw, loops) is not None
    if name.endswith((".binomial", ".uniform")):
        return source.argument(draw, "size", 2) is not None
    return bool(draw.args)


def _samples_floats(source: Source, draw: cst.Call) -> bool:
    """`Bernoulli(1 - self.p).sample(shape)`: torch makes a tensor of the float, on the CPU."""
    match draw.func:
        case cst.Attribute(value=value, attr=cst.Name(value="sample" | "sample_n")):
            built = [o for o in origins(source, value)]
        case _:
            return False
    if len(built) != 1 or not isinstance(built[0], cst.Call):
        return False
    name = source.name_of(built[0].func)
    if not name.endswith((".Bernoulli", ".Binomial")):
        return False
    given = source.argument(built[0], "probs", 1 if name.endswith("Binomial") else 0)
    if given is None or source.masks.scalars.value(given.value) is None:
        return False
    if any(isinstance(n, cst.Call) for o in _parts(source, given.value) for n in descend(o)):
        return False
    return _is_moved(source, draw)


def _parts(source: Source, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The expressions that `node` is made of, through names and attributes."""
    for part in descend(node):
        yield from origins(source, part)


def _is_moved(source: Source, draw: cst.Call) -> bool:
    """Whether the sample goes to another device, in the expression or by its name."""
    statement = source.statement_of(draw)
    function = source.function_of(draw)
    names = (
        {t.target.value for t in statement.targets if isinstance(t.target, cst.Name)}
        if isinstance(statement, cst.Assign)
        else set()
    )
    for call in descend(function.body if function is not None else statement):
        match call:
            case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))):
                named = isinstance(value, cst.Name) and value.value in names
                if method in _ON_DEVICE and (named or any(n is draw for n in descend(value))):
                    return True
    return False


def _in_forward(source: Source, found: DropoutUse) -> bool:
    """Whether a method of a Module, or the forward of a Function, applies the mask."""
    function = found.masks.function
    facts = source.class_of(function)
    if facts is not None:
        return (facts.is_module or facts.is_function) and function.name.value != "__init__"
    if source.function_of(function) is not None:
        return False
    for call in source.callers(function):
        target = callee(source, call)
        around = source.class_of(call)
        if target is not None and target.function is function and around is not None:
            return around.is_module
    return False
