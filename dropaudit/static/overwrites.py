"""Who still reads a tensor after an in-place call has written over it."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.flow import following, preceding, reads, stores
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

# These always share their storage; reshape, flatten and contiguous may copy.
_VIEWS_TEXT = "view view_as transpose permute unsqueeze squeeze t swapaxes movedim unflatten"
_VIEWS = frozenset(_VIEWS_TEXT.split())
_ABOUT_TEXT = "shape size dim ndim dtype device numel is_cuda requires_grad new_zeros new_ones"
_ABOUT = frozenset(_ABOUT_TEXT.split())
_JOINS = frozenset(
    ("add", "sub", "mul", "cat", "stack", "concat", "hstack", "vstack", "concatenate")
)


def base_name(node: cst.CSTNode | None) -> str:
    """The name whose storage `node` is, through views; empty when there is none.

    >>> base_name(cst.parse_expression("h.view(2, -1).t()"))
    'h'
    >>> base_name(cst.parse_expression("h.reshape(2, -1)"))
    ''
    """
    while True:
        match node:
            case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))):
                if method not in _VIEWS:
                    return ""
                node = value
            case cst.Name(value=name):
                return name
            case _:
                return ""


def read_again(source: Source, use: cst.Call, name: str) -> str:
    """The name by which the overwritten tensor is read after `use` started, else nothing."""
    statement = source.statement_of(use)
    if isinstance(statement, cst.Expr):
        return ""
    if isinstance(statement, cst.AugAssign) and is_name(statement.target, name):
        return name
    if _beside(source, use, name, statement) or _after(source, use, name, statement):
        return name
    if isinstance(statement, cst.Return):
        return ""
    for alias in (name, *_aliases(source, statement, name)):
        if stores(alias, statement):
            continue
        if isinstance(statement, cst.Assign) and _survives(source, statement, alias):
            return alias
    return ""


def _beside(source: Source, use: cst.Call, name: str, statement: cst.CSTNode) -> bool:
    """Whether the tensor itself is an operand beside the call, or returned beside it."""
    child: cst.CSTNode = use
    for around in source.ancestors(use):
        if around is statement:
            return False
        match around:
            case cst.BinaryOperation(left=left, right=right):
                if is_name(right if left is child else left, name):
                    return True
            case cst.Tuple(elements=elements) if isinstance(statement, cst.Return):
                if any(is_name(e.value, name) for e in elements):
                    return True
            case cst.Call(func=func, args=args) if _joins(source, func):
                beside = [e.value for a in args for e in _elements(a.value)]
                if isinstance(func, cst.Attribute):
                    beside.append(func.value)
                if any(is_name(b, name) for b in beside):
                    return True
        child = around
    return False


def _joins(source: Source, func: cst.BaseExpression) -> bool:
    return isinstance(func, cst.Attribute) and func.attr.value in _JOINS


def _elements(node: cst.BaseExpression) -> list[cst.BaseElement] | list[cst.Arg]:
    if isinstance(node, (cst.List, cst.Tuple)):
        return list(node.elements)
    return [cst.Arg(node)]


def _after(source: Source, use: cst.Call, name: str, statement: cst.CSTNode) -> bool:
    """Whether the same statement reads the name again once the call has been made."""
    child: cst.CSTNode = use
    for around in source.ancestors(use):
        if isinstance(around, (cst.IfExp, cst.BooleanOperation, cst.Lambda, cst.CompFor)):
            return False
        if child is not use or around is not statement:
            later = False
            for part in around.children:
                if later and _reads_content(source, part, name):
                    return True
                later = later or part is child
        if around is statement:
            return False
        child = around
    return False


def _reads_content(source: Source, node: cst.CSTNode, name: str) -> bool:
    for part in descend(node):
        if not is_name(part, name):
            continue
        parent = source.parents.get(part)
        if isinstance(parent, cst.Attribute) and (
            parent.attr is part or parent.attr.value in _ABOUT
        ):
            continue
        if isinstance(parent, (cst.AssignTarget, cst.Param)):
            continue
        if isinstance(parent, cst.Arg) and parent.keyword is part:
            continue
        return True
    return False


def _aliases(source: Source, statement: cst.CSTNode, name: str) -> Iterator[str]:
    """Names that hold the same tensor as `name` at `statement`, or a view of it."""
    names = {name}
    for earlier in preceding(source, statement):
        match earlier:
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=left))], value=value):
                base = base_name(value)
                if base in names and left not in names:
                    yield left
                elif left in names and base and base not in names:
                    names.add(base)
                    yield base
        if stores(name, earlier):
            return


def _survives(source: Source, statement: cst.CSTNode, name: str) -> bool:
    """Whether the value of `name` is read after `statement` before it is assigned anew."""
    for later in following(source, statement):
        if isinstance(later, (cst.If, cst.For, cst.While, cst.With, cst.Try)):
            if reads(name, later):
                return not stores(name, later)
        elif reads(name, later):
            return True
        if stores(name, later):
            return False
    return False
