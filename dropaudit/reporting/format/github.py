"""Annotations of a GitHub Actions run: workflow commands, one a finding."""

from __future__ import annotations

from collections import Counter

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.places import region

_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}
_SHOWN = 10  # annotations of one kind that GitHub shows for one step


def render(outcome: Outcome) -> str:
    """A command for each finding, and a plain line of the log where GitHub will not show all."""
    text = "".join(f"{_command(f, outcome)}\n" for f in outcome.findings)
    count = Counter(_COMMANDS[f.severity.value] for f in outcome.findings)
    for command, many in sorted(count.items()):
        if many > _SHOWN:
            text += (
                f"dropaudit: GitHub shows {_SHOWN} of {many} annotations of kind {command} "
                f"for a step; all are in this log.\n"
            )
    return text


def _command(finding: Finding, outcome: Outcome) -> str:
    where = region(finding)
    properties = {
        "title": f"dropaudit ({finding.code})",
        "file": str(outcome.root / where.path),
        "line": where.line,
        "col": where.column,
        "endLine": where.end_line,
        "endColumn": where.end_column,
    }
    head = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    text = f"{finding.where}: {finding.code} {finding.message}"
    if finding.help:
        text += f"\n  help: {finding.help}"
    return f"::{_COMMANDS[finding.severity.value]} {head}::{_data(text)}"


def _data(text: str) -> str:
    escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
