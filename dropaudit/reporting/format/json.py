"""One JSON array, each finding with the keys that ruff gives."""

from __future__ import annotations

import json
from typing import Any

from dropaudit.findings import Finding, Fix, Location
from dropaudit.reporting import Outcome


def render(outcome: Outcome) -> str:
    """The findings as an array; `[]` when there are none."""
    return json.dumps([plain(f, outcome) for f in outcome.findings], indent=2) + "\n"


def plain(finding: Finding, outcome: Outcome) -> dict[str, Any]:
    """A finding as a dictionary of ruff's keys, sorted; `row` counts within `cell`."""
    where = finding.where
    return {
        "cell": where.cell,
        "code": finding.code,
        "end_location": {"column": where.end_column, "row": where.end_line},
        "filename": str(outcome.root / where.path),
        "fix": None if finding.fix is None else _fix(finding.fix, where, outcome),
        "location": {"column": where.column, "row": where.line},
        "message": finding.message,
        "name": finding.name,
        "noqa_row": where.line,
        "severity": finding.severity.value,
        "url": None,
    }


def _fix(fix: Fix, where: Location, outcome: Outcome) -> dict[str, Any] | None:
    edits = []
    for edit in fix.edits:
        start = outcome.place(where.path, edit.start)
        stop = outcome.place(where.path, edit.stop)
        if start is None or stop is None:
            return None
        edits.append(
            {
                "content": edit.text,
                "end_location": {"column": stop.column, "row": stop.line},
                "location": {"column": start.column, "row": start.line},
            }
        )
    applicability = "safe" if fix.safe else "unsafe"
    return {"applicability": applicability, "edits": edits, "message": fix.title}
