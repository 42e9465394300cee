"""Lines and places in the source behind findings."""

from __future__ import annotations

import json

import pytest

from dropaudit.findings import Location
from dropaudit.static.texts import Texts


@pytest.mark.parametrize(
    ("data", "offset", "place"),
    [
        (b"a\nbc\n", 3, (2, 2)),
        (b"a\nbc\n", 5, (3, 1)),
        (b"a\nbc", 4, (2, 3)),
        (b"a\r\nb", 3, (2, 1)),
        (b"\xef\xbb\xbfab", 4, (1, 2)),
        ("é = 1".encode(), 2, (1, 2)),
        ("# coding: latin-1\né = 1".encode("latin-1"), 19, (2, 2)),
        (b"", 0, (1, 1)),
    ],
)
def test_offsets_in_bytes_become_lines_and_columns(
    data: bytes, offset: int, place: tuple[int, int]
) -> None:
    """Columns count characters."""
    found = Texts(lambda path: data).place("net.py", offset)
    assert found is not None
    assert (found.line, found.column) == place


def test_cells_have_their_own_lines() -> None:
    """As they are in the notebook, magics included."""
    cells = [{"cell_type": "code", "source": s} for s in ("!ls\nx", "y")]
    texts = Texts(lambda path: json.dumps({"cells": cells}).encode())
    assert texts.lines(Location("nb.ipynb", 1, 1, 1, 2, cell=1)) == ["!ls", "x"]
    assert texts.place("nb.ipynb", 5) == Location("nb.ipynb", 2, 1, 2, 1, cell=1)
    assert texts.place("nb.ipynb", 7) == Location("nb.ipynb", 1, 1, 1, 1, cell=2)


@pytest.mark.parametrize("path", ["gone.py", "gone.ipynb"])
def test_what_cannot_be_read_has_no_text(path: str) -> None:
    """Nothing is raised: the finding is reported all the same."""

    def gone(path: str) -> bytes:
        raise FileNotFoundError(path)

    texts = Texts(gone)
    assert [*texts.lines(Location(path, 3, 1, 3, 2))] in ([], [""])
    assert texts.place(path, 7) is None
