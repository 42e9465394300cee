"""Scalars of a file as numbers: two expressions that are equal as algebra get the same value.

Every unknown (a parameter, an attribute that nothing explains) stands for one fixed number between
0 and 1. Whether `scale` is `1 / keep` then needs no rewriting of terms: the product of the two
numbers is 1, or it is not. Unequal expressions agree by chance about never.
"""

from __future__ import annotations

import math
import random
import re

import libcst as cst

from dropaudit.static.names import Binding, Kind
from dropaudit.static.source import Source, number, self_attribute
from dropaudit.static.walk import descend

RATE = re.compile(
    r"(^|[._])(p\d?|q|pi|p_?\w{0,10}drop\w*|p?keep\w*|pr?ob\w*|\w*prob(s|a|ability)?|\w*rate|\w*ratio"
    r"|\w*drop(out)?(_?p|_?prob\w*|_?rate|_?ratio|s)?|\w*dropout\w*|dp|dr|surviv\w*|retain\w*"
    r"|(inv_?)?scale\w*|\w*_scale|factor|gamma|alpha|eps(ilon)?|lamb?(da)?|threshold|thresh|frac\w*)$",
    re.IGNORECASE,
)
_TENSOR_ATTRIBUTES_TEXT = (
    "shape size dim ndim dtype device new new_empty new_zeros new_ones new_full view reshape "
    "data numel is_cuda type to requires_grad unsqueeze squeeze transpose permute t T "
    "get_device type_as expand_as contiguous clone mul mul_ div div_ masked_fill "
    "masked_fill_ is_sparse flatten sum mean"
)
_TENSOR_ATTRIBUTES = frozenset(_TENSOR_ATTRIBUTES_TEXT.split())
_CASTS_TEXT = (
    "float torch.tensor torch.as_tensor torch.Tensor torch.FloatTensor numpy.float32 "
    "numpy.array torch.autograd.Variable"
)
_CASTS = frozenset(_CASTS_TEXT.split())


