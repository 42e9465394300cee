"""Bytes of one file in, its record out; whatever the bytes are."""

from __future__ import annotations

from dropaudit.findings import Finding
from dropaudit.static.record import FileRecord, Options


def check(path: str, data: bytes, options: Options) -> FileRecord:
    """Every finding of every rule, and every suppression comment, in one file."""
    from dropaudit.static.scanner import scan_python

    findings = scan_python(path, data, options=options)
    return FileRecord(path, tuple(findings))


def unchecked(path: str, why: str) -> FileRecord:
    """The record of a file that could not be checked."""
    from dropaudit.findings import Location, Severity

    where = Location(path, 1, 1, 1, 2)
    help = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."
    return FileRecord(path, (Finding("DRP000", "unchecked", Severity.ERROR, where, why, help),))
