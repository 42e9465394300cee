"""One iterative walk over the meaningful nodes of a tree.

Public visitors of libcst recurse, call two methods a node and enter every comma and blank; this
walk keeps an explicit stack (a sum of thousands of terms is valid Python) and enters only fields
that can hold code: about a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import libcst as cst

_LAYOUT_FIELDS = """
    asynchronous colon comma comment conversion default_indent default_newline dot empty_lines
    encoding end_colon equal first_colon first_line footer has_trailing_newline header indent
    last_line lbrace lbracket leading_lines leading_whitespace lines_after_decorators lpar newline
    operator posonly_ind rbrace rbracket relative rpar second_colon semicolon separator star_token
    trailing_comma trailing_whitespace type_parameters
"""
_LAYOUT = frozenset(_LAYOUT_FIELDS.split())
# the types beside nodes and sequences of nodes: asking a node whether it is one is slow
_NOT_A_NODE = frozenset([type(None), str, bool, int, cst.MaybeSentinel])
_LEAVES = (cst.SimpleString, cst.Integer, cst.Float, cst.Ellipsis)


class FieldTable(dict[type, tuple[str, ...]]):
    """Node type to the names of its fields that can hold code, in source order."""

    def __missing__(self, kind: type) -> tuple[str, ...]:
        names = [f.name for f in fields(kind)]
        kept = tuple(n for n in names if n not in _LAYOUT and not n.startswith("whitespace"))
        self[kind] = kept
        return kept


CODE_FIELDS = FieldTable()
for leaf in _LEAVES:
    CODE_FIELDS[leaf] = ()
CODE_FIELDS[cst.Name] = ()
CODE_FIELDS[cst.Attribute] = ("value", "attr")
CODE_FIELDS[cst.Arg] = ("keyword", "value")
CODE_FIELDS[cst.FunctionDef] = ("decorators", "name", "params", "returns", "body")
CODE_FIELDS[cst.ClassDef] = ("decorators", "name", "bases", "keywords", "body")
CODE_FIELDS[cst.ExceptHandler] = ("type", "name", "body")
CODE_FIELDS[cst.ExceptStarHandler] = ("type", "name", "body")
CODE_FIELDS[cst.IfExp] = ("body", "test", "orelse")
CODE_FIELDS[cst.CompFor] = ("iter", "target", "ifs", "inner_for_in")
CODE_FIELDS[cst.AugAssign] = ("target", "value")
CODE_FIELDS[cst.BinaryOperation] = ("left", "right")


def children(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The nodes right below `node` that can hold code, in source order."""
    found: list[cst.CSTNode] = []
    for name in CODE_FIELDS[type(node)]:
        value = getattr(node, name)
        kind = type(value)
        if kind is tuple or kind is list:
            found.extend(value)
        elif kind not in _NOT_A_NODE:
            found.append(value)
    return found


def descend(
    root: cst.CSTNode | Sequence[cst.CSTNode], stop: tuple[type[cst.CSTNode], ...] = ()
) -> Iterator[cst.CSTNode]:
    """`root` and all code below it in source order, without what lies inside nodes of `stop`.

    The nodes of `stop` are yielded themselves; `root` is always entered.
    """
    stack: list[cst.CSTNode] = [root] if isinstance(root, cst.CSTNode) else list(reversed(root))
    roots = set(map(id, stack))
    while stack:
        node = stack.pop()
        yield node
        if stop and type(node) in stop and id(node) not in roots:
            continue
        stack.extend(reversed(children(node)))


def occurrences(
    root: cst.CSTNode, *kinds: type[cst.CSTNode], stop: tuple[type[cst.CSTNode], ...] = ()
) -> Iterator[cst.CSTNode]:
    """The nodes of exactly these types at or below `root`, as `descend` meets them."""
    return (node for node in descend(root, stop) if type(node) in kinds)
