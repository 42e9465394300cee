"""Comments that `--add-noqa` writes."""

from __future__ import annotations

import json

import pytest

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.noqa import add


def finding(code: str, line: int, cell: int | None = None) -> Finding:
    where = Location("net.py", line, 1, line, 2, cell)
    return Finding(code, "name", Severity.ERROR, where, "message")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x\n", "x  # noqa: DRP201\n"),
        ("x", "x  # noqa: DRP201"),
        ("x   \r\ny\r\n", "x  # noqa: DRP201\r\ny\r\n"),
        ("é  # why\n", "é  # why  # noqa: DRP201\n"),
        ("x  # noqa: E501\n", "x  # noqa: E501, DRP201\n"),
        ("x  # noqa:E501 # why\n", "x  # noqa:E501, DRP201 # why\n"),
        ('f("""\n"""\n)\n', 'f("""\n"""  # noqa: DRP201\n)\n'),
        ("x = 1 + \\\n  2\n", "x = 1 + \\\n  2  # noqa: DRP201\n"),
        ("\ufeffx\n", "\ufeffx  # noqa: DRP201\n"),
    ],
)
def test_the_comment_stands_where_it_counts(before: str, after: str) -> None:
    """After joined lines, in a comment that is there, before the line end."""
    data, count = add("net.py", before.encode(), [finding("DRP201", 1), finding("DRP201", 1)])
    assert data.decode() == after
    assert count == 1


def test_several_codes_share_a_comment_and_some_get_none() -> None:
    """A file that could not be checked stays reported."""
    found = [finding("DRP401", 1), finding("DRP201", 1), finding("DRP000", 1)]
    assert add("net.py", b"x\n", found) == (b"x  # noqa: DRP201, DRP401\n", 2)


def test_notebooks_get_comments_in_their_cells() -> None:
    """Lines count within a cell."""
    cells = [{"cell_type": "code", "source": source} for source in (["a\n", "b"], ["c\n", "d"])]
    data, _ = add("n.ipynb", json.dumps({"cells": cells}).encode(), [finding("DRP201", 2, 2)])
    assert [cell["source"] for cell in json.loads(data)["cells"]] == [
        ["a\n", "b"],
        ["c\n", "d  # noqa: DRP201"],
    ]
