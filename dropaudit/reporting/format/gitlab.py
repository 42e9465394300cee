"""A code quality report of GitLab CI: one JSON array, each entry with a fingerprint that stays."""

from __future__ import annotations

import json
from typing import Any

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.places import digest, message, ordinals, region, relative, repository

_SEVERITIES = {"error": "major", "warning": "minor", "info": "info"}


def render(outcome: Outcome) -> str:
    """The report; `[]` when there are no findings."""
    start = repository(outcome)
    entries = []
    for finding, (text, ordinal) in zip(outcome.findings, ordinals(outcome), strict=True):
        path = relative(finding.where.path, outcome, start) or finding.where.path
        print_ = digest(path, finding.code, text, str(ordinal))
        entries.append(_entry(finding, path, print_))
    return json.dumps(entries, indent=2) + "\n"


def _entry(finding: Finding, path: str, fingerprint: str) -> dict[str, Any]:
    where = region(finding)
    return {
        "check_name": finding.code,
        "description": f"{finding.code}: {message(finding)}",
        "severity": _SEVERITIES[finding.severity.value],
        "fingerprint": fingerprint,
        "location": {
            "path": path,
            "positions": {
                "begin": {"line": where.line, "column": where.column},
                "end": {"line": where.end_line, "column": where.end_column},
            },
        },
    }
