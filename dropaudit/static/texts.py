"""The text behind locations: lines for code frames, places for edits. Imports no libcst."""

from __future__ import annotations

import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from dropaudit.findings import Location
from dropaudit.static.notebooks import Notebook, NotebookError


class Texts:
    """The Python source of the files of a scan, read on demand through `read` and kept.

    `read` takes a path as findings show it and gives the bytes of that file; what it cannot read
    (OSError) has no lines.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._known: dict[str, _Text] = {}

    def lines(self, where: Location) -> Sequence[str]:
        """The lines of the file, or of the notebook cell, that `where` is in, without their ends.

        >>> Texts(lambda path: b"a\\r\\nb\\n").lines(Location("net.py", 2, 1, 2, 2))
        ['a', 'b']
        """
        text = self._text(where.path)
        if text.notebook is not None:
            return () if where.cell is None else text.cells.get(where.cell, ())
        return text.lines

    def place(self, path: str, offset: int) -> Location | None:
        """Where byte `offset` of the Python source of `path` stands."""
        return self._text(path).place(path, offset)

    def _text(self, path: str) -> _Text:
        if path not in self._known:
            try:
                data = self._read(path)
            except OSError:
                data = b""
            self._known[path] = _Text(path, data)
        return self._known[path]


class _Text:
    def __init__(self, path: str, data: bytes) -> None:
        self.notebook = None
        self.cells: dict[int, Sequence[str]] = {}
        if path.endswith(".ipynb"):
            try:
                self.notebook = Notebook(data)
            except NotebookError:
                self.data = b""
            else:
                self.data = self.notebook.source
                self.cells = {
                    at: _split(cell) for at, cell in enumerate(self.notebook.cells, start=1)
                }
        else:
            self.data = data
        self._encoding = _encoding(self.data)
        rows = re.split(rb"(?<=\n)|(?<=\r)(?!\n)", self.data)
        self._rows = rows[:-1] if rows[-1] == b"" and len(rows) > 1 else rows
        self._starts = [0, *accumulate(map(len, self._rows))]
        self.lines = _split(self.data.decode(self._encoding, "replace").removeprefix("\ufeff"))

    def place(self, path: str, offset: int) -> Location | None:
        if offset > len(self.data):
            return None
        at = max(bisect_right(self._starts, offset) - 1, 0)
        if at == len(self._rows) and self.data[-1:] not in (b"\n", b"\r"):
            at -= 1
        before = self.data[self._starts[at] : offset].decode(self._encoding, "replace")
        column = len(before.removeprefix("\ufeff")) + 1
        cell, line = (None, at + 1) if self.notebook is None else self.notebook.locate(at + 1)
        return Location(path, line, column, line, column, cell)


def _split(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines[:-1] if lines[-1] == "" and len(lines) > 1 else lines


def _encoding(data: bytes) -> str:
    try:
        return tokenize.detect_encoding(io.BytesIO(data).readline)[0].removesuffix("-sig")
    except SyntaxError:
        return "utf-8"
