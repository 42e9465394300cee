"""What an expression is worth, where the file shows it: literals, followed through names."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, number, self_attribute


def origins(source: Source, node: cst.CSTNode | None, depth: int = 0) -> Iterator[cst.CSTNode]:
    """The expressions that `node` may stand for, through names and attributes of self.

    Both arms of a conditional expression count. A name that is bound in a way that cannot be
    followed (a parameter, a loop, an import) is yielded itself.
    """
    if node is None:
        return
    if isinstance(node, cst.IfExp):
        yield from origins(source, node.body, depth)
        yield from origins(source, node.orelse, depth)
        return
    values = _values(source, node) if depth < 5 else None
    if not values:
        yield node
        return
    for value in values:
        if value is None:
            yield node
        else:
            yield from origins(source, value, depth + 1)


def constant(source: Source, node: cst.CSTNode | None) -> float | None:
    """The one number that `node` stands for, else None."""
    if node is None:
        return None
    found = {number(origin) for origin in origins(source, node)}
    return found.pop() if len(found) == 1 else None


def is_constant_true(source: Source, node: cst.CSTNode | None) -> bool:
    """Whether `node` is True wherever it comes from."""
    return node is not None and all(is_name(o, "True") for o in origins(source, node))


def _values(source: Source, node: cst.CSTNode) -> list[cst.BaseExpression | None] | None:
    """What is assigned to `node`; None stands for a value that cannot be followed."""
    if isinstance(node, cst.Name):
        bindings = source.bindings(node)
        return [b.value if b.kind is Kind.ASSIGNMENT else None for b in bindings]
    attribute = self_attribute(node)
    if attribute and (facts := source.class_of(node)) is not None:
        return list(facts.values(attribute))
    return None
