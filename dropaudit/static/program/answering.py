"""Which function of the program a claim asks about; whether the callers of one hear the mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dropaudit.static.program.code import Attribute, Call, Name, dotted
from dropaudit.static.program.facts import FunctionFacts
from dropaudit.static.program.gates import gated, names_mode
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.resolve import ClassRef, FunctionRef, Resolver, Symbol
from dropaudit.static.program.wrappers import Passed, Wrappers, passed_by
from dropaudit.static.purpose import PURPOSE, words


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


def is_reached(wrappers: Wrappers, layers: Layers, ref: FunctionRef, paths: Iterable[str]) -> bool:
    """Whether a module of the files at `paths` calls a function that drops with no word of mode."""
    name = ref.qualified.rpartition(".")[2]
    resolver = wrappers.resolver
    for path in paths:
        for facts in resolver.files[path].functions:
            owner = facts.qualified.rpartition(".")[0]
            if name not in facts.calls or not facts.is_method or facts.name == "__init__":
                continue
            if PURPOSE.search(words(facts.qualified)) or not is_module(
                layers, resolver, path, owner
            ):
                continue
            for call, hears in _calls(facts, name):
                found = wrappers.target(resolver.resolve(path, dotted(call.function)))
                passed = passed_by(call.arguments)
                if found is None or found[0] != ref or passed is None or hears:
                    continue
                if any(names_mode(one.value) for one in call.arguments):
                    continue
                passed = passed.after(found[1])
                open_ = (d for d in wrappers.drops(ref) if d.kind == "dropout" and d.flag is None)
                if any(not passed.is_zero(drop.rate) for drop in open_):
                    return True
    return False


def callers_hear(resolver: Resolver, ref: FunctionRef) -> bool:
    """Whether there are calls by the name of a function, and each hears of the mode."""
    name = ref.qualified.rpartition(".")[2]
    seen = False
    for path in resolver.files:
        for facts in resolver.files[path].functions:
            if name not in facts.calls or FunctionRef(path, facts.qualified) == ref:
                continue
            for call, hears in _calls(facts, name):
                seen = True
                if not hears and not any(names_mode(one.value) for one in call.arguments):
                    return False
    return seen


def _calls(facts: FunctionFacts, name: str) -> list[tuple[Call, bool]]:
    found: list[tuple[Call, bool]] = []
    for one in gated(facts.body):
        match one.node:
            case Call(function=Name(called) | Attribute(name=called)) if called == name:
                found.append((one.node, one.hears_mode))
    return found


def _symbol(resolver: Resolver, path: str, how: str, name: str) -> Symbol | None:
    if path not in resolver.files:
        return None
    if how == "imported":
        return resolver.imported(path, name)
    if how == "method":
        owner, _, method = name.rpartition(".")
        known = any(one.qualified == owner for one in resolver.files[path].classes)
        return resolver.method(ClassRef(path, owner), method) if known else None
    return resolver.resolve(path, name)


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) - {""}
