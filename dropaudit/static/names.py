"""Which thing a name stands for: scopes, bindings and imports of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import libcst as cst

from dropaudit.static.lineages import canonical


class Kind(Enum):
    """How a name came to be bound."""

    IMPORT = auto()
    FUNCTION = auto()
    CLASS = auto()
    PARAMETER = auto()
    ASSIGNMENT = auto()  # `name = value`: `Binding.value` is the value
    OTHER = auto()  # loops, with, del, unpacking, augmented assignment, except, match


@dataclass(frozen=True, eq=False)
class Binding:
    """One place where a scope binds a name."""

    kind: Kind
    node: cst.CSTNode
    dotted: str = ""
    value: cst.BaseExpression | None = None


@dataclass(eq=False)
class Scope:
    """The names that one module, class, function, lambda or comprehension binds itself."""

    node: cst.CSTNode
    parent: Scope | None
    names: dict[str, list[Binding]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    elsewhere: dict[str, bool] = field(default_factory=dict)  # True: global, False: nonlocal

    def bind(self, name: str, binding: Binding) -> None:
        scope = self
        if name in self.elsewhere:
            scope = self.module if self.elsewhere[name] else self._owner(name)
        scope.names.setdefault(name, []).append(binding)

    @property
    def module(self) -> Scope:
        scope = self
        while scope.parent is not None:
            scope = scope.parent
        return scope

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, cst.ClassDef)

    def lookup(self, name: str) -> tuple[Scope, list[Binding]] | None:
        """The innermost scope that binds `name` as seen from here, and its bindings."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names and (scope is self or not scope.is_class):
                return scope, scope.names[name]
            scope = scope.parent
        return None

    def _owner(self, name: str) -> Scope:
        """The function that `nonlocal name` means."""
        scope, nearest = self.parent, None
        while scope is not None and scope.parent is not None:
            if not scope.is_class:
                nearest = nearest or scope
                if name in scope.names:
                    return scope
            scope = scope.parent
        return nearest or self


def bind(node: cst.CSTNode, scope: Scope) -> None:
    """Enter into `scope` what `node` itself (not what lies below it) binds."""
    binder = _BINDERS.get(type(node))
    if binder is not None:
        binder(node, scope)


def dotted_text(node: cst.CSTNode | None) -> str:
    """`a.b.c` for a chain of attributes on a name, else the empty string."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.append(node.attr.value)
        node = node.value
    if not isinstance(node, cst.Name):
        return ""
    return ".".join([node.value, *reversed(parts)])


def target_names(target: cst.CSTNode) -> Iterator[str]:
    """The plain names that an assignment target binds, through tuples and stars."""
    stack = [target]
    while stack:
        match stack.pop():
            case cst.Name(value=name):
                yield name
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                stack.extend(element.value for element in elements)
            case cst.StarredElement(value=value):
                stack.append(value)


def _import(node: cst.Import, scope: Scope) -> None:
    for alias in node.names:
        dotted = dotted_text(alias.name)
        if alias.asname is not None:
            name = dotted_text(alias.asname.name)
        else:
            name = dotted = dotted.split(".")[0]
        scope.bind(name, Binding(Kind.IMPORT, node, dotted))


def _import_from(node: cst.ImportFrom, scope: Scope) -> None:
    origin = "." * len(node.relative) + dotted_text(node.module)
    if isinstance(node.names, cst.ImportStar):
        scope.stars.append(origin)
        return
    for alias in node.names:
        imported = dotted_text(alias.name)
        name = dotted_text(alias.asname.name) if alias.asname else imported
        dotted = origin + imported if origin.endswith(".") else f"{origin}.{imported}"
        scope.bind(name, Binding(Kind.IMPORT, node, canonical(dotted)))


def _assign(node: cst.Assign, scope: Scope) -> None:
    for target in node.targets:
        _assign_to(target.target, node.value, node, scope)


def _assign_to(
    target: cst.CSTNode, value: cst.BaseExpression, node: cst.CSTNode, scope: Scope
) -> None:
    match target, value:
        case cst.Name(value=name), _:
            scope.bind(name, Binding(Kind.ASSIGNMENT, node, value=value))
        case (
            (cst.Tuple(elements=left) | cst.List(elements=left)),
            (cst.Tuple(elements=right) | cst.List(elements=right)),
        ) if len(left) == len(right) and not any(
            isinstance(e, cst.StarredElement) for e in (*left, *right)
        ):
            for one, other in zip(left, right, strict=True):
                _assign_to(one.value, other.value, node, scope)
        case _:
            _other(target, node, scope)


def _other(target: cst.CSTNode | None, node: cst.CSTNode, scope: Scope) -> None:
    if target is not None:
        for name in target_names(target):
            scope.bind(name, Binding(Kind.OTHER, node))


def _ann_assign(node: cst.AnnAssign, scope: Scope) -> None:
    if isinstance(node.target, cst.Name) and node.value is not None:
        scope.bind(node.target.value, Binding(Kind.ASSIGNMENT, node, value=node.value))


def _named_expr(node: cst.NamedExpr, scope: Scope) -> None:
    while isinstance(scope.node, (cst.ListComp, cst.SetComp, cst.DictComp, cst.GeneratorExp)):
        assert scope.parent is not None
        scope = scope.parent
    if isinstance(node.target, cst.Name):
        scope.bind(node.target.value, Binding(Kind.ASSIGNMENT, node, value=node.value))


def _elsewhere(node: cst.Global | cst.Nonlocal, scope: Scope) -> None:
    for item in node.names:
        scope.elsewhere[item.name.value] = isinstance(node, cst.Global)


def _param(node: cst.Param, scope: Scope) -> None:
    scope.bind(node.name.value, Binding(Kind.PARAMETER, node, value=node.default))


def _as_name(node: cst.WithItem | cst.ExceptHandler | cst.ExceptStarHandler, scope: Scope) -> None:
    alias = node.asname if isinstance(node, cst.WithItem) else node.name
    if alias is not None:
        _other(alias.name, node, scope)


_BINDERS: dict[type, Callable[[Any, Scope], None]] = {
    cst.Import: _import,
    cst.ImportFrom: _import_from,
    cst.Assign: _assign,
    cst.AnnAssign: _ann_assign,
    cst.AugAssign: lambda node, scope: _other(node.target, node, scope),
    cst.NamedExpr: _named_expr,
    cst.For: lambda node, scope: _other(node.target, node, scope),
    cst.CompFor: lambda node, scope: _other(node.target, node, scope),
    cst.Del: lambda node, scope: _other(node.target, node, scope),
    cst.WithItem: _as_name,
    cst.ExceptHandler: _as_name,
    cst.ExceptStarHandler: _as_name,
    cst.Global: _elsewhere,
    cst.Nonlocal: _elsewhere,
    cst.Param: _param,
    cst.TypeAlias: lambda node, scope: _other(node.name, node, scope),
    cst.MatchMapping: lambda node, scope: _other(node.rest, node, scope),
    cst.MatchAs: lambda node, scope: _other(node.name, node, scope),
    cst.MatchStar: lambda node, scope: _other(node.name, node, scope),
}
