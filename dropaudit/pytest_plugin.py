"""The pytest plugin: the fixture `dropout_audit`, the option `--dropaudit`, the marker `dropaudit`.

Every pytest run in an environment that holds dropaudit loads this file, so it imports nothing else
until a test is audited.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dropaudit.runtime.failure import (
        DropoutAuditError,
        DropoutAuditWarning,
        FailOn,
        OnFinding,
    )
    from dropaudit.runtime.report import Report

OPTIONS = ("every", "elements", "alpha", "on_finding", "fail_on", "sites", "ranks", "patience")
"""What `dropaudit.audit` takes by name, known without importing it."""
_MARKER = (
    "dropaudit(every=1, elements=4096, alpha=1e-6, on_finding='raise', fail_on='error', sites=(), "
    "ranks=None, patience=60.0, enabled=True): audit the dropout of every model that the test "
    "runs; enabled=False leaves the test out of --dropaudit"
)
_PACKAGE = str(Path(__file__).parent)
_AUDITS = pytest.StashKey["list[_Audit]"]()
_RAISED = pytest.StashKey["DropoutAuditError | DropoutAuditWarning"]()
_SEEN = pytest.StashKey["dict[str, Any]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--dropaudit`."""
    parser.getgroup("dropaudit").addoption(
        "--dropaudit", action="store_true", help="audit the dropout of every model that tests run"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the summary where there is a terminal."""
    config.addinivalue_line("markers", _MARKER)
    if not hasattr(config, "workerinput"):  # xdist's workers print nothing
        from dropaudit.runtime.summary import Summary

        asked = config.getoption("dropaudit")
        config.pluginmanager.register(Summary(asked), "dropaudit-summary")


@pytest.fixture
def dropout_audit(request: pytest.FixtureRequest) -> Iterator[Callable[..., _Audit]]:
    """Audit dropout: called like `dropaudit.audit`; the test fails at its end on a finding.

    The audit runs from the call to the end of the test, to `stop()`, or to the end of a `with`.
    """
    audits: list[_Audit] = request.node.stash.setdefault(_AUDITS, [])

    def audit(*models: Any, **options: Any) -> _Audit:
        __tracebackhide__ = True
        try:
            started = _Audit(models, options)
        except (TypeError, ValueError) as error:  # where the test called, not where we noticed
            raise type(error)(*error.args) from None
        audits.append(started)
        started.start()
        return started

    yield audit
    _stop(audits)  # still running where another fixture failed and the test never ran


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Start what option or marker ask for; when the body has passed, judge every audit."""
    __tracebackhide__ = True
    audits = item.stash.setdefault(_AUDITS, [])
    wait_over = _start_ambient(item, audits)
    try:
        result = yield
        wait_over()
        _stop(audits)
    except BaseException as own:
        wait_over()
        _hide_our_frames(own)
        with suppress(Exception):  # what the test says comes first
            _stop(audits)
        _see(item, audits)
        raise
    error = _error(audits)
    _see(item, audits)
    if error is not None:
        item.stash[_RAISED] = error
        raise error.with_traceback(None)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show our failure as its text alone; show what was found beside a failure of the test's own.

    What the summary needs travels with the report, from xdist's workers too.
    """
    report = yield
    seen = item.stash.get(_SEEN, None)
    if call.when != "call" or not seen:
        return report
    report.dropaudit = {name: seen[name] for name in ("sites", "findings")}  # type: ignore[attr-defined]
    if report.failed and call.excinfo is not None:
        if call.excinfo.value is item.stash.get(_RAISED, None):
            report.longrepr = call.excinfo.getrepr(style="value")
        elif seen["text"]:
            report.sections.append(("dropout audit", seen["text"]))
    return report


class _Audit:
    """A running audit. It finds nothing wrong by itself: the test is judged at its end."""

    def __init__(
        self, models: tuple[Any, ...], options: dict[str, Any], ambient: bool = False
    ) -> None:
        import dropaudit
        from dropaudit.runtime.failure import check

        __tracebackhide__ = True
        self._on_finding: OnFinding = options.get("on_finding", "raise")
        self._fail_on: FailOn = options.get("fail_on", "error")
        check(self._on_finding, self._fail_on)
        self._audit = dropaudit.audit(*models, **options | {"on_finding": "collect"})
        self._ambient = ambient
        self._running = False

    def start(self) -> _Audit:
        if not self._running:
            self._running = True
            self._audit.start()
        return self

    def stop(self) -> Report:
        if self._running:
            self._running = False
            self._audit.stop()
        return self.report

    def __enter__(self) -> _Audit:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def report(self) -> Report:
        """As `Audit.report`; of a test that nobody asked to have dropout, DRP002 says nothing."""
        report: Report = self._audit.report
        if not self._ambient:
            return report
        from dropaudit.runtime.report import Report as Outcome

        return Outcome(report.trace, tuple(f for f in report.findings if f.code != "DRP002"))

    def settle(self) -> None:
        from dropaudit.runtime.failure import settle

        settle(self.report, self._on_finding, self._fail_on)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._audit, name)


def _start_ambient(item: pytest.Item, audits: list[_Audit]) -> Callable[[], None]:
    """Audit the whole test if it is to be, from when torch is there; what ends the waiting."""
    __tracebackhide__ = True
    marked = list(item.iter_markers("dropaudit"))
    if not marked and not item.config.getoption("dropaudit"):
        return _nothing
    options: dict[str, Any] = {}
    for marker in reversed(marked):  # the closest has the last word
        if marker.args or not {*OPTIONS, "enabled"}.issuperset(marker.kwargs):
            wrong = [*map(repr, marker.args), *({*marker.kwargs} - {*OPTIONS, "enabled"})]
            known = ", ".join((*OPTIONS, "enabled"))
            pytest.fail(f"@pytest.mark.dropaudit takes {known}, and not {wrong[0]}", pytrace=False)
        options |= marker.kwargs
    audited_itself = not marked and "dropout_audit" in getattr(item, "fixturenames", ())
    if not options.pop("enabled", True) or audited_itself:
        return _nothing
    from dropaudit.runtime.arrival import when_imported

    def start() -> None:
        __tracebackhide__ = True
        try:
            audits.insert(0, _Audit((), options, ambient=not marked))
        except (TypeError, ValueError) as error:
            pytest.fail(f"@pytest.mark.dropaudit: {error}", pytrace=False)
        audits[0].start()

    return when_imported("torch", start)


def _stop(audits: list[_Audit]) -> None:
    """Stop all, the last first, also where one fails to."""
    errors = []
    for audit in reversed(audits):
        try:
            audit.stop()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _hide_our_frames(error: BaseException) -> None:
    """Let a `DropoutAuditError` end where the test called us: what is below explains nothing."""
    if (type(error).__module__, type(error).__name__) != ("dropaudit", "DropoutAuditError"):
        return
    last = tb = error.__traceback__
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            last = tb
        tb = tb.tb_next
    if last is not None:
        last.tb_next = None


def _nothing() -> None:
    pass


def _error(audits: list[_Audit]) -> DropoutAuditError | DropoutAuditWarning | None:
    """What the test fails with: all findings of all audits that are to fail it, in one."""
    if not audits:
        return None
    from dropaudit.runtime.failure import DropoutAuditError, DropoutAuditWarning
    from dropaudit.runtime.report import Report

    errors: list[DropoutAuditError] = []
    turned = None  # a warning that a filter has turned into an error
    for audit in audits:
        try:
            audit.settle()
        except DropoutAuditError as error:
            errors.append(error)
        except DropoutAuditWarning as warning:
            turned = warning
    if len(errors) < 2:
        return errors[0] if errors else turned
    findings = dict.fromkeys(finding for error in errors for finding in error.findings)
    return DropoutAuditError(Report(errors[0].report.trace, tuple(findings)))


def _see(item: pytest.Item, audits: list[_Audit]) -> None:
    """Keep what the summary needs, and no audit: an item that is run again starts afresh."""
    item.stash[_SEEN] = _seen(audits)
    audits.clear()


def _seen(audits: list[_Audit]) -> dict[str, Any]:
    """What the summary needs of a test, as lists and strings; nothing if no dropout was near."""
    sites, found, texts = [], [], []
    ran = False
    if audits:
        from dropaudit.runtime.table import place
    for audit in audits:
        try:
            report = audit.report
        except Exception:  # it failed to stop: that is what the test fails with
            continue
        ran |= bool(report.trace.forwards or report.sites or report.findings)
        sites += [f"{place(site.where)} {site.function}" for site in report.sites]
        found += [[f.code, f.name, f.severity.value, place(f.where)] for f in report.findings]
        texts += [report.complaint()] if report.findings else []
    if not ran:
        return {}
    return {"sites": sites, "findings": found, "text": "\n\n".join(texts)}
