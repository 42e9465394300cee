"""Findings that are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.baseline import BaselineError, load, save

BEFORE = ["import a", "x = drop(x)", "x = drop(x)"]


def finding(path: Path, line: int) -> Finding:
    where = Location(str(path), line, 1, line, 2)
    return Finding("DRP201", "name", Severity.ERROR, where, "message")


def test_findings_stay_known_when_lines_move(tmp_path: Path) -> None:
    """And one more on an equal line is new."""
    net, file = tmp_path / "net.py", tmp_path / "b.json"
    assert save(file, [finding(net, 2), finding(net, 3)], lambda where: BEFORE) == 2
    after = ["", "", *BEFORE, "    x =   drop(x)"]
    found = [finding(net, 4), finding(net, 5), finding(net, 6)]
    assert load(file).new(found, lambda where: after) == [found[2]]
    assert load(file).stale(found[:1], lambda where: after) == [
        ("net.py", "DRP201", "x = drop(x)", 1)
    ]


def test_a_baseline_holds_no_line_number_and_no_absolute_path(tmp_path: Path) -> None:
    """It survives edits and is the same for everyone."""
    file = tmp_path / "b.json"
    save(file, [finding(tmp_path / "src" / "net.py", 2)], lambda where: BEFORE)
    value = json.loads(file.read_text())
    entry = {"path": "src/net.py", "code": "DRP201", "line": "x = drop(x)", "ordinal": 0}
    assert value == {"version": 1, "findings": [entry]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "findings": []}',
        '{"version": 1, "findings": [1]}',
        '{"version": 1, "findings": [{"path": 1, "code": "", "line": "", "ordinal": 0}]}',
        '{"version": 1, "findings": {}}',
    ],
)
def test_a_broken_baseline_is_an_error(tmp_path: Path, text: str) -> None:
    """One sentence with the file."""
    file = tmp_path / "b.json"
    file.write_text(text)
    with pytest.raises(BaselineError, match=r"b\.json cannot be used: "):
        load(file)
