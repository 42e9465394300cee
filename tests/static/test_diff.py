"""Diffs of what a fix changes."""

from __future__ import annotations

import json

import pytest

from dropaudit.static.diff import unified


@pytest.mark.parametrize(
    ("before", "after", "diff"),
    [
        (b"a\nb\n", b"a\nb\n", ""),
        (b"a\nb\n", b"a\nc\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n"),
        (b"a\r\n", b"b\r\n", "@@ -1 +1 @@\n-a\r\n+b\r\n"),
        (b"", b"a\n", "@@ -0,0 +1 @@\n+a\n"),
        (
            b"a",
            b"b",
            "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n",
        ),
        (
            "# coding: latin-1\né\n".encode("latin-1"),
            b"# coding: latin-1\n",
            "@@ -1,2 +1 @@\n # coding: latin-1\n-é\n",
        ),
    ],
)
def test_files_are_compared_line_by_line(before: bytes, after: bytes, diff: str) -> None:
    """As `patch` reads it."""
    head = "--- net.py\n+++ net.py\n" if diff else ""
    assert unified("net.py", before, after) == head + diff


def test_notebooks_are_compared_cell_by_cell() -> None:
    """The JSON is not shown; cells that did not change are left out."""

    def notebook(*sources: str) -> bytes:
        cells = [{"cell_type": "code", "source": source} for source in sources]
        return json.dumps({"cells": cells}).encode()

    assert unified("nb.ipynb", notebook("a", "b\nc"), notebook("a", "b\nd")) == (
        "--- nb.ipynb:cell 2\n+++ nb.ipynb:cell 2\n@@ -1,2 +1,2 @@\n b\n-c\n+d\n"
    )
