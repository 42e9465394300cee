"""Whether the bytes of a file can be parsed without danger to this process.

The parser recurses: deep nesting and long chains overflow the stack of the process, and take time
and memory that grow with the square of their length. Both need long statements or many brackets
open at once. What is not calm is parsed in a process of its own, with bounds on time and memory.
"""

from __future__ import annotations

import re

MAX_BRACKETS = 200  # Python itself refuses more ("too many nested parentheses")
_MAX_STATEMENT = 2_000
_MAX_ELIFS = 200
_ONE_KIND = bytes.maketrans(b"[]{}", b"()()")
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"()[]{}")
_TOKEN = re.compile(
    rb"#[^\r\n]*"
    rb"|(?P<formatted>\b(?:[fFtT][rR]?|[rR][fFtT])(?=[\"']))"
    rb"|(?P<long>\"\"\"|''')"
    rb"|\"(?:[^\"\\\r\n]|\\(?:\r\n|[\s\S]))*\"|'(?:[^'\\\r\n]|\\(?:\r\n|[\s\S]))*'"
    rb"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    rb"|(?P<joined>\\\r?\n)|(?P<end>[\r\n])"
)


def is_calm(data: bytes) -> bool:
    """Whether every statement is short and nothing is nested deeply.

    >>> is_calm(b"x = [f(1), (2, 3)]\\n")
    True
    >>> is_calm(b"x = " + b"a + " * 1000 + b"a\\n")
    False
    """
    if data.count(b"elif") > _MAX_ELIFS:
        return False
    deepest, longest = measured(data)
    return deepest <= MAX_BRACKETS and longest <= _MAX_STATEMENT


def nests_too_deep(data: bytes) -> bool:
    """Whether more brackets are open at once than Python allows.

    >>> nests_too_deep(b"(" * 201 + b")" * 201), nests_too_deep(b"'" + b"(" * 201 + b"'")
    (True, False)
    """
    level = data.translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(20):  # the innermost pairs go in each round: few files need four
        if len(level) <= MAX_BRACKETS - 20:
            return False
        level = level.replace(b"()", b"")
    return measured(data)[0] > MAX_BRACKETS


def measured(data: bytes) -> tuple[int, int]:
    """The most brackets open at once and the bytes of the longest statement, strings left out.

    >>> measured(b"f(a[0], (1, (2,)))")
    (3, 18)
    """
    deepest = longest = start = depth = skipped = position = 0
    while (match := _TOKEN.search(data, position)) is not None:
        position = match.end()
        if (mark := match["long"]) is not None:
            stop = data.find(mark, position)
            if stop < 0:  # not Python, whatever stands inside
                break
            skipped += stop - position
            position = stop + 3
        elif match["formatted"]:  # code may stand inside: its bytes count
            position += 3 if data[position : position + 3] in (b'"""', b"'''") else 1
        elif match["open"]:
            depth += 1
            deepest = max(deepest, depth)
        elif match["close"]:
            depth -= 1
        elif match["end"] and depth <= 0:
            longest = max(longest, position - start - skipped)
            start, depth, skipped = position, 0, 0
        elif data[match.start()] in b"\"'#":
            skipped += position - match.start()
    return deepest, max(longest, len(data) - start - skipped)
