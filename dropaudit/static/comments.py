"""The comments of a Python source, and the lines that belong together. Never fails.

A regular expression over strings, comments and joined lines does not mind syntax that is newer
than the running Python, or broken: the comments of a file that cannot be parsed are still found.
"""

from __future__ import annotations

import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r'''
    """[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*(?:"""|\Z)
    |\'\'\'[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*(?:\'\'\'|\Z)
    |"(?:\\(?:\r\n|.)|[^"\\\r\n])*"?
    |'(?:\\(?:\r\n|.)|[^'\\\r\n])*'?
    |(?P<comment>\#[^\r\n]*)
    |\\(?:\r\n|\r|\n)
    ''',
    re.DOTALL | re.VERBOSE,
)
_LINE = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Comment:
    """A comment: its text from the `#` on, and its first character in the decoded source."""

    text: str
    start: int


class Comments:
    r"""The comments in `data`, in order, and where characters and lines are.

    >>> [c.text for c in Comments(b"x = '# no'  # yes\n")]
    ['# yes']
    >>> Comments(b"x = '''\n'''\n").statement_lines(1)
    (1, 2)
    """

    def __init__(self, data: bytes) -> None:
        self.encoding = _encoding(data)
        self._mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        self.text = data[self._mark :].decode(self.encoding, "replace")
        self._starts = [0, *(match.end() for match in _LINE.finditer(self.text))]
        self._comments: list[Comment] = []
        self._joined: list[tuple[int, int]] = []
        for match in _TOKEN.finditer(self.text):
            if match["comment"] is not None:
                self._comments.append(Comment(match[0], match.start()))
            else:
                self._join(self.line(match.start()), self.line(match.end()))

    def __iter__(self) -> Iterator[Comment]:
        return iter(self._comments)

    def line(self, offset: int) -> int:
        """The line, from one, of a character."""
        return bisect_right(self._starts, offset)

    def column(self, offset: int) -> int:
        """The column, from one, of a character."""
        return offset - self._starts[self.line(offset) - 1] + 1

    def line_span(self, line: int) -> tuple[int, int, int]:
        """The first character of a line, the end of its text, and the end with its line break."""
        start = self._starts[line - 1]
        after = self._starts[line] if line < len(self._starts) else len(self.text)
        return start, start + len(self.text[start:after].rstrip("\r\n")), after

    def byte(self, offset: int) -> int:
        """The byte in `data` at which a character starts."""
        return self._mark + len(self.text[:offset].encode(self.encoding, "replace"))

    def statement_lines(self, line: int) -> tuple[int, int]:
        """The lines that strings or backslashes join with `line`, the first and the last."""
        at = bisect_right(self._joined, (line, len(self._starts) + 1)) - 1
        if at >= 0 and self._joined[at][0] <= line <= self._joined[at][1]:
            return self._joined[at]
        return line, line

    def _join(self, first: int, last: int) -> None:
        if last == first:
            return
        if self._joined and self._joined[-1][1] >= first:
            first = self._joined.pop()[0]
        self._joined.append((first, last))


def _encoding(data: bytes) -> str:
    try:
        name = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError:
        return "utf-8"
    return "utf-8" if name == "utf-8-sig" else name
