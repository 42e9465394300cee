"""Whether a dropout is visible inside what a call is given: a function, a method, a module."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.constants import constant, origins
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.names import Kind
from dropaudit.static.randomness import is_dropout
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

_DEPTH = 4


def shows_dropout(source: Source, node: cst.CSTNode, depth: int = 0) -> bool:
    """Whether calling `node` surely reaches a dropout whose rate is not zero, in this file."""
    if depth > _DEPTH:
        return False
    if isinstance(node, cst.Lambda):
        return _body_shows(source, node.body, depth)
    if isinstance(node, cst.Call) and _binds(source, node):
        return any(shows_dropout(source, arg.value, depth + 1) for arg in node.args)
    definition = source.definition(node)
    if isinstance(definition, cst.FunctionDef):
        return _body_shows(source, definition.body, depth)
    if isinstance(definition, cst.ClassDef):
        return _class_shows(source, definition, depth)
    return any(_built_shows(source, value, depth) for value in _values(source, node))


def _binds(source: Source, call: cst.Call) -> bool:
    """Whether `call` gives a function that runs its arguments: `partial`, a local that closes."""
    if source.name_of(call.func) in ("functools.partial", "partial"):
        return True
    maker = source.definition(call.func)
    if not isinstance(maker, cst.FunctionDef):
        return False
    inner = {f.name.value for f in descend(maker.body) if isinstance(f, cst.FunctionDef)}
    returned = [n.value for n in descend(maker.body) if isinstance(n, cst.Return)]
    return any(
        isinstance(v, cst.Lambda) or (isinstance(v, cst.Name) and v.value in inner)
        for v in returned
    )


def _values(source: Source, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What `node` may be: values of a name or attribute, entries of a list that is looped over."""
    if isinstance(node, cst.Name):
        for binding in source.bindings(node):
            if binding.kind is Kind.ASSIGNMENT and binding.value is not None:
                yield from _values(source, binding.value)
            elif isinstance(binding.node, (cst.For, cst.CompFor)):
                for part in descend(binding.node.iter):
                    if self_attribute(part):
                        yield from _entries(source, part)
        return
    if isinstance(node, cst.Subscript):
        yield from _entries(source, node.value)
        return
    if self_attribute(node):
        yield from _entries(source, node)
        return
    yield node


def _entries(source: Source, attribute: cst.CSTNode) -> Iterator[cst.CSTNode]:
    name, facts = self_attribute(attribute), source.class_of(attribute)
    if not name or facts is None:
        return
    for value in facts.values(name):
        yield from origins(source, value)
    for call in source.calls_by_name.get("append", []):
        target = call.func.value if isinstance(call.func, cst.Attribute) else None
        if self_attribute(target) == name and source.class_of(call) is facts and call.args:
            yield from origins(source, call.args[0].value)


def _built_shows(source: Source, value: cst.CSTNode, depth: int) -> bool:
    for call in descend(value):
        if not isinstance(call, cst.Call):
            continue
        if source.name_of(call.func) in DROPOUT_MODULES:
            rate = source.argument(call, "p", 0)
            if rate is None or constant(source, rate.value) != 0:
                return True
        definition = source.definition(call.func)
        if isinstance(definition, cst.ClassDef) and _class_shows(source, definition, depth + 1):
            return True
    return False


def _class_shows(source: Source, node: cst.ClassDef, depth: int) -> bool:
    facts = source.facts(node)
    forward = facts.method("forward")
    if depth > _DEPTH or not facts.is_module:
        return False
    if forward is not None:
        return _body_shows(source, forward.body, depth)
    return any(_built_shows(source, a.value, depth + 1) for a in facts.assigned)


def _body_shows(source: Source, body: cst.CSTNode, depth: int) -> bool:
    for call in descend(body):
        if not isinstance(call, cst.Call):
            continue
        named = isinstance(call.func, (cst.Name, cst.Attribute, cst.Subscript))
        if is_dropout(source, call) or (named and shows_dropout(source, call.func, depth + 1)):
            return True
    return False
