"""One heading a file, its findings below in columns."""

from __future__ import annotations

from itertools import groupby

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.footer import footer
from dropaudit.reporting.format.concise import summary
from dropaudit.reporting.terminal import printable, style


def render(outcome: Outcome) -> str:
    """A block for each file, then the counts."""
    text = ""
    for path, group in groupby(outcome.findings, key=lambda f: f.where.path):
        findings = list(group)
        rows = [_row(f) for f in findings]
        wide_row = max(len(row) for row, _ in rows)
        wide_column = max(len(column) for _, column in rows)
        text += f"{style(printable(path), outcome.color, bold=True, underline=True)}:\n"
        for finding, (row, column) in zip(findings, rows, strict=True):
            place = f"{row:>{wide_row}}:{column:<{wide_column}}"
            text += f"  {place} {summary(finding, outcome)}\n"
        text += "\n"
    return text + footer(outcome)


def _row(finding: Finding) -> tuple[str, str]:
    where = finding.where
    cell = "" if where.cell is None else f"cell {where.cell}:"
    return f"{cell}{where.line}", str(where.column)
