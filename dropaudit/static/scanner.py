"""Bytes of one file in, raw findings out: parse, walk, checks, positions."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import accumulate

import libcst as cst

from dropaudit.catalogue import Rule
from dropaudit.catalogue import rules as all_rules
from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.static.positions import Span, spans
from dropaudit.static.prefilter import may_report
from dropaudit.static.record import Claim, Options
from dropaudit.static.source import Report, Source


def scan_python(
    path: str,
    data: bytes,
    rules: Sequence[Rule] | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
    cell_ends: frozenset[int] = frozenset(),
) -> list[Finding]:
    """Every finding of `rules` in one file, before suppressions, sorted.

    Edits count bytes of `data`, columns count characters. What cannot be parsed is a finding.

    >>> source = b"from torch import nn\\nnn.Dropout(1.5)\\n"
    >>> [(f.code, f.where.line) for f in scan_python("net.py", source)]
    [('DRP106', 2)]
    """
    return scan_file(path, data, rules, options, cell_ends)[0]


def scan_file(
    path: str,
    data: bytes,
    rules: Sequence[Rule] | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
    cell_ends: frozenset[int] = frozenset(),
) -> tuple[list[Finding], list[Claim]]:
    """As `scan_python`, and with the findings what depends on the rest of the program."""
    rules = all_rules() if rules is None else rules
    rules = [rule for rule in rules if rule.source_checks and may_report(rule, data)]
    if not rules:
        return [], []
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20_000))
    try:
        return _scan(path, data, rules, options, cell_ends)
    finally:
        sys.setrecursionlimit(limit)


def unchecked(path: str, why: str, line: int = 1, column: int = 1) -> Finding:
    """The finding that says that a file could not be checked."""
    where = Location(path, line, column, line, column + 1)
    help = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."
    return Finding("DRP000", "unchecked", Severity.ERROR, where, why, help)


def _scan(
    path: str,
    data: bytes,
    rules: Sequence[Rule],
    options: Options,
    cell_ends: frozenset[int],
) -> tuple[list[Finding], list[Claim]]:
    try:
        source = Source(path, data, options, cell_ends)
    except cst.ParserSyntaxError as error:
        why = f"cannot be parsed: {str(error.message).splitlines()[0]}"
        return [unchecked(path, why, error.raw_line, error.raw_column + 1)], []
    except (UnicodeError, LookupError, SyntaxError) as error:
        return [unchecked(path, f"cannot be decoded: {' '.join(str(error).split())}")], []
    try:
        return _judged(path, data, source, rules)
    finally:
        source.release()


def _judged(
    path: str, data: bytes, source: Source, rules: Sequence[Rule]
) -> tuple[list[Finding], list[Claim]]:
    reports: list[tuple[Rule, Report]] = []
    failed: list[Finding] = []
    for rule in rules:
        try:
            for kind, check in rule.source_checks:
                for node in tuple(source.nodes.get(kind, ())):
                    reports.extend((rule, report) for report in check(node, source))
        except MemoryError:
            raise
        except Exception as error:  # one broken rule must neither hide nor stop the others
            why = f"rule {rule.code} failed ({type(error).__name__}: {error}); please report this"
            failed.append(unchecked(path, " ".join(why.split())))
    if not reports:
        return failed, []
    nodes = {r.node for _, r in reports} | {c.node for _, r in reports for c in r.changes}
    text, found = spans(source.module, nodes)
    place = _Places(text, data, source.module.encoding)
    findings: dict[Finding, None] = dict.fromkeys(failed)
    claims: dict[Claim, None] = {}
    for rule, report in reports:
        finding = _finding(rule, report, path, found, place)
        if report.about:
            claims[Claim(finding, report.about)] = None
        else:
            findings[finding] = None
    return (
        sorted(findings, key=lambda finding: finding.sort_key),
        sorted(claims, key=lambda claim: (claim.finding.sort_key, claim.about)),
    )


class _Places:
    """From offsets in the text to lines, columns and offsets in the bytes."""

    def __init__(self, text: str, data: bytes, encoding: str) -> None:
        self._text = text
        self._encoding = "utf-8" if encoding == "utf-8-sig" else encoding
        self._mark = 3 if data.startswith(b"\xef\xbb\xbf") else 0
        lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
        self._starts = [0, *accumulate(map(len, lines))]
        self.faithful = text.encode(self._encoding) == data[self._mark :]

    def line_and_column(self, offset: int) -> tuple[int, int]:
        from bisect import bisect_right

        line = bisect_right(self._starts, offset) - 1
        line = min(line, max(len(self._starts) - 2, 0))
        return line + 1, offset - self._starts[line] + 1

    def byte(self, offset: int) -> int:
        return self._mark + len(self._text[:offset].encode(self._encoding))


def _finding(
    rule: Rule, report: Report, path: str, found: dict[cst.CSTNode, Span], place: _Places
) -> Finding:
    span = found[report.node]
    start, stop = place.line_and_column(span.start), place.line_and_column(span.stop)
    fix = None
    if report.changes and place.faithful:
        edits = tuple(sorted(_edit(c.where, c.text, found[c.node], place) for c in report.changes))
        fix = Fix(report.title or rule.help, edits, report.safe)
    where = Location(path, *start, *stop)
    return Finding(rule.code, rule.name, rule.severity, where, report.message, rule.help, fix)


def _edit(where: str, text: str, span: Span, place: _Places) -> Edit:
    start, stop = {
        "before": (span.outer_start, span.outer_start),
        "after": (span.outer_stop, span.outer_stop),
        "replace": (span.start, span.stop),
        "whole": (span.outer_start, span.outer_stop),
        "inside": (span.stop - 1, span.stop - 1),
    }[where]
    return Edit(place.byte(start), place.byte(stop), text)
