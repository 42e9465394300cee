"""`audit`: watch the dropout of a live model, and say what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal
from weakref import ref

from torch import nn

from dropaudit.runtime.declared import Declaration, DeclaredSites
from dropaudit.runtime.failure import settle
from dropaudit.runtime.gathering import PATIENCE, Gathering
from dropaudit.runtime.interception import INTERCEPTION
from dropaudit.runtime.judge import judge
from dropaudit.runtime.policies import Policies
from dropaudit.runtime.recorder import Recorder
from dropaudit.runtime.report import Report
from dropaudit.runtime.trace import Settings, Trace

OnFinding = Literal["raise", "warn", "collect"]
FailOn = Literal["error", "warning"]


class Audit:
    """An audit: a context manager, or `start()` and `stop()`. After it, `report` says what it saw.

    Nothing of the audited program changes: outputs, gradients, random numbers, modes and hooks are
    those of a run without the audit.
    """

    def __init__(
        self,
        models: tuple[nn.Module, ...],
        settings: Settings,
        on_finding: OnFinding,
        fail_on: FailOn,
        declarations: tuple[Declaration, ...],
        policies: Policies | None = None,
        gathering: Gathering | None = None,
    ) -> None:
        self._models = models
        self._weak = tuple(ref(model) for model in models)
        self._settings = settings
        self._on_finding: OnFinding = on_finding
        self._fail_on: FailOn = fail_on
        self._declarations = declarations
        self._policies = policies or Policies()
        self._gathering = gathering or Gathering()
        self._recorder: Recorder | None = None
        self._declared: DeclaredSites | None = None
        self._report: Report | None = None

    def start(self) -> Audit:
        """Begin to watch. Raises `RuntimeError` if it already does."""
        if self._recorder is not None:
            raise RuntimeError("this audit already runs: stop() it first, or make another one")
        self._report = None
        models = [model for each in self._weak if (model := each()) is not None]
        if len(models) < len(self._weak):
            raise RuntimeError("a model of this audit no longer exists: make another audit")
        recorder = Recorder(
            models, self._settings, self._declarations, self._policies, self._gathering
        )
        self._declared = DeclaredSites(self._declarations)
        self._declared.install()
        INTERCEPTION.attach(recorder)
        self._recorder = recorder
        return self

    def stop(self) -> Report:
        """Put everything back, and judge what was seen.

        Raises:
            DropoutAuditError: on a finding that fails, if `on_finding` is "raise".
            RuntimeError: if the audit does not run.
        """
        report = self._finish()
        if report.trace.rank and not self._policies.alone:
            return report  # rank 0 speaks for all
        settle(report, self._on_finding, self._fail_on)
        return report

    @property
    def report(self) -> Report:
        """What was found. While the audit runs: so far, at the price of waiting for the device."""
        if self._recorder is not None:
            return _judged(self._recorder.trace())
        if self._report is None:
            raise RuntimeError("this audit has not run: enter it with `with`, or start() it")
        return self._report

    def __enter__(self) -> Audit:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:  # the user's own exception passes; what was seen can be read all the same
            self._finish(failed=True)

    def finish(self, *, failed: bool) -> Report:
        """As `stop`, and nothing is raised; `failed` says that the program did not end well."""
        return self._finish(failed=failed)

    def _finish(self, *, failed: bool = False) -> Report:
        recorder = self._recorder
        if recorder is None:
            raise RuntimeError("this audit does not run: start() it first")
        self._recorder = None
        self._models = ()  # from here on the audit keeps no model alive
        INTERCEPTION.detach(recorder)
        if self._declared is not None:
            self._declared.uninstall()
        recorder.calls.release()
        trace = recorder.trace()
        if recorder.ranks.many:
            trace = self._gathering.end(trace, failed=failed) or trace
        self._report = _judged(trace)
        return self._report


def audit(
    *models: nn.Module,
    every: int = 1,
    elements: int | Literal["all"] = 4096,
    alpha: float = 1e-6,
    on_finding: OnFinding = "raise",
    fail_on: FailOn = "error",
    sites: Iterable[type[nn.Module] | str | Callable[..., Any]] = (),
    ranks: str | Mapping[Any, str] | None = None,
    patience: float = PATIENCE,
) -> Audit:
    """Watch the dropout of `models` in whatever runs until the audit ends.

    Args:
        models: the models to watch; none: every module and functional dropout that runs.
        every: look at every n-th training step (a step ends with an optimizer's).
        elements: elements to sample of each call, or "all".
        alpha: bound on the chance that a healthy program gets any statistical alarm at all.
        on_finding: "raise" at the end (the default), "warn", or only "collect" in the report.
        fail_on: the least severity that raises: "error", or "warning" too.
        sites: more places that drop: Module classes, patterns of module paths
            ("encoder.*.gate"), functions.
        ranks: of many ranks, whose masks must be "distinct", "identical" or either ("ignore"): one
            policy, or policies by name of a mesh dimension, tuple of ranks or process group. By
            default ranks with other data need other masks. "alone": each rank is judged by itself.
        patience: seconds that rank 0, which reports for all, waits for the others at the end.

    Returns:
        The audit, to be entered with `with` or started by `start()`.

    Raises:
        DropoutAuditError: at the end of the audit, with every finding in one message.
        MissingRanksError: at the end of the audit, if a rank died or never reported.
        TypeError, ValueError: for an option that makes no sense, before anything is watched.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.2))
    >>> with audit(model) as watched:
    ...     model(torch.randn(64, 8)).sum().backward()
    >>> watched.report.findings
    ()
    """
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"audit() takes torch.nn.Module models, and was given {type(model).__name__}"
            )
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a positive integer, and is {every!r}")
    if elements != "all" and (
        isinstance(elements, bool) or not isinstance(elements, int) or elements < 1
    ):
        raise ValueError(f'elements must be a positive integer or "all", and is {elements!r}')
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < 1:
        raise ValueError(f"alpha must be a number between 0 and 1, and is {alpha!r}")
    if on_finding not in ("raise", "warn", "collect"):
        raise ValueError(f'on_finding must be "raise", "warn" or "collect", and is {on_finding!r}')
    if fail_on not in ("error", "warning"):
        raise ValueError(f'fail_on must be "error" or "warning", and is {fail_on!r}')
    settings = Settings(every, None if elements == "all" else elements, float(alpha))
    declarations = tuple(Declaration.of(site) for site in sites)
    policies = Policies.of(ranks)
    if isinstance(patience, bool) or not isinstance(patience, (int, float)) or patience < 0:
        raise ValueError(f"patience must be a number of seconds, and is {patience!r}")
    gathering = Gathering(float(patience))
    return Audit(models, settings, on_finding, fail_on, declarations, policies, gathering)


def _judged(trace: Trace) -> Report:
    return Report(trace, judge(trace))
