"""Facts as compressed JSON: what the cache stores and what a worker sends.

A record is `[kind, field, ...]`, a tuple `[-1, ...]`, a set `[-2, ...]`. Bodies of functions are
JSON texts already and stay texts, so that only those that are followed are ever read.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import fields, is_dataclass
from sys import intern
from typing import Any

from dropaudit.static.program import code, facts
from dropaudit.static.program.facts import FileFacts

_MODULES = (code, facts)
_KINDS: tuple[type, ...] = tuple(
    kind
    for module in _MODULES
    for kind in vars(module).values()
    if isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__
)
_FIELDS = {kind: tuple(one.name for one in fields(kind)) for kind in _KINDS}
_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}
_TUPLE, _SET = -1, -2
_LONGEST_NAME = 40


def packed_facts(facts: FileFacts | None) -> bytes:
    """Facts, or that there are none, as bytes.

    >>> facts = FileFacts(exports=("f",))
    >>> unpacked_facts(packed_facts(facts)) == facts
    True
    """
    return zlib.compress(json.dumps(_plain(facts), separators=(",", ":")).encode(), 1)


def unpacked_facts(data: bytes) -> FileFacts | None:
    """The facts that were packed; `ValueError` for anything else."""
    try:
        found = _value(json.loads(zlib.decompress(data)))
    except (zlib.error, TypeError, IndexError, KeyError, RecursionError) as error:
        raise ValueError(f"not packed facts: {error}") from error
    if found is not None and not isinstance(found, FileFacts):
        raise ValueError("not packed facts")
    return found


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is tuple:
        return [_TUPLE, *map(_plain, value)]
    if kind is frozenset:
        return [_SET, *sorted(value)]
    number = _NUMBER.get(kind)
    if number is None:
        return value
    return [number, *(_plain(getattr(value, name)) for name in _FIELDS[kind])]


def _value(value: Any) -> Any:
    if type(value) is not list:
        return value
    kind, *rest = value
    if kind == _SET:
        return frozenset(map(intern, rest))
    rest = [
        _value(one)
        if type(one) is list
        else intern(one)  # a name: there are many of few
        if type(one) is str and len(one) <= _LONGEST_NAME
        else one
        for one in rest
    ]
    return tuple(rest) if kind == _TUPLE else _KINDS[kind](*rest)
