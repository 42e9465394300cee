"""From the records of files to what the checks over the program find in them."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.record import FileRecord, Options

if TYPE_CHECKING:
    from dropaudit.catalogue import Rule
    from dropaudit.static.program.facts import FileFacts
    from dropaudit.static.program.project import Project

_RECURSION = 20_000  # as the checks of one file have


def joined(
    records: Iterable[FileRecord],
    options: Options = Options(),  # noqa: B008 (frozen)
    around: Mapping[str, FileFacts] | None = None,
    rules: Sequence[Rule] | None = None,
) -> dict[str, tuple[Finding, ...]]:
    """What the checks over the program report, by file; the facts `around` are only read.

    A check that fails is one finding, on the first of the files.

    >>> joined([FileRecord("net.py")])
    {}
    """
    from dropaudit.catalogue import rules as all_rules
    from dropaudit.static.program.project import Project

    chosen = [r for r in (all_rules() if rules is None else rules) if r.project_checks]
    of_path = {one.path: one for one in sorted(records, key=lambda one: one.path)}
    facts = {path: one.facts for path, one in of_path.items() if one.facts is not None}
    claims = [claim for one in of_path.values() for claim in one.claims]
    if not chosen or not facts:
        return {}
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION))
    try:
        project = Project({**(around or {}), **facts}, claims, facts, options)
        found = [f for rule in chosen for f in _found(rule, project, next(iter(facts)))]
    finally:
        sys.setrecursionlimit(limit)
    by_path: dict[str, set[Finding]] = {}
    for finding in found:
        record = of_path.get(finding.where.path)
        if record is not None:
            by_path.setdefault(record.path, set()).add(_in_cell(finding, record))
    return {path: tuple(sorted(by_path[path], key=_order)) for path in sorted(by_path)}


def completed(record: FileRecord, found: Sequence[Finding]) -> FileRecord:
    """The record with what the checks over the program found in its file."""
    if not found:
        return record
    return replace(record, findings=tuple(sorted({*record.findings, *found}, key=_order)))


def scan_program(
    path: str,
    data: bytes,
    others: Mapping[str, bytes],
    rules: Sequence[Rule] | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> list[Finding]:
    """What is found in one Python file of a small program, by checks of both kinds, sorted.

    >>> [f.code for f in scan_program("net.py", b"from torch import nn\\nnn.Dropout(2.0)\\n", {})]
    ['DRP106']
    """
    from dropaudit.static.program.reading import read_facts
    from dropaudit.static.scanner import scan_file

    findings, claims = scan_file(path, data, rules, options)
    record = FileRecord(path, tuple(findings), (), tuple(claims), _facts(data))
    around = {name: read_facts(text) for name, text in others.items()}
    found = joined([record], options, around, rules).get(path, ())
    return list(completed(record, found).findings)


def _facts(data: bytes) -> FileFacts | None:
    from dropaudit.static.program.reading import read_facts

    try:
        return read_facts(data)
    except (SyntaxError, ValueError):
        return None


def _found(rule: Rule, project: Project, first: str) -> list[Finding]:
    found: list[Finding] = []
    try:
        for check in rule.project_checks:
            found.extend(check(project))
    except Exception as error:  # one broken rule must neither hide nor stop the others
        why = f"rule {rule.code} failed ({type(error).__name__}: {error}); please report this"
        help = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."
        where = Location(first, 1, 1, 1, 2, None)
        why = " ".join(why.split())
        found.append(Finding("DRP000", "unchecked", Severity.ERROR, where, why, help))
    return found


def _in_cell(finding: Finding, record: FileRecord) -> Finding:
    """The finding with the lines of its cell, where the file is a notebook."""
    where = finding.where
    if not record.cells or where.cell is not None:
        return finding
    at = max(bisect_right(record.cells, (where.line, sys.maxsize)) - 1, 0)
    first, cell = record.cells[at]
    line = max(where.line - first + 1, 1)
    end_line = line + where.end_line - where.line
    return replace(finding, where=replace(where, line=line, end_line=end_line, cell=cell))


def _order(finding: Finding) -> tuple[object, ...]:
    return finding.sort_key
