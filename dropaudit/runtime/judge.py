"""From what was measured to what is wrong: every rule's checks over a trace. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from dropaudit.catalogue import Rule, rules
from dropaudit.findings import Finding, Severity
from dropaudit.runtime.evidence import AUDIT
from dropaudit.runtime.trace import Trace


def judge(trace: Trace, catalogue: Sequence[Rule] | None = None) -> tuple[Finding, ...]:
    """What the rules of `catalogue` (all of them) find in a trace, sorted by place and code.

    The same trace gives the same findings. A rule that crashes is reported as DRP000, since what
    it would have found is not known.

    >>> [finding.code for finding in judge(Trace(steps=3, forwards=3))]
    ['DRP002']
    """
    found = {
        finding
        for rule in (rules() if catalogue is None else catalogue)
        for finding in _findings(rule, trace)
    }
    return tuple(sorted(found, key=lambda f: (f.sort_key, f.where.module or "", f.figures)))


def _findings(rule: Rule, trace: Trace) -> list[Finding]:
    """What one rule finds; its crash, if it crashes."""
    found: list[Finding] = []
    for check in rule.trace_checks:
        try:
            observations = list(check(trace))
        except Exception as error:  # whatever a rule does wrong, the others are heard
            found.append(_crash(rule, error))
            continue
        found += [
            Finding(
                code=rule.code,
                name=rule.name,
                severity=seen.severity or rule.severity,
                where=seen.where,
                message=seen.message,
                help="" if rule.code == "DRP000" else rule.help,  # its message says what to do
                figures=seen.figures,
            )
            for seen in observations
        ]
    return found


def _crash(rule: Rule, error: Exception) -> Finding:
    return Finding(
        code="DRP000",
        name="unchecked",
        severity=Severity.WARNING,
        where=AUDIT,
        message=f"{rule.code} {rule.name} could not judge this audit: "
        f"{type(error).__name__}: {error}",
        help="Report this trace, which `dropaudit run --json FILE` saves, as a bug of dropaudit.",
    )
