"""Attributes that two methods of a class build alike, but for a dropout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.applications import settings
from dropaudit.static.facts import DROPOUT_MODULES, AttributeValue, ClassFacts
from dropaudit.static.functional import is_zero
from dropaudit.static.source import Source

_WITHOUT_ON_PURPOSE = re.compile(r"export|deploy|infer|eval|predict|fuse|freeze|frozen|quant|drop")
_COMMON = 3  # entries that both must have beside the dropout


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """`self.name`, built by `without` as by `other`, which has the entry `missing` as well."""

    name: str
    without: cst.Call
    other: cst.FunctionDef
    missing: cst.BaseExpression


def rebuilt_without(source: Source, facts: ClassFacts) -> Iterator[Rebuilt]:
    """The Sequentials of this class that lack the dropout of one that another method builds."""
    built: dict[str, list[tuple[AttributeValue, list[str], list[cst.Call]]]] = {}
    for one in facts.assigned:
        entries = _entries(source, one.value)
        if entries is not None:
            rest = [key for key, call in entries if call is None]
            drops = [call for _, call in entries if call is not None]
            built.setdefault(one.name, []).append((one, rest, drops))
    for name, ways in built.items():
        with_it = [w for w in ways if w[2]]
        for one, rest, drops in ways:
            if drops or len(rest) < _COMMON or not isinstance(one.value, cst.Call):
                continue
            if _WITHOUT_ON_PURPOSE.search(one.method.name.value):
                continue
            if any(w[0].method is one.method for w in with_it):
                continue  # the method itself decides
            for other, others, found in with_it:
                if others == rest:
                    yield Rebuilt(name, one.value, other.method, found[0])
                    break


def _entries(source: Source, value: cst.BaseExpression) -> list[tuple[str, cst.Call | None]] | None:
    """Key or class of each entry of a Sequential, and the call where that builds a dropout."""
    if not isinstance(value, cst.Call) or source.name_of(value.func) != "torch.nn.Sequential":
        return None
    found: list[tuple[str, cst.Call | None]] = []
    for key, entry in _written(source, value):
        if entry is None:
            return None
        drop = entry if isinstance(entry, cst.Call) else None
        if drop is not None and source.name_of(drop.func) in DROPOUT_MODULES:
            if not is_zero(source, settings(source, drop)[0]):
                found.append((key, drop))
            continue
        found.append((key or _made(source, entry), None))
    return found


def _written(source: Source, value: cst.Call) -> Iterator[tuple[str, cst.BaseExpression | None]]:
    """(key, entry) of what a Sequential is given; the entry is None where that is not written."""
    match value.args:
        case [cst.Arg(value=cst.Call(func=func, args=[cst.Arg(value=cst.List(elements=pairs))]))]:
            if source.name_of(func).rpartition(".")[2] == "OrderedDict":
                for pair in pairs:
                    match pair.value:
                        case cst.Tuple(
                            elements=[cst.Element(value=cst.SimpleString() as key), one]
                        ):
                            yield key.value.strip("'\""), one.value
                        case _:
                            yield "", None
                return
    for arg in value.args:
        yield "", None if arg.star else arg.value


def _made(source: Source, entry: cst.BaseExpression) -> str:
    return source.text(entry.func if isinstance(entry, cst.Call) else entry)
