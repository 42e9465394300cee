"""One file in, one record out, whatever the bytes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dropaudit.static import checker
from dropaudit.static.checker import Unreadable, check, read, unparsed
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.record import FileRecord, Options

OPTIONS = Options()
BAD = b"import torch.nn.functional as F\nF.dropout(x, 0.5, self.training)\n"  # DRP401


def said(record: FileRecord) -> list[tuple[str, int]]:
    return [(f.code, f.where.line) for f in record.findings]


def test_a_defect_is_found_and_named_by_the_path_given() -> None:
    """The record and its findings hold the path as it was given."""
    record = check("a/net.py", BAD, OPTIONS)
    assert said(record) == [("DRP401", 2)]
    assert (record.path, record.findings[0].where.path) == ("a/net.py", "a/net.py")


SILENT = {
    "empty": b"",
    "one newline": b"\n",
    "no dropout": b"x = 1\n",
    "Python 2 without any of the words": b"print 'x'\n",
    "binary without any of the words": b"\0\1\2\xff",
}


@pytest.mark.parametrize("data", SILENT.values(), ids=SILENT)
def test_what_holds_no_trigger_is_not_parsed(data: bytes) -> None:
    """It cannot hold a finding, so it need not be Python."""
    assert check("net.py", data, OPTIONS) == FileRecord("net.py", facts=FileFacts())
    assert unparsed("net.py", data) == FileRecord("net.py", facts=FileFacts())


DROPOUT = b"import torch.nn.functional as F\nx = F.dropout(x)\n"
UNCHECKED = {
    "NUL bytes": (DROPOUT + b"\0", "NUL bytes"),
    "Python 2": (DROPOUT + b"print 'x'\n", "cannot be parsed"),
    "wrong bytes": (DROPOUT + b"# \xff\n", "cannot be decoded"),
    "1,600 brackets": (DROPOUT + b"x = " + b"(" * 1600 + b")" * 1600, "more than 200 brackets"),
    "open brackets": (DROPOUT + b"x = " + b"(" * 5000, "more than 200 brackets"),
    "too large": (DROPOUT + b"#" * checker.MAX_BYTES, "is larger than 10 MB"),
}


@pytest.mark.parametrize(("data", "why"), UNCHECKED.values(), ids=UNCHECKED)
def test_what_cannot_be_checked_says_why(data: bytes, why: str) -> None:
    """Exactly one finding: DRP000."""
    (finding,) = check("net.py", data, OPTIONS).findings
    assert finding.code == "DRP000"
    assert why in finding.message
    assert "\n" not in finding.message


@pytest.mark.parametrize("crash", [RecursionError(), MemoryError(), KeyError("x")])
def test_a_crash_is_a_finding(crash: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """No exception leaves `check`."""

    def broken(*args: object, **options: object) -> None:
        raise crash

    monkeypatch.setattr("dropaudit.static.scanner.scan_file", broken)
    (finding,) = check("net.py", DROPOUT, OPTIONS).findings
    assert finding.code == "DRP000"


NOTEBOOK = b"""{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
 {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["text"]},
 {"cell_type": "code", "id": "b", "metadata": {}, "outputs": [], "execution_count": null,
  "source": ["%matplotlib inline\\n", "import torch.nn.functional as F"]},
 {"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "execution_count": null,
  "source": ["def f(x):\\n", "  F.dropout(x, 0.5, self.training)\\n", "  return x"]}]}
"""


def test_findings_in_a_notebook_count_cells_and_their_lines() -> None:
    """Cells of code from one, lines within them."""
    (finding,) = check("a.ipynb", NOTEBOOK, OPTIONS).findings
    assert str(finding.where) == "a.ipynb:cell 2:2:3"
    assert finding.where.end_line == 2


def test_what_is_no_notebook_says_so() -> None:
    """One sentence."""
    (finding,) = check("a.ipynb", b"F.dropout(x)", OPTIONS).findings
    assert finding.code == "DRP000"


def test_reading_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a directory, too large; and no more than the bound is read."""
    with pytest.raises(Unreadable, match="cannot be read: No such file"):
        read(tmp_path / "missing.py")
    with pytest.raises(Unreadable, match="cannot be read: "):
        read(tmp_path)
    monkeypatch.setattr(checker, "MAX_BYTES", 10)
    (tmp_path / "a.py").write_bytes(b"x" * 11)
    with pytest.raises(Unreadable, match="is larger than"):
        read(tmp_path / "a.py")
    with pytest.raises(Unreadable, match="is larger than"):
        read(Path("/dev/zero"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    """By the words of the system."""
    (tmp_path / "a.py").write_bytes(b"")
    (tmp_path / "a.py").chmod(0)
    with pytest.raises(Unreadable, match="Permission denied"):
        read(tmp_path / "a.py")
