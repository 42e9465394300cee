"""Rates in the words of a message: a percentage where the file shows one."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.names import Kind
from dropaudit.static.source import Source, number


def percent(source: Source, rate: cst.CSTNode | None, default: float | None = None) -> str:
    """`50 %` for the rate that `rate` is, or has by default; empty where the file shows none."""
    value = default if rate is None else _value(source, rate)
    return f"{100 * value:.4g} %" if value is not None and 0 < value <= 1 else ""


def _value(source: Source, rate: cst.CSTNode) -> float | None:
    found = {_one(source, origin) for origin in origins(source, rate)}
    return found.pop() if len(found) == 1 else None


def _one(source: Source, origin: cst.CSTNode) -> float | None:
    literal = number(origin)
    if literal is not None:
        return literal
    if isinstance(origin, cst.Attribute) and origin.attr.value == "p":
        return _of_module(source, origin.value)
    if isinstance(origin, cst.Name):
        bindings = source.bindings(origin)
        if len(bindings) == 1 and bindings[0].kind is Kind.PARAMETER:
            return number(bindings[0].value)
    return None


def _of_module(source: Source, module: cst.BaseExpression) -> float | None:
    found: set[float | None] = set()
    for origin in origins(source, module):
        if not isinstance(origin, cst.Call):
            return None
        given = source.argument(origin, "p", 0)
        found.add(0.5 if given is None else _value(source, given.value))
    return found.pop() if len(found) == 1 else None
