"""The closing lines, colors and statistics."""

from __future__ import annotations

import json
import re

import pytest

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome, render
from dropaudit.reporting.footer import footer
from dropaudit.reporting.statistics import statistics
from tests.reporting.samples import FINDINGS, IN_CELL, LINES, ONE_LINE, outcome


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (outcome(), "All checks passed!\n"),
        (
            outcome(ONE_LINE),
            "Found 1 error.\n[*] 1 fixable with the `--fix` option.\n",
        ),
        (
            outcome(LINES, LINES),
            "Found 2 errors.\n"
            "No fixes available "
            "(2 hidden fixes can be enabled with the `--unsafe-fixes` option).\n",
        ),
        (
            outcome(ONE_LINE, LINES, unsafe_fixes=True),
            "Found 2 errors.\n[*] 2 fixable with the `--fix` option.\n",
        ),
        (outcome(IN_CELL), "Found 1 note.\n"),
        (
            outcome(IN_CELL, fixed=(ONE_LINE, LINES)),
            "Found 2 errors and 1 note (2 fixed, 1 remaining).\n",
        ),
        (outcome(fixed=(ONE_LINE,)), "Found 1 error (1 fixed, 0 remaining).\n"),
        (
            outcome(fixed=(ONE_LINE, ONE_LINE, LINES), show_fixes=True),
            "\nFixed 3 errors:\n- src/net.py:\n"
            "    2 × DRP201 (functional-dropout-ignoring-mode)\n"  # noqa: RUF001
            "    1 × DRP205 (some-warning)\n\n"  # noqa: RUF001
            "Found 3 errors (3 fixed, 0 remaining).\n",
        ),
    ],
)
def test_the_footer_counts_as_ruff_does(found: Outcome, text: str) -> None:
    """What was found, what was fixed, what could be."""
    assert footer(found) == text


@pytest.mark.parametrize("name", ["full", "concise", "grouped"])
def test_colors_change_nothing_but_the_looks(name: str) -> None:
    """Without the escape codes the text is the same; without `color` there are none."""
    plain = render(name, outcome(*FINDINGS))
    colored = render(name, outcome(*FINDINGS, color=True))
    assert "\x1b[" in colored and "\x1b[" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == plain


def _mixed() -> tuple[Finding, ...]:
    unfixable = Finding(ONE_LINE.code, ONE_LINE.name, ONE_LINE.severity, ONE_LINE.where, "m")
    return (ONE_LINE, unfixable, LINES, IN_CELL, IN_CELL, IN_CELL)


def test_statistics_count_by_rule() -> None:
    """The most frequent first; all, some or none of its findings can be fixed."""
    assert statistics(outcome(*_mixed(), unsafe_fixes=True)) == (
        "3\tDRP401\t[ ] discarded-result\n"
        "2\tDRP201\t[-] functional-dropout-ignoring-mode\n"
        "1\tDRP205\t[*] some-warning\n"
    )
    assert statistics(outcome(IN_CELL)) == "1\tDRP401\tdiscarded-result\n"
    assert statistics(outcome()) == ""


def test_statistics_as_json() -> None:
    """The same counts for programs."""
    assert json.loads(statistics(outcome(*_mixed()), "json"))[1] == {
        "code": "DRP201",
        "name": "functional-dropout-ignoring-mode",
        "count": 2,
        "fixable": False,
        "fixable_count": 1,
    }
