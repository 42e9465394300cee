"""Records as JSON values: what the cache stores and what a worker sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.static.record import Claim, FileRecord, Options, Suppression


def packed(record: FileRecord) -> list[Any]:
    """`record` without its path and facts, as lists, strings and numbers.

    >>> unpacked("net.py", packed(FileRecord("net.py"))) == FileRecord("net.py")
    True
    """
    suppressions = [
        [_place(s.where), s.form, list(s.codes), s.lines and list(s.lines), _edit(s.edit), s.text]
        for s in record.suppressions
    ]
    claims = [[_packed_finding(c.finding), list(c.about)] for c in record.claims]
    cells = [list(one) for one in record.cells]
    return [packed_findings(record.findings), suppressions, claims, cells, record.joins]


def packed_findings(findings: Iterable[Finding]) -> list[Any]:
    """Findings of one file without its path."""
    return [_packed_finding(one) for one in findings]


def unpacked_findings(path: str, value: Any) -> tuple[Finding, ...]:
    """The findings that were packed; anything else raises `ValueError`."""
    try:
        return tuple(_finding(path, one) for one in value)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not findings: {error}") from error


def unpacked(path: str, value: Any) -> FileRecord:
    """The record that was packed; anything else raises `ValueError`."""
    try:
        findings, suppressions, claims, cells, joins = value
        return FileRecord(
            path,
            tuple(_finding(path, one) for one in findings),
            tuple(_suppression(path, one) for one in suppressions),
            tuple(Claim(_finding(path, one), tuple(map(_text, about))) for one, about in claims),
            cells=tuple((_number(first), _number(cell)) for first, cell in cells),
            joins=bool(joins),
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a record: {error}") from error


def packed_options(options: Options) -> list[Any]:
    return [list(options.always_on), list(options.framework_bases)]


def unpacked_options(value: Any) -> Options:
    always_on, framework_bases = value
    return Options(tuple(always_on), tuple(framework_bases))


def _packed_finding(one: Finding) -> list[Any]:
    where, fix = _place(one.where), _fix(one.fix)
    return [one.code, one.name, one.severity.value, where, one.message, one.help, fix]


def _place(where: Location) -> list[int | None]:
    return [where.line, where.column, where.end_line, where.end_column, where.cell]


def _edit(edit: Edit) -> list[Any]:
    return [edit.start, edit.stop, edit.text]


def _fix(fix: Fix | None) -> list[Any] | None:
    return None if fix is None else [fix.title, [_edit(e) for e in fix.edits], fix.safe]


def _finding(path: str, value: Any) -> Finding:
    code, name, severity, where, message, help, fix = value
    mend = None
    if fix is not None:
        title, edits, safe = fix
        mend = Fix(_text(title), tuple(_unpacked_edit(e) for e in edits), bool(safe))
    return Finding(
        _text(code),
        _text(name),
        Severity(severity),
        _location(path, where),
        _text(message),
        _text(help),
        mend,
    )


def _suppression(path: str, value: Any) -> Suppression:
    where, form, codes, lines, edit, text = value
    if form not in ("noqa", "ignore", "file-ignore"):
        raise ValueError(f"not a form of suppression: {form!r}")
    first_last = None if lines is None else (_number(lines[0]), _number(lines[1]))
    return Suppression(
        _location(path, where),
        form,
        tuple(map(_text, codes)),
        first_last,
        _unpacked_edit(edit),
        _text(text),
    )


def _location(path: str, value: Any) -> Location:
    line, column, end_line, end_column, cell = value
    return Location(
        path,
        _number(line),
        _number(column),
        _number(end_line),
        _number(end_column),
        None if cell is None else _number(cell),
    )


def _unpacked_edit(value: Any) -> Edit:
    start, stop, text = value
    return Edit(_number(start), _number(stop), _text(text))


def _number(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"not a number: {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a text: {value!r}")
    return value
