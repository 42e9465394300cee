"""Records of what a function does with random masks, and sets of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import libcst as cst

from dropaudit.static.chance import Coin, Data, Value
from dropaudit.static.scalars import close
from dropaudit.static.source import self_attribute

Values = tuple[Value, ...]
Places = dict[str, Values]

_MOST = 6  # values followed for one name; more are merged into the first ones


@dataclass(eq=False)
class Use:
    """One place where a mask meets an activation, and all scales it was seen to have after."""

    node: cst.CSTNode
    draw: cst.CSTNode
    data: cst.CSTNode | None
    coins: list[Coin] = field(default_factory=list)
    keep_text: str = ""
    keep_known: float | None = None  # when it is written as a number, or defaults to one
    spared: bool = False  # scaled in a way that is not followed
    keep_name: str = ""  # the name of the keep probability, where it never stands for another


@dataclass(eq=False)
class Masks:
    """What one function does with random masks."""

    function: cst.FunctionDef
    uses: list[Use]
    factors: list[tuple[float, cst.CSTNode]]  # numbers that an activation is multiplied by
    selections: list[tuple[cst.CSTNode, Coin]]  # x[mask]
    normals: list[tuple[cst.CSTNode, cst.CSTNode]]  # comparisons of a normal draw, and the other
    inferred: list[cst.CSTNode]  # comparisons of a dropout's result with zero
    words: bool  # an unknown factor with a name like "scale" or "norm" is in the function


def place(node: cst.CSTNode) -> str:
    """The name under which the value of a local or an attribute of self is kept."""
    if isinstance(node, cst.Name):
        return node.value
    name = self_attribute(node)
    return f"self.{name}" if name else ""


def called_name(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Call):
        match node.func:
            case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
                return name
    return ""


def merged(values: Values) -> Values:
    """The distinct values, the first few of them."""
    found: list[Value] = []
    for value in values:
        if not any(_same(value, other) for other in found):
            found.append(value)
    return tuple(found[:_MOST]) or (Data(),)


def each(left: Values, right: Values, of: Callable[[Value, Value], Value]) -> Values:
    return merged(tuple(of(a, b) for a in left for b in right))


def _same(one: Value, other: Value) -> bool:
    if type(one) is not type(other):
        return False
    return all(
        close(x, y) if isinstance(x, float) else x is y or x == y
        for x, y in zip(vars(one).values(), vars(other).values(), strict=True)
    )