class Scalars:
    """The numbers of one file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._symbols: dict[object, float] = {}
        self._tensors: dict[cst.CSTNode, frozenset[str]] = {}

    def symbol(self, key: object) -> float:
        """The number that stands for `key`, well apart from every other and from one half."""
        if key not in self._symbols:
            self._symbols[key] = random.Random(len(self._symbols) + 1).uniform(0.55, 0.85)
        return self._symbols[key]

    def value(self, node: cst.CSTNode | None, depth: int = 0) -> float | None:
        """The number for `node`, or None when it need not be a scalar."""
        if node is None or depth > 12:
            return None
        literal = number(node)
        if literal is not None:
            return literal
        match node:
            case cst.Name():
                return self._name(node, depth)
            case cst.Attribute(value=value, attr=cst.Name(value="data" | "T")):
                return self.value(value, depth + 1)
            case cst.Attribute(attr=attr):
                if self_attribute(node):
                    return self._attribute(node, depth)
                return self.by_text(node) if RATE.search(attr.value) else None
            case cst.Subscript(value=value):
                return self.by_text(node) if self.value(value, depth + 1) is not None else None
            case cst.UnaryOperation(operator=cst.Minus(), expression=inner):
                found = self.value(inner, depth + 1)
                return None if found is None else -found
            case cst.BinaryOperation(left=left, operator=operator, right=right):
                return arithmetic(
                    operator, self.value(left, depth + 1), self.value(right, depth + 1)
                )
            case cst.Call(func=func, args=args):
                if self._source.name_of(func) in _CASTS and args:
                    return self.value(args[0].value, depth + 1)
                if isinstance(func, cst.Attribute) and func.attr.value in ("item", "float"):
                    return self.value(func.value, depth + 1)
            case cst.List(elements=[element]):
                return self.value(element.value, depth + 1)
        return None

    def by_text(self, node: cst.CSTNode) -> float:
        """The number for an expression that is known by its text alone, within its function."""
        return self.symbol((self._source.function_of(node), self._source.text(node)))

    def is_rate(self, param: cst.Param, function: cst.CSTNode | None) -> bool:
        """Whether a parameter is a number, not a tensor: by annotation, use, default or name."""
        name = param.name.value
        if param.annotation is not None:
            said = self._source.text(param.annotation.annotation)
            if re.search(r"\b(float|int|bool)\b", said):
                return "Tensor" not in said or number(param.default) is not None
            if "Tensor" in said:
                return False
        if function is not None and name in self.tensors(function):
            return False
        return number(param.default) is not None or bool(RATE.search(name))

    def tensors(self, function: cst.CSTNode) -> frozenset[str]:
        """The names that `function` uses as only tensors can be used."""
        if function not in self._tensors:
            found = set()
            for node in descend(function):
                match node:
                    case cst.Attribute(value=cst.Name(value=name), attr=cst.Name(value=attr)):
                        if attr in _TENSOR_ATTRIBUTES:
                            found.add(name)
                    case cst.Call(args=[cst.Arg(value=cst.Name(value=name)), *_], func=func):
                        if self._source.name_of(func).endswith("_like"):
                            found.add(name)
            self._tensors[function] = frozenset(found)
        return self._tensors[function]

    def _name(self, name: cst.Name, depth: int) -> float | None:
        bindings = self._source.bindings(name)
        if len(bindings) == 1:
            return self._binding(bindings[0], name, depth)
        if bindings and RATE.search(name.value):
            return self.symbol((bindings[0].node, name.value))
        return None

    def _binding(self, binding: Binding, name: cst.Name, depth: int) -> float | None:
        if binding.kind is Kind.ASSIGNMENT:
            found = self.value(binding.value, depth + 1)
            if found is None and RATE.search(name.value):
                return self.symbol(binding.node)
            return found
        if binding.kind is Kind.PARAMETER and isinstance(binding.node, cst.Param):
            function = self._source.enclosing(binding.node, (cst.FunctionDef, cst.Lambda))
            if self.is_rate(binding.node, function):
                return self.symbol(binding.node)
        if binding.kind is Kind.OTHER and RATE.search(name.value):
            return self.symbol((binding.node, name.value))
        return None

    def _attribute(self, node: cst.Attribute, depth: int) -> float | None:
        name = node.attr.value
        facts = self._source.class_of(node)
        values = facts.values(name) if facts is not None else []
        returned = _returned(facts.method(name)) if facts is not None and not values else None
        values = values if returned is None else [returned]
        if len(values) == 1:
            found = self.value(values[0], depth + 1)
            if found is not None:
                return found
        if values and not all(_may_be_number(v) for v in values):
            return None
        key = (facts.node if facts is not None else None, "self", name)
        return self.symbol(key) if RATE.search(name) else None


class Defaults(Scalars):
    """As `Scalars`, with parameters at their defaults and nothing that is not known."""

    def symbol(self, key: object) -> float:
        default = number(key.default) if isinstance(key, cst.Param) else None
        return math.nan if default is None else default


def arithmetic(operator: cst.BaseBinaryOp, left: float | None, right: float | None) -> float | None:
    """The value of `left operator right`, or None when it has none."""
    if left is None or right is None:
        return None
    match operator:
        case cst.Add():
            return left + right
        case cst.Subtract():
            return left - right
        case cst.Multiply():
            return left * right
        case cst.Divide():
            return left / right if right else None
        case cst.Power():
            return left**right if left > 0 and abs(right) < 20 else None
    return None


def close(left: float, right: float) -> bool:
    """Whether two values are one, but for rounding."""
    return abs(left - right) < 1e-9 * max(1.0, abs(left), abs(right))


def _returned(method: cst.FunctionDef | None) -> cst.BaseExpression | None:
    """What a property returns, where it does nothing else."""
    if method is None or not any(
        re.search("property", cst.Module([]).code_for_node(d.decorator)) for d in method.decorators
    ):
        return None
    last = method.body.body[-1]
    small = last.body[-1] if isinstance(last, cst.SimpleStatementLine) else last
    lines = [s for s in descend(method.body) if isinstance(s, cst.Return)]
    return small.value if isinstance(small, cst.Return) and len(lines) == 1 else None


def _may_be_number(value: cst.BaseExpression) -> bool:
    return not (
        isinstance(value, cst.Call) and "Dropout" in cst.Module([]).code_for_node(value.func)
    )
