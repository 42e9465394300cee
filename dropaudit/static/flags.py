"""The `training` flag of a functional dropout: what an expression in its place comes to."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.functional import Drop, functional_dropout
from dropaudit.static.modes import MODE_WORD
from dropaudit.static.names import Kind
from dropaudit.static.reach import argument_for
from dropaudit.static.source import Source, is_name, number
from dropaudit.static.walk import descend

MULTI_HEAD = frozenset(("torch.nn.functional.multi_head_attention_forward",))
NEVER_ON = frozenset(f"torch.nn.functional.{n}" for n in ("alpha_dropout", "feature_alpha_dropout"))


@dataclass(frozen=True, eq=False)
class Flag:
    """A parameter of a helper that is True by default and ends up as `training`."""

    function: cst.FunctionDef
    parameter: cst.Param

    @property
    def name(self) -> str:
        return self.parameter.name.value

    def passed(self, source: Source, call: cst.Call) -> cst.BaseExpression | None:
        """What `call` passes for it, None for the default."""
        return argument_for(source, call, self.function, self.parameter)


def forwards_flag(source: Source, function: cst.FunctionDef) -> Flag | None:
    """The parameter of `function` that is handed on to functional dropouts, True by default."""
    every = (
        *function.params.posonly_params,
        *function.params.params,
        *function.params.kwonly_params,
    )
    for parameter in every:
        if not is_name(parameter.default, "True") or not MODE_WORD.match(parameter.name.value):
            continue
        for call in descend(function.body, stop=(cst.ClassDef,)):
            if not isinstance(call, cst.Call):
                continue
            drop = functional_dropout(source, call)
            if drop is not None and is_name(drop.training, parameter.name.value):
                return Flag(function, parameter)
    return None


def is_mode(source: Source, node: cst.CSTNode | None) -> bool:
    """Whether `node` is the mode itself (a boolean), not a rate computed from it."""
    for origin in origins(source, node):
        match origin:
            case cst.Name(value="True" | "False"):
                continue
            case cst.Name(value=word) | cst.Attribute(attr=cst.Name(value=word)):
                if not MODE_WORD.match(word):
                    return False
            case cst.UnaryOperation(operator=cst.Not()):
                continue
            case _:
                return False
    return node is not None


def holds_in_eval(source: Source, flag: cst.CSTNode) -> bool:
    """Whether `flag` hears the mode and is true in evaluation all the same.

    `self.training or self.p > 0` is true whenever there is a rate; `not self.training` is true
    in evaluation only.
    """
    for origin in origins(source, flag):
        match origin:
            case cst.UnaryOperation(operator=cst.Not(), expression=inner):
                if _is_training(inner):
                    return True
            case cst.BooleanOperation(left=left, operator=cst.Or(), right=right):
                if _is_training(left) and is_positive_test(right):
                    return True
                if _is_training(right) and is_positive_test(left):
                    return True
    return False


def is_positive_test(node: cst.CSTNode) -> bool:
    """Whether `node` asks whether something is above zero."""
    match node:
        case cst.Comparison(
            comparisons=[cst.ComparisonTarget(operator=cst.GreaterThan(), comparator=right)]
        ):
            return number(right) == 0
    return False


def passes_mode_nearby(source: Source, drop: Drop) -> bool:
    """Whether another call in the same method passes the mode to its dropout."""
    method = source.method_of(drop.call)
    if method is None:
        return False
    for call in descend(method.body):
        if isinstance(call, cst.Call) and call is not drop.call:
            other = functional_dropout(source, call)
            if other is not None and other.training is not None and _is_self_training(other):
                return True
    return False


def comes_from_parameter(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` is a parameter of a function around it."""
    return isinstance(node, cst.Name) and any(
        b.kind is Kind.PARAMETER for b in source.bindings(node)
    )


def _is_training(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.Attribute) and node.attr.value == "training"


def _is_self_training(drop: Drop) -> bool:
    return (
        isinstance(drop.training, cst.Attribute)
        and is_name(drop.training.value, "self")
        and drop.training.attr.value == "training"
    )
