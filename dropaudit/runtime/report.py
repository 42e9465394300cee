"""The outcome of an audit: what was measured, what was found, and both as text."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any, TextIO

from dropaudit.findings import Finding, Severity
from dropaudit.runtime.table import many, place, size, table
from dropaudit.runtime.trace import Site, Trace
from dropaudit.runtime.world import ranks_text

WIDTH = 100
_ORDER = (Severity.ERROR, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True)
class Report:
    """What an audit came to. Plain: it can be pickled, compared and saved.

    >>> print(Report(Trace(steps=3, audited_steps=3, models=("Net",))))
    dropout audit: 3 steps of Net
    4,096 elements a call, alpha 1e-06, no sites, 0 B held
    <BLANKLINE>
    No dropout was observed: nothing was checked.
    """

    trace: Trace
    findings: tuple[Finding, ...] = ()

    @property
    def sites(self) -> tuple[Site, ...]:
        """The places where dropout was applied, as they were measured."""
        return self.trace.sites

    def failing(self, fail_on: str = "error") -> tuple[Finding, ...]:
        """The findings of severity `fail_on` ("error" or "warning") and above.

        DRP000 and DRP002 say what was not checked: they are warnings, whoever reports them.
        """
        severe = _ORDER[: _ORDER.index(Severity(fail_on)) + 1]
        return tuple(finding for finding in self.findings if finding.severity in severe)

    def __str__(self) -> str:
        """The table of sites, then the findings; lines of at most 100 columns, no color."""
        parts = [_header(self.trace)]
        if self.sites:
            parts.append(table(self.sites, WIDTH))
        parts += [_finding(finding) for finding in _by_severity(self.findings)]
        parts.append(self.verdict)
        return "\n\n".join(parts)

    @property
    def verdict(self) -> str:
        """One sentence: what was found, or what was checked without finding anything.

        >>> Report(Trace()).verdict
        'No dropout was observed: nothing was checked.'
        """
        if self.findings:
            return f"Found {_counted(self.findings)}."
        if not self.sites:
            return "No dropout was observed: nothing was checked."
        return f"Checked {many(len(self.sites), 'site')}, found nothing."

    def complaint(self) -> str:
        """The findings alone, as an exception says them: the first line names what was found."""
        if not self.findings:
            return self.verdict
        first = f"the dropout audit found {_counted(self.findings)}"
        codes = ", ".join(sorted({f"{f.code} {f.name}" for f in self.findings}))
        parts = [f"{first}: {codes}", *map(_finding, _by_severity(self.findings))]
        if self.sites:
            parts.append(_header(self.trace))
        return "\n\n".join(parts)

    def complaint_of_ranks(self) -> str:
        """What to say of ranks that did not report, with what the others found; "" if all did."""
        missing = self.trace.missing
        if not missing:
            return ""
        heard = f"the dropout audit heard nothing from {ranks_text(missing)} of {self.trace.world}"
        return f"{heard}\n\n{self.complaint()}"

    def print(self, file: TextIO | None = None) -> None:
        """Print the report, on standard output if nothing else is given."""
        print(self, file=sys.stdout if file is None else file)

    def to_json(self) -> str:
        """The report as JSON: "findings", "sites", and the "trace" that `dropaudit judge` reads."""
        trace = json.loads(self.trace.to_json())
        findings = [_plain(finding) for finding in self.findings]
        value = {"findings": findings, "sites": trace["sites"], "trace": trace}
        return json.dumps(value, indent=2)


def _by_severity(findings: tuple[Finding, ...]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def _counted(findings: tuple[Finding, ...]) -> str:
    """For example "2 errors, 1 warning"."""
    count = Counter(finding.severity for finding in findings)
    noun = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "remark"}
    return ", ".join(many(count[kind], noun[kind]) for kind in _ORDER if count[kind])


def _header(trace: Trace) -> str:
    settings = trace.settings
    seen = many(trace.steps, "step")
    if settings.every > 1:
        seen += f" (every {settings.every}th: {trace.audited_steps:,} audited)"
    models = ", ".join(trace.models)
    amount = "all elements" if settings.elements is None else f"{settings.elements:,} elements"
    held = size(sum(site.memory for site in trace.sites))
    sites = many(len(trace.sites), "site") if trace.sites else "no sites"
    words = [f"dropout audit: {seen}"]
    words += [f"of {models}"] if models else []
    words += [f"on {', '.join(trace.devices)}"] if trace.devices else []
    heard = trace.world - len(trace.missing) - len(trace.unaudited)
    of_all = "" if heard == trace.world else f"{heard:,} of "
    words += [f"on {of_all}{trace.world:,} ranks"] if trace.joined else []
    lines = wrap(" ".join(words), WIDTH, subsequent_indent="    ")
    return "\n".join([*lines, f"{amount} a call, alpha {settings.alpha:g}, {sites}, {held} held"])


def _finding(finding: Finding) -> str:
    """A finding as an assertion says it: what, where, the figures, what to do."""
    lines = [f"{finding.code} {finding.name} ({finding.severity.value})"]
    lines += _row("site", place(finding.where), 10)
    lines += wrap(
        finding.message, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4, **_WHOLE
    )
    names = max((len(name) for name, _ in finding.figures), default=0) + 2
    for name, value in finding.figures:
        lines += _row(name, _number(value), max(names, 10))
    if finding.help:
        lines += _row("help:", finding.help, 6)
    return "\n".join(lines)


_WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def _row(name: str, text: str, width: int) -> list[str]:
    start = f"    {name:{width}}"
    return wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), **_WHOLE)


def _number(value: float) -> str:
    """Counts in full, measurements to six digits.

    >>> _number(49152.0), _number(0.10031234), _number(3e-9)
    ('49,152', '0.100312', '3e-09')
    """
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.6g}"


def _plain(finding: Finding) -> dict[str, Any]:
    """A finding as JSON holds it; a figure that is not finite, which JSON lacks, as a string."""
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity.value,
        "message": finding.message,
        "help": finding.help,
        "where": {**asdict(finding.where), "text": place(finding.where)},
        "figures": {
            name: value if math.isfinite(value) else str(value) for name, value in finding.figures
        },
    }
