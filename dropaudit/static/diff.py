"""What a fix changes in a file, as a unified diff; of a notebook, cell by cell."""

from __future__ import annotations

import io
import tokenize
from difflib import unified_diff

from dropaudit.static.magics import split_lines


def unified(path: str, before: bytes, after: bytes) -> str:
    r"""The unified diff between two versions of a file; empty if nothing changed.

    The diff of a notebook is one of the sources of its changed cells, which people can read.

    >>> print(unified("net.py", b"a = 1\n", b"a = 2"), end="")
    --- net.py
    +++ net.py
    @@ -1 +1 @@
    -a = 1
    +a = 2
    \ No newline at end of file
    """
    if path.endswith(".ipynb"):
        return _cells(path, before, after)
    return _diff(path, _decoded(before), _decoded(after), mark=True)


def _cells(path: str, before: bytes, after: bytes) -> str:
    from dropaudit.static.notebooks import Notebook

    old, new = Notebook(before).cells, Notebook(after).cells
    parts = (
        _diff(f"{path}:cell {number}", one, other, mark=False)
        for number, (one, other) in enumerate(zip(old, new, strict=True), start=1)
    )
    return "".join(parts)


def _diff(name: str, before: str, after: str, mark: bool) -> str:
    """The diff; `mark` says that a file, unlike a cell, should end its last line."""
    text = ""
    for line in unified_diff(_lines(before), _lines(after), name, name):
        text += line
        if not line.endswith("\n"):
            text += "\n\\ No newline at end of file\n" if mark else "\n"
    return text


def _lines(text: str) -> list[str]:
    return split_lines(text) if text else []


def _decoded(data: bytes) -> str:
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError:
        encoding = "utf-8"
    return data.decode(encoding, "replace")
