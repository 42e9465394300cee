"""Comments that silence findings, found, applied and judged."""

from __future__ import annotations

import pytest

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.fixer import edited
from dropaudit.static.record import FileRecord
from dropaudit.static.suppressions import apply, find


def found(source: str) -> list[tuple[str, tuple[str, ...], tuple[int, int] | None]]:
    return [(s.form, s.codes, s.lines) for s in find("net.py", source.encode(), None)]


def finding(code: str, line: int, end_line: int | None = None) -> Finding:
    where = Location("net.py", line, 1, end_line or line, 2)
    return Finding(code, "name", Severity.ERROR, where, "message")


def judged(source: str, *findings: Finding, selected: str = "") -> list[tuple[str, int, str]]:
    record = FileRecord("net.py", findings, find("net.py", source.encode(), None))
    left = apply(record, lambda code: not selected or code in selected.split())
    return [(f.code, f.where.line, f.message) for f in left]


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# noqa", [("noqa", (), (1, 1))]),
        ("#noqa", [("noqa", (), (1, 1))]),
        ("# NoQA:", [("noqa", (), (1, 1))]),
        ("# noqa: DRP201", [("noqa", ("DRP201",), (1, 1))]),
        ("# noqa:drp201", [("noqa", ("DRP201",), (1, 1))]),
        ("# noqa : DRP201,DRP202 DRP2", [("noqa", ("DRP201", "DRP202", "DRP2"), (1, 1))]),
        ("# noqa: E501, DRP201 on purpose", [("noqa", ("DRP201",), (1, 1))]),
        ("# noqa: E501", []),
        ("# noqa: on purpose", []),
        ("# noqabc", []),
        ("# see noqa", []),
        ("# type: ignore # noqa: DRP201", [("noqa", ("DRP201",), (1, 1))]),
        ("# dropaudit: ignore[DRP201] why", [("ignore", ("DRP201",), (1, 1))]),
        (
            "# dropaudit:ignore[drp201, discarded-result]",
            [("ignore", ("DRP201", "DRP401"), (1, 1))],
        ),
        ("# dropaudit: ignore", [("ignore", (), (1, 1))]),
        ("# dropaudit: file-ignore[DRP2]", [("file-ignore", ("DRP2",), None)]),
        ("# dropaudit: file-ignore", [("file-ignore", (), None)]),
        ("# dropaudit: ignored", []),
    ],
)
def test_the_forms_of_comments(comment: str, expected: list[object]) -> None:
    """As ruff and flake8 read `noqa`; our own form takes names too."""
    assert found(f"x = 1  {comment}\n") == expected


@pytest.mark.parametrize(
    "source",
    [
        "x = '# noqa'\n",
        "x = '''\n# noqa\n'''\n",
        "x = r\"\\\" '# noqa'\n",
        "x = '\\\n# noqa'\n",
    ],
)
def test_strings_are_no_comments(source: str) -> None:
    """Whatever they hold."""
    assert found(source) == []


def test_a_comment_after_joined_lines_counts_for_all_of_them() -> None:
    """There is no other place for it."""
    assert found('f("""a\n b\n""")  # noqa\n') == [("noqa", (), (1, 3))]
    assert found("x = 1 + \\\n  2  # noqa\n") == [("noqa", (), (1, 2))]


def test_comments_are_found_in_what_is_not_python() -> None:
    """Newer syntax, broken syntax, other line ends, no line end."""
    assert found("x = (\r\n]]  # noqa\r# noqa: DRP201")[0][2] == (2, 2)
    assert found("x = (\r\n]]  # noqa\r# noqa: DRP201")[1][2] == (3, 3)


@pytest.mark.parametrize("line", [1, 3])
def test_the_first_and_the_last_line_of_a_finding_count(line: int) -> None:
    """A line between does not."""
    lines = ["f(", "x", ")"]
    lines[line - 1] += "  # noqa: DRP401"
    assert judged("\n".join(lines), finding("DRP401", 1, 3)) == []


def test_a_line_between_does_not_count() -> None:
    """The twin of the above."""
    left = judged("f(\nx  # noqa: DRP401\n)\n", finding("DRP401", 1, 3))
    assert [code for code, _, _ in left] == ["DRP401", "DRP001"]


@pytest.mark.parametrize(
    ("source", "messages"),
    [
        ("x  # noqa\n", []),
        ("x  # noqa: E501\n", []),
        ("x  # noqa: DRP201\n", ["unused suppression: DRP201 is not reported here"]),
        ("x  # noqa: DRP2\n", ["unused suppression: DRP2 is not reported here"]),
        ("x  # dropaudit: ignore\n", ["unused suppression: there is nothing to silence"]),
        (
            "# dropaudit: file-ignore[DRP201]\n",
            ["unused suppression: DRP201 is not reported here"],
        ),
        (
            "x  # dropaudit: ignore[DRP2O1]\n",
            ["unused suppression: DRP2O1 is no rule (did you mean DRP201?)"],
        ),
        ("x  # noqa: DRP201  # noqa: DRP001\n", []),
        ("x  # noqa: DRP201, DRP001\n", []),
    ],
)
def test_unused_suppressions_are_reported(source: str, messages: list[str]) -> None:
    """Except those that other tools may need."""
    assert [said for _, _, said in judged(source)] == messages


def test_only_selected_codes_are_judged() -> None:
    """`--select DRP401` says nothing about suppressions of DRP201."""
    assert judged("x  # noqa: DRP201\n", selected="DRP401 DRP001") == []


def test_a_file_that_could_not_be_checked_is_not_judged() -> None:
    """And nothing but its code silences that."""
    source = "x  # noqa\n# dropaudit: file-ignore\n# noqa: DRP201\n"
    assert [code for code, _, _ in judged(source, finding("DRP000", 1))] == ["DRP000"]
    assert judged("x  # noqa: DRP000\n", finding("DRP000", 1)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = 1  # noqa: DRP201\n", "x = 1\n"),
        ("x = 1  # noqa: DRP201 why\r\ny\r\n", "x = 1\r\ny\r\n"),
        ("x = 1  # noqa: E501, DRP201\n", "x = 1  # noqa: E501\n"),
        ("x = 1  # noqa: DRP201,E501 # why\n", "x = 1  # noqa: E501 # why\n"),
        ("x = 1  # type: ignore  # noqa: DRP201\n", "x = 1  # type: ignore\n"),
        ("x = 1  # noqa: DRP201  # kept\n", "x = 1  # kept\n"),
        ("é = 1  # dropaudit: ignore[DRP201]  ü\n", "é = 1\n"),
        ("\ufeffx = 1  # dropaudit: ignore[DRP201]\n", "\ufeffx = 1\n"),
        ("a\n# dropaudit: file-ignore[DRP201]\nb\n", "a\nb\n"),
        ("x  # dropaudit: ignore[DRP201, DRP401] why\n", "x  # dropaudit: ignore[DRP401] why\n"),
    ],
)
def test_the_fix_removes_what_is_unused_and_no_more(before: str, after: str) -> None:
    """Other codes, other comments, line ends and encodings stay."""
    data = before.encode()
    record = FileRecord("net.py", (finding("DRP401", 1),), find("net.py", data, None))
    (unused,) = [f for f in apply(record, lambda code: True) if f.code == "DRP001"]
    assert unused.fix is not None and unused.fix.safe
    assert edited(data, unused.fix.edits).decode() == after
