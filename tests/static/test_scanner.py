"""From bytes to findings: encodings, line ends, columns, edits, and what cannot be parsed."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import libcst as cst
import pytest

from dropaudit.catalogue import Rule
from dropaudit.findings import Edit
from dropaudit.static.prefilter import prefilter
from dropaudit.static.scanner import scan_python
from dropaudit.static.source import Change, Report, Source

RULE = Rule("DRP999", "call-of-target", "A call.", triggers=("target",))


@RULE.in_source(cst.Call)
def _target(call: cst.Call, source: Source) -> Iterator[Report]:
    if source.name_of(call.func) == "target":
        yield Report(call, "called", (Change(call, "inside", "é"), Change(call, "before", "+")))


PLACES = {
    "plain": (b"x = target()\n", (1, 5, 1, 13), (4, 11)),
    "without a last newline": (b"x = target()", (1, 5, 1, 13), (4, 11)),
    "a mark at the start": (codecs.BOM_UTF8 + b"x = target()\n", (1, 5, 1, 13), (7, 14)),
    "CRLF": (b"a = 1\r\nx = target()\r\n", (2, 5, 2, 13), (11, 18)),
    "mixed line ends": (b"a = 1\r\nb = 1\nx = target()\r\n", (3, 5, 3, 13), (17, 24)),
    "a tab": (b"if a:\n\tx = target()\n", (2, 6, 2, 14), (11, 18)),
    "wide characters": ("s = 'é…\U0001d538'; target()\n".encode(), (1, 12, 1, 20), (17, 24)),
    "latin-1": (
        "# coding: latin-1\ns = 'é'; target()\n".encode("latin-1"),
        (2, 10, 2, 18),
        (27, 34),
    ),
    "cp1251": ("# coding: cp1251\ns = 'я'; target()\n".encode("cp1251"), (2, 10, 2, 18), (26, 33)),
    "over several lines": (b"x = target(\n)\n", (1, 5, 2, 2), (4, 12)),
    "a nested function": (b"def f():\n  def g():\n    return target()\n", (3, 12, 3, 20), (31, 38)),
}


@pytest.mark.parametrize(("data", "place", "edits"), PLACES.values(), ids=PLACES)
def test_lines_and_columns_count_characters_and_edits_bytes(
    data: bytes, place: tuple[int, ...], edits: tuple[int, int]
) -> None:
    """The place is what an editor shows; the edit fits the bytes."""
    (finding,) = scan_python("net.py", data, [RULE])
    where = finding.where
    assert (where.line, where.column, where.end_line, where.end_column) == place
    start, inside = edits
    assert finding.fix is not None
    assert finding.fix.edits == (Edit(start, start, "+"), Edit(inside, inside, "é"))
    assert data[start : start + 6] == b"target"


@pytest.mark.parametrize("data", [b"a = 1\rx = target()\r", b"a = 1\n\fx = target()\n"])
def test_there_is_no_fix_where_the_parser_loses_characters(data: bytes) -> None:
    """Form feeds before statements and single carriage returns: the line is right, no edits."""
    (finding,) = scan_python("net.py", data, [RULE])
    assert (finding.where.line, finding.fix) == (2, None)


UNPARSED = {
    "not Python": (b"target(\n", "cannot be parsed"),
    "Python 2": (b"print 'target'\n", "cannot be parsed"),
    "wrong bytes": (b"s = '\xff target'\n", "cannot be decoded"),
    "unknown encoding": (b"# coding: no-such\ntarget()\n", "cannot be decoded"),
}


@pytest.mark.parametrize(("data", "why"), UNPARSED.values(), ids=UNPARSED)
def test_what_cannot_be_parsed_is_a_finding(data: bytes, why: str) -> None:
    """One DRP000, with the reason."""
    (finding,) = scan_python("net.py", data, [RULE])
    assert finding.code == "DRP000"
    assert why in finding.message


def test_a_rule_that_crashes_is_said_and_does_not_stop_the_others() -> None:
    """The broken rule is named; the finding of the other one stays."""
    broken = Rule("DRP998", "broken", "Broken.", triggers=("target",))

    @broken.in_source(cst.Call)
    def crash(call: cst.Call, source: Source) -> Iterator[Report]:
        raise KeyError("oh")
        yield

    found = scan_python("net.py", b"target()\n", [broken, RULE])
    assert [f.code for f in found] == ["DRP000", "DRP999"]
    assert "DRP998" in found[0].message


def test_the_same_finding_is_reported_once() -> None:
    """A check that yields twice, or two checks of one rule, make one finding."""
    twice = Rule("DRP997", "twice", "Twice.", triggers=("target",))
    for _ in range(2):
        twice.in_source(cst.Call)(_target)
    assert len(scan_python("net.py", b"target()\n", [twice])) == 1


@pytest.mark.parametrize("terms", [400, 1500])
def test_a_long_sum_is_checked(terms: int) -> None:
    """Thousands of terms are valid Python and overflow recursive visitors."""
    program = b"x = target() + " + b" + ".join([b"a"] * terms) + b"\ntarget()\n"
    assert [f.where.line for f in scan_python("net.py", program, [RULE])] == [1, 2]


def test_newer_syntax_is_parsed_whatever_python_runs() -> None:
    """The parser is libcst's own: PEP 695 and exception groups, also on Python 3.10."""
    program = b"type A[T] = list[T]\ndef f[T](x: T) -> T:\n    return target(x)\n"
    assert len(scan_python("net.py", program, [RULE])) == 1


def test_without_triggers_nothing_passes_the_prefilter() -> None:
    """A rule that declares nothing cannot report anything."""
    assert not prefilter([])(b"dropout")
