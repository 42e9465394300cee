"""Reviewdog's diagnostic format, whose columns count bytes of UTF-8."""

from __future__ import annotations

import json
from typing import Any

from dropaudit.findings import Finding, Location
from dropaudit.reporting import Outcome
from dropaudit.reporting.places import message, region, relative, repository

_SEVERITIES = {"error": "ERROR", "warning": "WARNING", "info": "INFO"}


def render(outcome: Outcome) -> str:
    """The report: a JSON object with a list of diagnostics."""
    report = {
        "source": {"name": "dropaudit"},
        "severity": "WARNING",
        "diagnostics": [_diagnostic(f, outcome) for f in outcome.findings],
    }
    return json.dumps(report, indent=2) + "\n"


def _diagnostic(finding: Finding, outcome: Outcome) -> dict[str, Any]:
    path = finding.where.path
    found: dict[str, Any] = {
        "message": message(finding),
        "location": {
            "path": relative(path, outcome, repository(outcome)) or path,
            "range": _range(region(finding), outcome),
        },
        "severity": _SEVERITIES[finding.severity.value],
        "code": {"value": finding.code},
    }
    suggestion = _suggestion(finding, outcome)
    if suggestion is not None:
        found["suggestions"] = [suggestion]
    return found


def _suggestion(finding: Finding, outcome: Outcome) -> dict[str, Any] | None:
    """The fix where it is one edit: reviewdog takes each suggestion as a whole fix."""
    if finding.fix is None or len(finding.fix.edits) != 1 or finding.where.cell is not None:
        return None
    edit = finding.fix.edits[0]
    start = outcome.place(finding.where.path, edit.start)
    stop = outcome.place(finding.where.path, edit.stop)
    if start is None or stop is None:
        return None
    where = Location(start.path, start.line, start.column, stop.line, stop.column)
    return {"range": _range(where, outcome), "text": edit.text}


def _range(where: Location, outcome: Outcome) -> dict[str, Any]:
    lines = outcome.lines(where)

    def position(line: int, column: int) -> dict[str, int]:
        before = lines[line - 1][: column - 1] if 0 < line <= len(lines) else ""
        beyond = column - 1 - len(before)
        return {"line": line, "column": len(before.encode("utf-8", "replace")) + beyond + 1}

    return {
        "start": position(where.line, where.column),
        "end": position(where.end_line, where.end_column),
    }
