"""Which function or class of the program a claim asks about, and what is known of it."""

from __future__ import annotations

from collections.abc import Sequence

from dropaudit.static.program.layers import Layers
from dropaudit.static.program.resolve import ClassRef, FunctionRef, Resolver, Symbol
from dropaudit.static.program.wrappers import Passed, Wrappers


def called(
    wrappers: Wrappers, path: str, about: Sequence[str]
) -> tuple[FunctionRef, Passed] | None:
    """The function that a call in the file at `path` runs, and what it passes.

    `about` is how the file tells of the call: how its name is meant, the name, the number of
    plain arguments, the names of the others, and which of all these are zero.
    """
    how, name, count, names, zeros = about
    found = wrappers.target(_symbol(wrappers.resolver, path, how, name))
    if found is None:
        return None
    ref, bound = found
    return ref, Passed(int(count), _set(names), _set(zeros)).after(bound)


def holds_dropout(layers: Layers, resolver: Resolver, path: str, about: Sequence[str]) -> bool:
    """Whether a call, of which `about` tells as for `called`, builds a module that drops."""
    how, name, count, names, zeros = about
    symbol = _symbol(resolver, path, how, name)
    if not isinstance(symbol, ClassRef) or not layers.is_module(symbol):
        return False
    given = _set(names)
    off = set(_set(zeros))
    init = resolver.method(symbol, "__init__")
    if isinstance(init, FunctionRef):
        own = [one.name for one in resolver.function_facts(init).parameters[1:]]
        given |= set(own[: int(count)])
        off |= {own[int(at)] for at in off if at.isdigit() and int(at) < len(own)}
    return bool(layers.inside(symbol).given(given - off))


def is_module(layers: Layers, resolver: Resolver, path: str, qualified: str) -> bool:
    """Whether a class of the file at `path` is an `nn.Module`, by all that the program says."""
    ref = ClassRef(path, qualified)
    known = any(one.qualified == qualified for one in resolver.files[path].classes)
    return known and layers.is_module(ref)


def _symbol(resolver: Resolver, path: str, how: str, name: str) -> Symbol | None:
    if path not in resolver.files:
        return None
    if how == "imported":
        return resolver.imported(path, name)
    if how == "method":
        owner, _, method = name.rpartition(".")
        known = any(one.qualified == owner for one in resolver.files[path].classes)
        return resolver.method(ClassRef(path, owner), method) if known else None
    if how == "forward":
        cls = resolver.resolve(path, name)
        return resolver.method(cls, "forward") if isinstance(cls, ClassRef) else None
    return resolver.resolve(path, name)


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) - {""}
