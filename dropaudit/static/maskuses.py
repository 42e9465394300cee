"""Records of what a function does with random masks, and sets of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import libcst as cst

from dropaudit.static.chance import Coin, Data, Value
from dropaudit.static.scalars import close
from dropaudit.static.source import Source, self_attribute

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
    via: cst.CSTNode | None = None  # the call of a helper that drew the mask
    carried: bool = False  # dropped in a helper, and scaled by its caller
    in_reach: bool = True  # whether `keep_text` is written in the function of `node`
    keep_name: str = ""  # the name of the keep probability, where it never stands for another


@dataclass(eq=False)
class Masks:
    """What one function does with random masks."""

    function: cst.FunctionDef
    uses: list[Use] = field(default_factory=list)
    # numbers that an activation is multiplied by
    factors: list[tuple[float, cst.CSTNode]] = field(default_factory=list)
    selections: list[tuple[cst.CSTNode, Coin]] = field(default_factory=list)  # x[mask]
    # comparisons of a normal draw, and the other
    normals: list[tuple[cst.CSTNode, cst.CSTNode]] = field(default_factory=list)
    inferred: list[cst.CSTNode] = field(default_factory=list)  # a dropout's result against zero
    words: bool = False  # an unknown factor with a name like "scale" or "norm" is in the function

    def settle(self, source: Source) -> None:
        """Leave to the functions that were called what they do by themselves."""

        def here(node: cst.CSTNode | None) -> bool:
            return node is not None and source.function_of(node) is self.function

        for use in list(self.uses):
            if not use.carried and not any(map(here, (use.node, use.draw, use.via))):
                self.uses.remove(use)
        self.selections[:] = [s for s in self.selections if here(s[0])]
        self.normals[:] = [n for n in self.normals if here(n[0])]
        self.inferred[:] = [i for i in self.inferred if here(i)]


@dataclass(frozen=True, eq=False)
class DropoutUse:
    """A use of a mask that is dropout by evidence, with the function around it."""

    use: Use
    masks: Masks
    named: bool  # the function or its class calls itself dropout


def place(node: cst.CSTNode) -> str:
    """The name under which the value of a local or an attribute of self is kept."""
    if isinstance(node, cst.Name):
        return node.value
    name = self_attribute(node)
    return f"self.{name}" if name else ""


def placed_by(places: Places) -> list[str]:
    """The places that belong to `self`."""
    return [name for name in places if name.startswith("self.")]


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
