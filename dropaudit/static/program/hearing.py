"""Whether those who call a function that drops test the mode, or hand it over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dropaudit.static.program.answering import is_module
from dropaudit.static.program.code import Attribute, Call, Name, dotted, within
from dropaudit.static.program.facts import ClassFacts, FileFacts, FunctionFacts
from dropaudit.static.program.gates import gated, names_mode
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.resolve import ClassRef, FunctionRef, Resolver
from dropaudit.static.program.wrappers import Wrappers, passed_by
from dropaudit.static.purpose import PURPOSE, words


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
                passed = passed.after(found[1])
                open_ = (d for d in wrappers.drops(ref) if d.kind == "dropout" and d.flag is None)
                if any(not passed.is_zero(drop.rate) for drop in open_):
                    return True
    return False


def callers_hear(resolver: Resolver, ref: FunctionRef) -> bool:
    """Whether there are calls by the name of a method, and each hears of the mode.

    A `forward` is called where an instance of its class is.
    """
    owner, _, name = ref.qualified.rpartition(".")
    if name in ("forward", "__call__"):
        return _instances_hear(resolver, ClassRef(ref.path, owner))
    seen = False
    for path in resolver.files:
        for facts in resolver.files[path].functions:
            if name not in facts.calls or FunctionRef(path, facts.qualified) == ref:
                continue
            for _, hears in _calls(facts, name):
                seen = True
                if not hears:
                    return False
    return seen


def _instances_hear(resolver: Resolver, cls: ClassRef) -> bool:
    """Whether every instance of a class is held by an attribute, each call of which hears."""
    name = cls.qualified.rpartition(".")[2]
    made = held = 0
    for path, file in resolver.files.items():
        for function in file.functions:
            if name in function.calls:
                made += len(_built(resolver, path, function.body, cls))
        for owner in file.classes:
            for one in owner.held:
                if _built(resolver, path, one.value, cls):
                    held += len(_built(resolver, path, one.value, cls))
                    if not _attribute_hears(file, owner, one.name):
                        return False
    return 0 < held == made


def _built(resolver: Resolver, path: str, body: Any, cls: ClassRef) -> list[Call]:
    """The calls in `body` that build something of a class."""
    name = cls.qualified.rpartition(".")[2]
    calls = (node for node in within(body) if isinstance(node, Call))
    return [
        one
        for one in calls
        if dotted(one.function).endswith(name)
        and resolver.resolve(path, dotted(one.function)) == cls
    ]


def _attribute_hears(file: FileFacts, owner: ClassFacts, name: str) -> bool:
    seen = False
    for facts in file.functions:
        inside = facts.qualified.startswith(f"{owner.qualified}.")
        if inside and name in facts.calls:
            for call, hears in _calls(facts, name):
                if dotted(call.function) == f"self.{name}":
                    seen = True
                    if not hears:
                        return False
    return seen


def _calls(facts: FunctionFacts, name: str) -> list[tuple[Call, bool]]:
    """The calls of a function by a name, each with whether a test or an argument is the mode."""
    found: list[tuple[Call, bool]] = []
    for one in gated(facts.body):
        match one.node:
            case Call(function=Name(called) | Attribute(name=called)) if called == name:
                told = any(names_mode(each.value) for each in one.node.arguments)
                found.append((one.node, told or one.hears_mode))
    return found
