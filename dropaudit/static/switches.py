"""Dropouts with a number for a rate, and tests of a probability that decide whether they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

import libcst as cst

from dropaudit.static.applications import FUNCTIONAL_DROPOUTS
from dropaudit.static.arguments import arguments
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, number, self_attribute
from dropaudit.static.walk import descend

_FUNCTION = ("input", "p", "training", "inplace")
_SAYS_NUMBER = re.compile(r"rate|ratio|prob|(^|_)p(_|$|drop)")


def literal_dropouts(
    source: Source, calls: Iterable[cst.Call]
) -> Iterator[tuple[cst.Call, cst.BaseExpression | None]]:
    """The calls that drop, or build what drops, at a number above zero, and that number.

    The number is None where the default of 0.5 is in effect.
    """
    for call in calls:
        name = source.name_of(call.func)
        if name in FUNCTIONAL_DROPOUTS:
            given = arguments(source, call, _FUNCTION)
        elif name in DROPOUT_MODULES:
            given = arguments(source, call, ("p", "inplace"))
        else:
            continue
        rate = given.values.get("p")
        if not given.complete or (rate is not None and number(rate) in (None, 0)):
            continue
        yield call, rate


def switch_of(
    source: Source, call: cst.Call, is_rate: Callable[[str], bool]
) -> cst.BaseExpression | None:
    """The probability whose test `call` stands under, where nothing but tests reads it."""
    child: cst.CSTNode = call
    for around in source.ancestors(call):
        if isinstance(around, (cst.If, cst.IfExp)) and child is around.body:
            for part in _parts(around.test):
                rate, compared = _tested(part)
                if rate is None or not is_rate(_last(rate)):
                    continue
                if (compared or _is_number(source, rate)) and _only_tested(source, rate):
                    return rate
        if isinstance(around, cst.ClassDef):
            return None
        child = around
    return None


def _parts(test: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        yield from _parts(test.left)
        yield from _parts(test.right)
    else:
        yield test


def _tested(test: cst.BaseExpression) -> tuple[cst.BaseExpression | None, bool]:
    """What a test asks to be above zero, and whether it compares it with a number."""
    match test:
        case cst.Name() | cst.Attribute():
            return test, False
        case cst.Comparison(left=left, comparisons=[one]):
            if isinstance(one.operator, (cst.GreaterThan, cst.NotEqual)):
                if number(one.comparator) == 0:
                    return left, True
            elif isinstance(one.operator, cst.LessThan):
                if number(left) == 0:
                    return one.comparator, True
            elif isinstance(one.operator, cst.IsNot) and is_name(one.comparator, "None"):
                return left, False
    return None, False


def _last(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def _is_number(source: Source, rate: cst.BaseExpression) -> bool:
    """Whether the file says that `rate` is a number, not a flag."""
    if _SAYS_NUMBER.search(_last(rate)):
        return True
    values: list[cst.BaseExpression] = []
    attribute = self_attribute(rate)
    if attribute and (facts := source.class_of(rate)) is not None:
        values = facts.values(attribute)
    elif isinstance(rate, cst.Name):
        values = [rate]
    return bool(values) and all(_is_float(source, v) for v in values)


def _is_float(source: Source, value: cst.BaseExpression) -> bool:
    if isinstance(value, cst.Float):
        return True
    if not isinstance(value, cst.Name):
        return False
    bindings = source.bindings(value)
    if len(bindings) != 1 or bindings[0].kind is not Kind.PARAMETER:
        return False
    param = bindings[0].node
    if isinstance(param, cst.Param) and param.annotation is not None:
        said = source.text(param.annotation.annotation)
        return "float" in said and "bool" not in said
    return isinstance(bindings[0].value, cst.Float)


def _only_tested(source: Source, rate: cst.BaseExpression) -> bool:
    """Whether every place that reads `rate` asks only whether it is above zero."""
    attribute = self_attribute(rate)
    if attribute:
        reads: list[cst.CSTNode] = list(source.attributes_by_name.get(attribute, []))
        quoted = {f'"{attribute}"', f"'{attribute}'"}
        if any(s.value in quoted for s in source.nodes[cst.SimpleString]):
            return False
        facts = source.class_of(rate)
        if facts is None or any(v for v in facts.values(attribute) if not _is_source(v)):
            return False
    else:
        function: cst.CSTNode | None = source.function_of(rate)
        if function is None:
            return False
        for outer in source.ancestors(function):
            if isinstance(outer, cst.FunctionDef):
                function = outer
        text = source.text(rate)
        kind = cst.Name if isinstance(rate, cst.Name) else cst.Attribute
        reads = [n for n in descend(function) if isinstance(n, kind) and source.text(n) == text]
    return all(_is_tested(source, read) or _is_set(source, read) for read in reads)


def _is_source(value: cst.BaseExpression) -> bool:
    return isinstance(value, (cst.Name, cst.Float, cst.Integer))


def _is_set(source: Source, node: cst.CSTNode) -> bool:
    parent = source.parents.get(node)
    if isinstance(parent, (cst.AssignTarget, cst.Param)):
        return True
    if isinstance(parent, cst.Attribute) and parent.attr is node:
        return True
    return isinstance(parent, cst.Arg) and parent.keyword is node


def _is_tested(source: Source, node: cst.CSTNode) -> bool:
    child = node
    for around in source.ancestors(node):
        match around:
            case cst.If(test=test) | cst.IfExp(test=test) | cst.While(test=test):
                return test is child
            case cst.Assert():
                return True
            case cst.BooleanOperation() | cst.Comparison() | cst.ComparisonTarget():
                pass
            case cst.UnaryOperation(operator=cst.Not()):
                pass
            case _:
                return False
        child = around
    return False
