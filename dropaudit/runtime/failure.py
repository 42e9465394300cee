"""How an audit speaks up: an exception, a warning, or nothing but its report."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Literal, get_args

from dropaudit.findings import Finding
from dropaudit.runtime.report import Report

OnFinding = Literal["raise", "warn", "collect"]
FailOn = Literal["error", "warning"]
_PACKAGE = str(Path(__file__).parent.parent)


class DropoutAuditError(AssertionError):
    """An audit found dropout that does not do what it should; the text names every finding.

    >>> from dropaudit.runtime.trace import Trace
    >>> error = DropoutAuditError(Report(Trace()))
    >>> error.findings
    ()
    """

    def __init__(self, report: Report) -> None:
        super().__init__(report.complaint())
        self.report = report
        """Everything that was measured, and all findings, also those that raise nothing."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of the report."""
        return self.report.findings

    def __reduce__(self) -> tuple[type[DropoutAuditError], tuple[Report]]:
        return type(self), (self.report,)


class MissingRanksError(RuntimeError):
    """Some ranks of a distributed program were audited and never reported."""

    def __init__(self, sentence: str, report: Report) -> None:
        super().__init__(sentence)
        self.report = report
        """What the others measured, and all findings."""

    def __reduce__(self) -> tuple[type[MissingRanksError], tuple[str, Report]]:
        return type(self), (str(self), self.report)


class DropoutAuditWarning(UserWarning):
    """What `on_finding="warn"` warns with: the text names every finding."""


def check(on_finding: object, fail_on: object) -> None:
    """Refuse, with a `ValueError` of one sentence, what `settle` does not understand.

    >>> check("rise", "error")
    Traceback (most recent call last):
    ValueError: on_finding must be "raise", "warn" or "collect", and is 'rise'
    """
    if on_finding not in get_args(OnFinding):
        raise ValueError(f'on_finding must be "raise", "warn" or "collect", and is {on_finding!r}')
    if fail_on not in get_args(FailOn):
        raise ValueError(f'fail_on must be "error" or "warning", and is {fail_on!r}')


def settle(report: Report, on_finding: OnFinding = "raise", fail_on: FailOn = "error") -> None:
    """Raise `DropoutAuditError`, warn once, or do nothing, as was asked for.

    "raise" looks at findings of severity `fail_on` and above; if there is one, all are in the
    exception. "warn" speaks of warnings too: a warning stops nobody.

    >>> from dropaudit.runtime.trace import Trace
    >>> settle(Report(Trace()))
    """
    __tracebackhide__ = True
    if on_finding == "raise" and report.trace.missing:
        raise MissingRanksError(report.complaint_of_ranks(), report)
    if on_finding == "raise" and report.failing(fail_on):
        raise DropoutAuditError(report)
    if on_finding == "warn" and report.failing("warning"):
        warnings.warn(DropoutAuditWarning(report.complaint()), stacklevel=_outside())


# Where users import them from; a traceback and a warning filter name them so.
for _each in (DropoutAuditError, DropoutAuditWarning, MissingRanksError):
    _each.__module__ = "dropaudit"


def _outside() -> int:
    """The `stacklevel` of the first caller that is not dropaudit itself."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
