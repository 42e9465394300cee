"""Notebooks as one Python source, and back: fixes change the bytes of their lines and no other.

All code cells are joined. A cell in another language (`%%bash`) is blank, and so is one that is
not Python at all: it is said in `broken`, and the rest is checked. A notebook for a kernel of
another language has no cells.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from json import JSONDecodeError
from typing import Any

from dropaudit.findings import Edit
from dropaudit.static.jsonspans import Value, items, literals, members, strings, unit, units
from dropaudit.static.jsonspans import value_at as json_value_at
from dropaudit.static.magics import Code, neutralized, split_lines

_MARK = b"\xef\xbb\xbf"
_COOKIE = re.compile(r"(?m)\A((?:[^\r\n]*(?:\r\n?|\n))?[ \t\f]*#.*?)coding(?=[:=][ \t]*[-\w.]+)")


class NotebookError(ValueError):
    """Why a file is not a notebook that can be read, in one sentence."""


@dataclass(frozen=True)
class Broken:
    """A code cell that is not Python: where, as `Location` counts, and why."""

    cell: int
    line: int
    column: int
    why: str


@dataclass(frozen=True)
class _Cell:
    source: Value
    pieces: tuple[Value, ...]
    text: str
    code: Code


class Notebook:
    r"""A notebook (nbformat 3 or 4) as Python.

    >>> notebook = Notebook(b'{"cells": [{"cell_type": "code", "source": ["!ls\\n", "x"]}]}')
    >>> notebook.source, notebook.locate(2)
    (b'pass\nx\n', (1, 2))
    >>> notebook.edited([Edit(5, 6, "y")])
    b'{"cells": [{"cell_type": "code", "source": ["!ls\\n", "y"]}]}'
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._text = _decoded(data)
        self._cells = _cells(self._text)
        virtual = ["".join(_virtual(cell)) for cell in self._cells]
        joined = "".join(virtual)
        self.source = _COOKIE.sub(r"\1c_ding", joined).encode("utf-8", "replace")
        counts = [len(_virtual(cell)) for cell in self._cells]
        self._first_lines = [1, *(1 + n for n in accumulate(counts))]

    @property
    def cells(self) -> tuple[str, ...]:
        """The text of each code cell, as it is in the file."""
        return tuple(cell.text for cell in self._cells)

    @property
    def cell_ends(self) -> frozenset[int]:
        """The last line in `source` of each code cell."""
        return frozenset(first - 1 for first in self._first_lines[1:])

    @property
    def starts(self) -> tuple[tuple[int, int], ...]:
        """(line in `source` that shows the first line of the cell, code cell from one) of each."""
        return tuple(
            (first + int(cell.code.indented), number)
            for number, (first, cell) in enumerate(
                zip(self._first_lines, self._cells, strict=False), start=1
            )
        )

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The code cells that are not Python and are blank in `source`."""
        return tuple(
            Broken(number, cell.code.line, cell.code.column, cell.code.why)
            for number, cell in enumerate(self._cells, start=1)
            if cell.code.why
        )

    def locate(self, line: int) -> tuple[int, int]:
        """(code cell from one, line within it) of a line of `source`."""
        at = max(min(bisect_right(self._first_lines, line), len(self._cells)) - 1, 0)
        inside = line - self._first_lines[at] + 1
        if self._cells and self._cells[at].code.indented:
            inside -= 1
        return at + 1, max(inside, 1)

    def edited(self, edits: Iterable[Edit]) -> bytes:
        """The file with `edits` of `source` carried over.

        Raises ValueError for an edit that spans cells or changes a line that is not Python.
        """
        changes: dict[int, list[tuple[int, int, str]]] = {}
        for edit in sorted(edits):
            cell, start, stop = self._inside_cell(edit)
            changes.setdefault(cell, []).append((start, stop, edit.text))
        text = self._text
        for at in sorted(changes, reverse=True):
            cell_ = self._cells[at]
            rewritten = _rewritten(self._text, cell_, changes[at], self._ascii_only)
            text = text[: cell_.source.start] + rewritten + text[cell_.source.stop :]
        mark = _MARK if self._data.startswith(_MARK) else b""
        return mark + text.encode("utf-8")

    def _inside_cell(self, edit: Edit) -> tuple[int, int, int]:
        """(index of the cell, start, stop) in characters of the text of the cell."""
        first = bisect_right(self._line_bytes, edit.start) - 1
        at = min(bisect_right(self._first_lines, first + 1), len(self._cells)) - 1
        if at < 0 or edit.stop > self._line_bytes[self._first_lines[at + 1] - 1]:
            raise ValueError("an edit spans cells")
        cell = self._cells[at]
        start = self._character(at, cell, edit.start)
        stop = self._character(at, cell, edit.stop)
        passed = 0
        for original, python in zip(split_lines(cell.text), cell.code.lines, strict=True):
            inside = passed < stop and start < passed + len(original)
            if inside and original != python and start < stop:
                raise ValueError("an edit of a line that is not Python")
            passed += len(original)
        return at, start, stop

    def _character(self, at: int, cell: _Cell, offset: int) -> int:
        """The character of the text of a cell at byte `offset` of `source`."""
        line = bisect_right(self._line_bytes, offset) - 1
        inside = line - (self._first_lines[at] - 1) - cell.code.indented
        column = len(self.source[self._line_bytes[line] : offset].decode("utf-8"))
        if inside < 0:
            raise ValueError("an edit outside of the cell")
        originals = split_lines(cell.text)
        if inside >= len(originals):
            return len(cell.text)
        if column and originals[inside] != cell.code.lines[inside]:
            raise ValueError("an edit of a line that is not Python")
        return min(sum(map(len, originals[:inside])) + column, len(cell.text))

    @cached_property
    def _line_bytes(self) -> list[int]:
        """The byte of `source` at which each line starts, and the end."""
        lines = re.split(rb"(?<=\n)|(?<=\r)(?!\n)", self.source)
        return [0, *accumulate(map(len, lines[:-1] if lines[-1] == b"" else lines))]

    @cached_property
    def _ascii_only(self) -> bool:
        """Whether the file writes characters beyond ASCII as escapes."""
        escaped = re.search(r"\\u(?!00[0-7])[0-9a-fA-F]{4}", self._text)
        return self._text.isascii() and escaped is not None


def _decoded(data: bytes) -> str:
    try:
        return data.removeprefix(_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotebookError(f"is not a notebook: byte {error.start} is not UTF-8") from error


def _cells(text: str) -> list[_Cell]:
    if not text.strip():
        raise NotebookError("is not a notebook: the file is empty")
    try:
        root = json_value_at(text)
        rest = text[root.stop :].strip(" \t\r\n")
    except JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise NotebookError(f"is not a notebook: {error.msg} at {where}") from error
    except RecursionError as error:
        raise NotebookError("is not a notebook: its JSON is nested too deeply") from error
    if rest or not isinstance(root.value, dict):
        raise NotebookError("is not a notebook: it is not one JSON object")
    top = members(text, root)
    version = top["nbformat"].value if "nbformat" in top else None
    if version is not None and version not in (3, 4):
        raise NotebookError(f"is a notebook of nbformat {version}; only 3 and 4 can be read")
    language = _language(root.value)
    if not _is_python(language):
        return []
    return [cell for value in _cell_values(text, top) if (cell := _cell(text, value))]


def _cell_values(text: str, top: dict[str, Value]) -> list[Value]:
    if "cells" in top:
        holders = [top["cells"]]
    elif "worksheets" in top and isinstance(top["worksheets"].value, list):
        sheets = [s for s in items(text, top["worksheets"]) if isinstance(s.value, dict)]
        holders = [s["cells"] for s in (members(text, s) for s in sheets) if "cells" in s]
    else:
        raise NotebookError("is not a notebook: it has no cells")
    if not all(isinstance(holder.value, list) for holder in holders):
        raise NotebookError("is not a notebook: its cells are not an array")
    return [value for holder in holders for value in items(text, holder)]


def _cell(text: str, value: Value) -> _Cell | None:
    if not isinstance(value.value, dict) or value.value.get("cell_type") != "code":
        return None
    inside = members(text, value)
    source = inside.get("source") or inside.get("input")
    if source is None or not _is_source(source.value):
        raise NotebookError("is not a notebook: a code cell has no source")
    pieces = strings(text, source)
    code = "".join(piece.value for piece in pieces)
    python = code.encode("utf-8", "replace").decode("utf-8")
    if _is_python(_cell_language(value.value)):
        return _Cell(source, pieces, code, neutralized(python))
    blank = tuple(line[len(line.rstrip("\r\n")) :] for line in split_lines(python))
    return _Cell(source, pieces, code, Code(blank))


def _is_source(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(piece, str) for piece in value)
    )


def _language(root: dict[str, Any]) -> Any:
    """The language of the kernel; Python where nothing is said."""
    metadata = _dict(root.get("metadata"))
    named = _dict(metadata.get("language_info")).get("name")
    return named or _dict(metadata.get("kernelspec")).get("language") or "python"


def _cell_language(cell: dict[str, Any]) -> Any:
    vscode = _dict(_dict(cell.get("metadata")).get("vscode")).get("languageId")
    return vscode or cell.get("language") or "python"


def _is_python(language: Any) -> bool:
    return (
        isinstance(language, str) and re.fullmatch(r"i?python[\d.]*", language.lower()) is not None
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _virtual(cell: _Cell) -> tuple[str, ...]:
    """The lines of a cell in the source: whole lines, and a block around what is indented."""
    bare = [line[:-1] + "\n" if line.endswith("\r") else line for line in cell.code.lines]
    if not bare[-1].endswith("\n"):
        bare[-1] += "\n"
    lines = tuple(bare)
    return ("if 1:\n", *lines) if cell.code.indented else lines


def _rewritten(
    text: str, cell: _Cell, changes: list[tuple[int, int, str]], ascii_only: bool
) -> str:
    """The JSON of the source of a cell after `changes`; untouched strings and blanks are kept."""
    pieces = [units(text[piece.start : piece.stop]) for piece in cell.pieces]
    kept: list[int | None] = list(range(len(pieces)))
    newline = "\r\n" if "\r\n" in cell.text else "\n"
    for start, stop, new in reversed(changes):
        new = newline.join(new.replace("\r\n", "\n").split("\n"))
        added = [unit(character, ascii_only) for character in new]
        first, head = _piece(pieces, start)
        last, tail = _piece(pieces, stop, closing=stop > start)
        before = pieces[first][:head] if pieces else []
        after = pieces[last][tail:] if pieces else []
        middle = before + added + after
        if middle and middle[-1] not in ("\\n", "\\r") and last + 1 < len(pieces):
            last += 1
            middle = middle + pieces[last]
        fresh = _by_line(middle) if isinstance(cell.source.value, list) else [middle]
        pieces[first : last + 1] = fresh
        kept[first : last + 1] = [None] * len(fresh)
    if pieces and pieces[-1][-1:] == ["\\n"] and not cell.text.endswith("\n"):
        pieces[-1] = pieces[-1][: -2 if pieces[-1][-2:-1] == ["\\r"] else -1]
        kept[-1] = None
    return _serialized(text, cell, pieces, kept)


def _piece(pieces: list[list[str]], at: int, closing: bool = False) -> tuple[int, int]:
    """(index, offset in it) of the piece that holds `at`; the one before a seam if `closing`."""
    passed = 0
    for index, piece in enumerate(pieces):
        inside = at - passed
        if inside < len(piece) or (closing and inside == len(piece)):
            return index, inside
        passed += len(piece)
    return max(len(pieces) - 1, 0), at - passed + len(pieces[-1]) if pieces else 0


def _by_line(middle: list[str]) -> list[list[str]]:
    lines: list[list[str]] = [[]]
    for one in middle:
        lines[-1].append(one)
        if one == "\\n":
            lines.append([])
    return [line for line in lines if line]


def _serialized(text: str, cell: _Cell, pieces: list[list[str]], kept: list[int | None]) -> str:
    if isinstance(cell.source.value, str):
        return literals(pieces)[0]
    if not pieces:
        return "[]"
    old = cell.pieces
    opening = text[cell.source.start : old[0].start] if old else "["
    closing = text[old[-1].stop : cell.source.stop] if old else "]"
    between = text[old[0].stop : old[1].start] if len(old) > 1 else "," + (opening[1:] or " ")
    out = [opening]
    for at, (literal, origin) in enumerate(zip(literals(pieces), kept, strict=True)):
        if at:
            before = kept[at - 1]
            follows = origin is not None and before is not None and origin == before + 1
            out.append(
                text[old[origin - 1].stop : old[origin].start] if follows and origin else between
            )
        out.append(literal)
    return "".join([*out, closing])
