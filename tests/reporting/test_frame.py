"""Code frames: the right lines, the carets under the right columns."""

from __future__ import annotations

import pytest

from dropaudit.findings import Location
from dropaudit.reporting.frame import frame
from dropaudit.reporting.terminal import width


def _frame(lines: list[str], *where: int) -> list[str]:
    return frame(Location("net.py", *where), lines, "DRP1").splitlines()


@pytest.mark.parametrize(
    ("line", "columns", "marked"),
    [
        ("x = drop(y)", (5, 12), "drop(y)"),
        ("\tx = drop(y)", (6, 13), "drop(y)"),
        ("日本 = drop(日)", (6, 13), "drop(日)"),
        ("é = e\u0301 + drop(y)", (10, 17), "drop(y)"),
        ("a\x1b[31m = drop(y)", (10, 17), "drop(y)"),
        ("x = drop(y)", (12, 40), ""),
        ("x = drop(y)", (5, 5), "d"),
        ("x" * 500 + " = drop(y) + " + "y" * 500, (504, 511), "drop(y)"),
        ("", (1, 2), ""),
    ],
)
def test_carets_stand_under_what_is_reported(
    line: str, columns: tuple[int, int], marked: str
) -> None:
    """Whatever is wide, a tab, combining, a control character or far to the right."""
    _, text, carets, _ = _frame([line], 1, columns[0], 1, columns[1])
    start = carets.index("^")
    above = ""
    at = 0
    for character in text:
        if start <= at < start + carets.count("^"):
            above += character
        at += width(character)
    assert above == marked
    assert width(text) < 170
    assert "\x1b" not in text
    assert carets.endswith("^ DRP1")


def test_a_range_of_lines_has_a_bar_from_its_start_to_its_end() -> None:
    """From the start of a line, or from the middle of one."""
    lines = ["a(", "  b", ")", "c"]
    assert _frame(lines, 1, 1, 3, 2) == [
        "  |",
        "1 | / a(",
        "2 | |   b",
        "3 | | )",
        "  | |_^ DRP1",
        "4 |   c",
        "  |",
    ]
    assert _frame(["x = a(", "  b", ")"], 1, 5, 3, 2) == [
        "  |",
        "1 |   x = a(",
        "  |  _____^",
        "2 | |   b",
        "3 | | )",
        "  | |_^ DRP1",
        "  |",
    ]


def test_the_middle_of_a_long_range_is_left_out() -> None:
    """A class of a hundred lines does not fill the screen."""
    shown = _frame([f"line{n}" for n in range(1, 101)], 1, 1, 100, 5)
    assert len(shown) < 12
    assert "..." in shown


def test_lines_that_do_not_exist_have_no_frame() -> None:
    """A file that changed since, or could not be read."""
    assert _frame([], 1, 1, 1, 2) == []
    assert _frame(["a"], 2, 1, 2, 2) == []


def test_blank_lines_at_the_edges_are_left_out() -> None:
    """Context is what helps to see."""
    assert _frame(["", "", "a", "", ""], 3, 1, 3, 2) == ["  |", "3 | a", "  | ^ DRP1", "  |"]
