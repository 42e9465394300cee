"""Fixes: to a fixpoint, never into a broken file, never beyond what was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.static.fixer import Fixed, compatible, edited, fix
from dropaudit.static.record import FileRecord

Mend = Callable[[re.Match[bytes]], tuple[Edit, ...]]


def _finding(code: str, *edits: Edit, safe: bool = True, line: int = 1) -> Finding:
    where = Location("net.py", line, 1, line, 2)
    mend = Fix("mend", edits, safe) if edits else None
    return Finding(code, "a-defect", Severity.ERROR, where, "wrong", "help", mend)


def _fixed(
    data: bytes,
    pattern: bytes,
    mend: Mend,
    *,
    path: str = "net.py",
    safe: bool = True,
    unsafe: bool = False,
    wanted: Callable[[Finding], bool] = lambda finding: True,
) -> Fixed:
    """Fix `data` with one rule that reports what `pattern` matches in the Python source."""

    def record_of(new: bytes) -> FileRecord:
        source = new
        if path.endswith(".ipynb"):
            from dropaudit.static.notebooks import Notebook

            source = Notebook(new).source
        matches = re.finditer(pattern, source)
        found = [
            _finding("DRP999", *mend(m), safe=safe, line=source.count(b"\n", 0, m.start()) + 1)
            for m in matches
        ]
        return FileRecord(path, tuple(found))

    return fix(
        path, data, record_of, lambda record: [f for f in record.findings if wanted(f)], unsafe
    )


def _by(text: str) -> Mend:
    return lambda match: (Edit(match.start(), match.end(), text),)


@pytest.mark.parametrize(
    ("before", "after", "applied"),
    [
        (b"a(bad)\nb(bad)\n", b"a(good)\nb(good)\n", 2),
        (b"nothing()\n", b"nothing()\n", 0),
        (b"\xef\xbb\xbfa(bad)\r\n", b"\xef\xbb\xbfa(good)\r\n", 1),
        ("é(bad)  # é\n".encode(), "é(good)  # é\n".encode(), 1),
        (
            "# coding: latin-1\né(bad)\n".encode("latin-1"),
            "# coding: latin-1\né(good)\n".encode("latin-1"),
            1,
        ),
        (b"bad", b"good", 1),
    ],
)
def test_every_fix_is_applied_and_no_other_byte_changes(
    before: bytes, after: bytes, applied: int
) -> None:
    """Marks, line ends, encodings and a missing last newline are kept."""
    found = _fixed(before, rb"\bbad\b", _by("good"))
    assert (found.data, len(found.applied), found.remaining) == (after, applied, ())


def test_nested_fixes_are_applied_in_rounds() -> None:
    """Edits that overlap wait for the next round, and are not lost."""
    data = b"f(f(f(1)))\n"
    found = _fixed(data, rb"f\((?=.*(\)+))[^\n]*", lambda m: (Edit(m.start(), m.start() + 1, "g"),))
    assert found.data == b"g(g(g(1)))\n"
    assert len(found.applied) == 3


def test_unsafe_fixes_are_applied_only_when_asked_for() -> None:
    """An unsafe fix stays among the remaining findings until `unsafe`."""
    left = _fixed(b"bad\n", rb"bad", _by("good"), safe=False)
    assert (left.data, len(left.remaining)) == (b"bad\n", 1)
    assert _fixed(b"bad\n", rb"bad", _by("good"), safe=False, unsafe=True).data == b"good\n"


def test_what_is_not_wanted_is_never_fixed() -> None:
    """A suppressed finding keeps its code, whatever other fixes do."""
    found = _fixed(b"bad\nbad\n", rb"bad", _by("good"), wanted=lambda f: f.where.line == 2)
    assert (found.data, found.remaining) == (b"bad\ngood\n", ())


def test_a_fix_that_breaks_the_syntax_is_left_out_and_said() -> None:
    """The other fixes are applied; the last good state is given back."""
    found = _fixed(
        b"a(bad1)\nb(bad2)\n",
        rb"bad(\d)",
        lambda m: (Edit(m.start(), m.end(), "good" if m[1] == b"2" else "x y"),),
    )
    assert found.data == b"a(bad1)\nb(good)\n"
    assert [f.code for f in found.remaining] == ["DRP999", "DRP000"]
    assert "breaks the file" in found.remaining[1].message


@pytest.mark.parametrize(
    "mend",
    [
        lambda m: (Edit(m.start(), m.end(), "worse" if m[0] == b"bad" else "bad"),),
        lambda m: (Edit(m.end(), m.end(), "_worse"),),
    ],
    ids=["around in circles", "ever longer"],
)
def test_fixes_that_never_end_leave_the_file_as_it_was(mend: Mend) -> None:
    """Neither a circle nor endless growth is written."""
    found = _fixed(b"bad\n", rb"bad|worse", mend)
    assert (found.data, found.applied) == (b"bad\n", ())
    assert [f.code for f in found.remaining] == ["DRP999", "DRP000"]


def test_a_fix_that_the_encoding_cannot_hold_is_left_out() -> None:
    """The file keeps its encoding; the finding remains."""
    data = b"# coding: ascii\nbad\n"
    found = _fixed(data, rb"bad", _by("日"))
    assert (found.data, [f.code for f in found.remaining]) == (data, ["DRP999"])


def test_inserted_lines_end_as_those_of_the_file() -> None:
    """A fix that adds a line to a file with CRLF adds CRLF."""
    found = _fixed(b"x = 1\r\nbad\r\n", rb"bad", _by("a\nb"))
    assert found.data == b"x = 1\r\na\r\nb\r\n"


def test_python_2_files_that_libcst_cannot_parse_are_left_alone() -> None:
    """A fix whose result no parser can confirm is not applied."""
    data = b"print 'x'\nbad\n"
    assert _fixed(data, rb"bad", _by("good")).data == data


SHARED = Edit(0, 0, "import torch\n")


@pytest.mark.parametrize(
    ("fixes", "chosen"),
    [
        ([[Edit(0, 3, "a")], [Edit(3, 5, "b")]], [0, 1]),
        ([[Edit(0, 3, "a")], [Edit(2, 5, "b")]], [0]),
        ([[Edit(2, 2, "a")], [Edit(2, 2, "b")]], [0]),
        ([[Edit(2, 2, ")")], [Edit(2, 2, ")")]], [0]),
        ([[Edit(2, 2, "a")], [Edit(0, 2, "b")]], [0]),
        ([[SHARED, Edit(5, 6, "a")], [SHARED, Edit(8, 9, "b")]], [0, 1]),
        ([[Edit(5, 6, "a")], [Edit(5, 6, "a")]], [0, 1]),
        ([[SHARED, Edit(5, 6, "a")], [SHARED, Edit(5, 7, "b")]], [0]),
        ([[Edit(0, 9, "a")], [Edit(4, 4, "b")], [Edit(20, 21, "c")]], [0, 2]),
    ],
)
def test_only_fixes_that_do_not_touch_go_together(
    fixes: list[list[Edit]], chosen: list[int]
) -> None:
    """Whole lines and replacements may be shared; anything else that touches must wait."""
    findings = [_finding(f"DRP{n}", *edits) for n, edits in enumerate(fixes)]
    assert compatible(findings) == [findings[n] for n in chosen]


def test_a_shared_import_is_added_once() -> None:
    """Two findings that need the same import line give one."""
    found = _fixed(b"bad1\nbad2\n", rb"bad\d", lambda m: (SHARED, Edit(m.start(), m.end(), "good")))
    assert found.data == b"import torch\ngood\ngood\n"


def test_edits_are_applied_whatever_their_order() -> None:
    """Offsets are those of the file before any edit."""
    assert edited(b"abc", [Edit(0, 1, "xx"), Edit(2, 3, "zz")]) == b"xxbzz"


NOTEBOOK = {"cells": [{"cell_type": "code", "source": ["!ls\n", "bad"]}], "nbformat": 4}


def test_notebooks_are_fixed_in_place() -> None:
    """Only the string of the changed line changes."""
    data = json.dumps(NOTEBOOK, indent=3).encode()
    found = _fixed(data, rb"bad", _by("good"), path="nb.ipynb")
    assert found.data == data.replace(b"bad", b"good")


def test_a_fix_that_breaks_a_cell_is_left_out() -> None:
    """A cell that is no longer Python would only be skipped by the next scan."""
    data = json.dumps(NOTEBOOK).encode()
    found = _fixed(data, rb"bad", _by("x y"), path="nb.ipynb")
    assert found.data == data
    assert [f.code for f in found.remaining] == ["DRP999", "DRP000"]
