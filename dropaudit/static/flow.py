"""What a local variable may hold at a statement: the assignments that reach it."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.names import target_names
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

_INNER = (cst.FunctionDef, cst.ClassDef, cst.Lambda)


def reaching(
    source: Source, name: str, before: cst.CSTNode
) -> Iterator[tuple[cst.CSTNode, cst.CSTNode | None]]:
    """The assignments to `name` that may reach the statement `before`, the nearest first.

    Yields (statement, value); the value is None where it cannot be told, such as in a loop or an
    unpacking. Ends after the first assignment that surely runs, and at the function's head.
    """
    for statement in preceding(source, before):
        certain = False
        for found, value, sure in _stores(name, statement):
            yield found, value
            certain = certain or sure
        if certain:
            return


def preceding(source: Source, statement: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The statements before `statement`, nearest first, in its block and the blocks around it."""
    child = statement
    for around in source.ancestors(statement):
        if isinstance(around, (cst.ClassDef, cst.Lambda)):
            return
        body = getattr(around, "body", None)
        if isinstance(body, (list, tuple)):
            found = [s for s in body]
            if child in found:
                for earlier in reversed(found[: found.index(child)]):
                    if isinstance(earlier, cst.SimpleStatementLine):
                        yield from reversed(earlier.body)
                    else:
                        yield earlier
        if isinstance(around, cst.FunctionDef):
            return
        child = around


def following(source: Source, statement: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """The statements after `statement` in its block and the blocks around it, nearest first."""
    child = statement
    for around in source.ancestors(statement):
        if isinstance(around, (cst.ClassDef, cst.Lambda)):
            return
        body = getattr(around, "body", None)
        if isinstance(body, (list, tuple)):
            found = [s for s in body]
            if child in found:
                for later in found[found.index(child) + 1 :]:
                    if isinstance(later, cst.SimpleStatementLine):
                        yield from later.body
                    else:
                        yield later
        if isinstance(around, cst.FunctionDef):
            return
        child = around


def stores(name: str, statement: cst.CSTNode) -> bool:
    """Whether `statement` may assign to the plain name `name`."""
    return any(True for _ in _stores(name, statement))


def reads(name: str, node: cst.CSTNode) -> bool:
    """Whether `node` reads the plain name `name`: what is only assigned does not count."""
    targets: set[int] = set()
    for part in descend(node):
        if isinstance(part, cst.AssignTarget) and isinstance(part.target, cst.Name):
            targets.add(id(part.target))
        if isinstance(part, cst.Arg) and part.keyword is not None:
            targets.add(id(part.keyword))
        if isinstance(part, cst.Attribute):
            targets.add(id(part.attr))
    return any(is_name(n, name) and id(n) not in targets for n in descend(node))


def _stores(
    name: str, statement: cst.CSTNode
) -> Iterator[tuple[cst.CSTNode, cst.CSTNode | None, bool]]:
    """(statement, value, whether it surely runs), the last first."""
    match statement:
        case cst.Assign(targets=targets, value=value):
            for target in targets:
                if is_name(target.target, name):
                    yield statement, value, True
                elif name in target_names(target.target):
                    yield statement, _unpacked(target.target, value, name), True
        case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
            if is_name(target, name):
                yield statement, value, True
        case cst.AugAssign(target=target):
            if is_name(target, name):
                yield statement, None, True
        case cst.With(body=body):
            yield from _last(name, body, True)
        case cst.If(body=body, orelse=orelse):
            one = list(_last(name, body, True))
            other = [] if orelse is None else list(_stores(name, orelse))
            both = any(s for *_, s in one) and any(s for *_, s in other)
            for found, given, _ in (*one, *other):
                yield found, given, both
        case cst.Else(body=body) | cst.Finally(body=body):
            yield from _last(name, body, True)
        case cst.For(body=body, target=target):
            yield from _last(name, body, False)
            if name in target_names(target):
                yield statement, None, False
        case cst.While(body=body):
            yield from _last(name, body, False)
        case cst.Try() | cst.TryStar() | cst.Match():
            for node in descend(statement, stop=_INNER):
                if isinstance(node, (cst.Assign, cst.AugAssign)):
                    for found, _, _ in _stores(name, node):
                        yield found, None, False


def _last(
    name: str, body: cst.CSTNode, sure: bool
) -> Iterator[tuple[cst.CSTNode, cst.CSTNode | None, bool]]:
    block = getattr(body, "body", ())
    small: list[cst.CSTNode] = []
    for statement in block:
        parts = statement.body if isinstance(statement, cst.SimpleStatementLine) else [statement]
        small.extend(parts)
    for statement in reversed(small):
        certain = False
        for found, value, surely in _stores(name, statement):
            yield found, value, sure and surely
            certain = certain or surely
        if certain:
            return


def _unpacked(
    target: cst.CSTNode, value: cst.BaseExpression, name: str
) -> cst.BaseExpression | None:
    match target, value:
        case cst.Tuple(elements=left), cst.Tuple(elements=right) if len(left) == len(right):
            for one, other in zip(left, right, strict=True):
                if is_name(one.value, name):
                    return other.value
    return None
