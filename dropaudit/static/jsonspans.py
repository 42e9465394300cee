"""Where the values of a JSON document stand, so that one string can change and nothing else.

The C decoder of the standard library does the reading; this only notes offsets on the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")
_UNIT = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL
)


@dataclass(frozen=True)
class Value:
    """A value and the characters `start:stop` of the document that it takes."""

    value: Any
    start: int
    stop: int


def value_at(text: str, at: int = 0) -> Value:
    """The value that stands at `at`, blanks before it skipped."""
    start = _skip(text, at)
    value, stop = _DECODER.raw_decode(text, start)
    return Value(value, start, stop)


def members(text: str, container: Value) -> dict[str, Value]:
    """The members of an object by key, the last one of each key as JSON decoders have it.

    >>> text = '{"a": [1, 2]}'
    >>> members(text, value_at(text))["a"]
    Value(value=[1, 2], start=6, stop=12)
    """
    found: dict[str, Value] = {}
    at = _skip(text, container.start + 1)
    while text[at] != "}":
        key = value_at(text, at)
        colon = _skip(text, key.stop)
        found[key.value] = value = value_at(text, colon + 1)
        at = _skip(text, value.stop)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return found


def items(text: str, container: Value) -> Iterator[Value]:
    """The items of an array.

    >>> text = '["a", "b"]'
    >>> [(item.value, item.start) for item in items(text, value_at(text))]
    [('a', 1), ('b', 6)]
    """
    at = _skip(text, container.start + 1)
    while text[at] != "]":
        value = value_at(text, at)
        yield value
        at = _skip(text, value.stop)
        if text[at] == ",":
            at = _skip(text, at + 1)


def units(literal: str) -> list[str]:
    r"""What stands in a JSON string literal for each character of its value.

    >>> units(r'"a\n\u00e9"')
    ['a', '\\n', '\\u00e9']
    """
    return _UNIT.findall(literal[1:-1])


def unit(character: str, ascii_only: bool) -> str:
    r"""A character as it is written in a JSON string literal.

    >>> unit("\n", False), unit("é", False), unit("é", True)
    ('\\n', 'é', '\\u00e9')
    """
    is_surrogate = "\ud800" <= character <= "\udfff"
    return json.dumps(character, ensure_ascii=ascii_only or is_surrogate)[1:-1]


def strings(text: str, container: Value) -> tuple[Value, ...]:
    """The strings of an array, or the one string that stands instead of an array."""
    if isinstance(container.value, str):
        return (container,)
    return tuple(items(text, container))


def literals(pieces: Iterable[list[str]]) -> list[str]:
    """String literals of lists of units."""
    return ['"' + "".join(piece) + '"' for piece in pieces]


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at
