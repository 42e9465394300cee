"""For people: each finding with its line of code, carets under it, and what to do."""

from __future__ import annotations

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.footer import footer
from dropaudit.reporting.format.concise import headline
from dropaudit.reporting.frame import frame
from dropaudit.reporting.terminal import printable, style


def render(outcome: Outcome) -> str:
    """A block for each finding, then the counts."""
    return "".join(f"{_block(f, outcome)}\n" for f in outcome.findings) + footer(outcome)


def _block(finding: Finding, outcome: Outcome) -> str:
    color = outcome.color
    text = headline(finding, outcome) + "\n"
    text += frame(finding.where, outcome.lines(finding.where), finding.code, color)
    if finding.help:
        help = " ".join(printable(" ".join(finding.help.split())).split())
        text += f"  {style('=', color, fg='blue', bold=True)} "
        text += f"{style('help', color, bold=True)}: {help}\n"
    return text
