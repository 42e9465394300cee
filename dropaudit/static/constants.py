"""What an expression is worth, where the file shows it: literals, followed through names."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, number, self_attribute


def origins(source: Source, node: cst.CSTNode | None) -> Iterator[cst.CSTNode]:
    """The expressions that `node` may stand for, through names and attributes of self.

    Both arms of a conditional expression count. A name that is bound in a way that cannot be
    followed (a parameter, a loop, an import) is yielded itself. Each expression is entered once:
    a name that is bound over and over from itself would have no end.
    """
    stack, seen = [] if node is None else [node], set()
    while stack:
        one = stack.pop()
        if isinstance(one, cst.IfExp):
            stack.extend((one.orelse, one.body))
            continue
        values = _values(source, one)
        if not values:
            yield one
            continue
        if any(value is None for value in values):
            yield one
        fresh = [v for v in values if v is not None and v not in seen]
        seen.update(fresh)
        stack.extend(reversed(fresh))


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
