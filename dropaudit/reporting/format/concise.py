"""One line a finding: `path:LINE:COL: CODE [*] message`."""

from __future__ import annotations

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.footer import footer
from dropaudit.reporting.terminal import printable, style


def render(outcome: Outcome) -> str:
    """A line for each finding, then the counts."""
    return "".join(f"{headline(f, outcome)}\n" for f in outcome.findings) + footer(outcome)


def headline(finding: Finding, outcome: Outcome) -> str:
    """`path:LINE:COL: CODE [*] message`."""
    where, color = finding.where, outcome.color
    rest = str(where)[len(where.path) :].replace(":", style(":", color, fg="cyan"))
    head = style(printable(where.path), color, bold=True) + rest + style(":", color, fg="cyan")
    return f"{head} {summary(finding, outcome)}"


def summary(finding: Finding, outcome: Outcome) -> str:
    """`CODE [*] message`."""
    color = outcome.color
    code = style(finding.code, color, fg="red", bold=True)
    star = f"[{style('*', color, fg='cyan')}] " if outcome.fixable(finding) else ""
    return f"{code} {star}{printable(' '.join(finding.message.split()))}"
