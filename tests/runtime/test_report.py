"""The report of an audit as text, as JSON, and as an exception or a warning."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from pathlib import Path

import pytest

import dropaudit
from dropaudit.findings import Finding, Location, Severity
from dropaudit.runtime.failure import DropoutAuditError, DropoutAuditWarning, OnFinding, settle
from dropaudit.runtime.report import Report
from dropaudit.runtime.trace import Backward, Forward, Settings, Site, Trace


def site(module: str = "encoder.dropout", **measured: object) -> Site:
    """A site with p = 0.1 in twelve healthy steps, unless told otherwise."""
    figures: dict[str, object] = {
        "training": Forward(calls=12, acted=12, draws=49152, drops=4930, scale=1 / 0.9),
        "eval": Forward(calls=3),
        "backward": Backward(calls=12, elements=49152),
    }
    where = Location("src/net.py", 31, 1, 31, 1, module=module)
    return Site(
        module, "Dropout", "elementwise", "nn.Dropout", where, p=0.1, memory=65536,
        **figures | measured,  # type: ignore[arg-type]
    )  # fmt: skip


def finding(severity: Severity = Severity.ERROR, code: str = "DRP301") -> Finding:
    return Finding(
        code,
        "mask-resampled-in-backward",
        severity,
        Location("src/net.py", 31, 1, 31, 1, module="encoder.dropout"),
        "12 of 12 backward passes used another mask than the forward pass",
        help="Save the mask in forward.",
        figures=(("step", 1.0), ("compared elements", 49152.0), ("worst", 0.98765432)),
    )


def audited(*sites: Site, findings: tuple[Finding, ...] = ()) -> Report:
    trace = Trace(
        steps=12, audited_steps=12, models=("Net",), devices=("cpu",), sites=sites or (site(),)
    )
    return Report(trace, findings)


def test_a_healthy_report_has_a_header_a_table_and_a_verdict() -> None:
    """Everything that was measured, on lines that fit."""
    assert str(audited()).splitlines() == [
        "dropout audit: 12 steps of Net on cpu",
        "4,096 elements a call, alpha 1e-06, 1 site, 64.0 KiB held",
        "",
        "site             line       what          p  calls    drop   scale  backward     eval",
        "encoder.dropout  net.py:31  nn.Dropout  0.1     12  0.1003  1.1111  same 49,152  same 3",
        "",
        "Checked 1 site, found nothing.",
    ]


def test_a_finding_reads_like_a_failed_assertion() -> None:
    """Site, message, every figure, and what to do."""
    text = str(audited(findings=(finding(),)))
    for line in (
        "DRP301 mask-resampled-in-backward (error)",
        "    site      encoder.dropout at src/net.py:31",
        "    12 of 12 backward passes used another mask than the forward pass",
        "    step               1",
        "    compared elements  49,152",
        "    worst              0.987654",
        "    help: Save the mask in forward.",
        "Found 1 error.",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("measured", "cell"),
    [
        ({"backward": Backward(calls=12, faulty=5, elements=100)}, "WRONG 5 of 12"),
        ({"backward": Backward(calls=12, products=96)}, "same 96"),
        ({"backward": Backward(calls=1, elements=12)}, "too few: 12"),
        ({"backward": Backward(), "no_gradient": 3}, "no gradient"),
        ({"eval": Forward(calls=3, acted=3, drops=4, draws=40)}, "DROPS 3 of 3"),
        ({"eval": Forward(calls=3, acted=3, draws=40)}, "changes 3 of 3"),
        ({"p_least": 0.1, "p_most": 0.25}, "0.1..0.25"),
        ({"module": "?"}, "(not in the model)"),
        ({"module": ""}, "(the model)"),
    ],
)
def test_a_row_says_what_was_measured(measured: dict[str, object], cell: str) -> None:
    """One cell at a time."""
    module = str(measured.pop("module", "drop"))
    assert cell in str(audited(site(module, **measured)))


def test_a_finding_in_the_model_itself_says_so() -> None:
    """Its path is empty, its place is not."""
    where = Location("net.py", 3, 1, 3, 1, module="")
    report = audited(findings=(Finding("DRP201", "x", Severity.ERROR, where, "m"),))
    assert "    site      (the model) at net.py:3" in str(report).splitlines()


def test_no_line_is_longer_than_a_hundred_columns() -> None:
    """Long module paths get a row of their own and lose nothing."""
    path = "bert.encoder.layer.11.attention.output.dropout"
    text = str(audited(site(path), site(), findings=(finding(),)))
    assert path in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    "report", [Report(Trace()), Report(Trace(steps=3, audited_steps=3, models=("Net",)))]
)
def test_an_audit_that_saw_no_dropout_says_so(report: Report) -> None:
    """It never says that all is well."""
    assert "No dropout was observed: nothing was checked." in str(report)
    assert "found nothing" not in str(report)


def test_settings_show_in_the_header() -> None:
    """What was looked at, and how often."""
    settings = Settings(every=10, elements=None, alpha=1e-4)
    text = str(Report(Trace(settings, steps=95, audited_steps=9)))
    assert "95 steps (every 10th: 9 audited)\nall elements a call, alpha 0.0001," in text


def test_json_holds_findings_sites_and_the_trace() -> None:
    """The trace in it is the trace, so that it can be judged again."""
    report = audited(findings=(finding(),))
    value = json.loads(report.to_json())
    assert sorted(value) == ["findings", "sites", "trace"]
    (found,) = value["findings"]
    assert found["code"] == "DRP301" and found["severity"] == "error"
    assert found["where"]["text"] == "encoder.dropout at src/net.py:31"
    assert (found["where"]["line"], found["where"]["module"]) == (31, "encoder.dropout")
    assert found["figures"] == {"step": 1, "compared elements": 49152, "worst": 0.98765432}
    assert value["sites"][0]["training"]["drops"] == 4930
    assert Trace.from_json(json.dumps(value["trace"])) == report.trace


def test_a_figure_that_is_not_finite_is_still_json() -> None:
    """JSON has no infinity."""
    odd = Finding("DRP110", "x", Severity.ERROR, finding().where, "m", figures=(("e", 1e999),))
    value = json.loads(audited(findings=(odd,)).to_json(), parse_constant=pytest.fail)
    assert value["findings"][0]["figures"] == {"e": "inf"}
    assert "inf" in str(audited(findings=(odd,)))


def test_print_writes_to_the_file_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """And to standard output otherwise."""
    file = io.StringIO()
    audited().print(file)
    audited().print()
    assert file.getvalue() == capsys.readouterr().out == f"{audited()}\n"


@pytest.mark.parametrize(
    ("severity", "fail_on", "raises"),
    [
        ("error", "error", True),
        ("error", "warning", True),
        ("warning", "error", False),
        ("warning", "warning", True),
        ("info", "warning", False),
    ],
)
def test_only_severe_findings_raise(severity: str, fail_on: str, raises: bool) -> None:
    """Errors by default; `fail_on="warning"` adds warnings; remarks never."""
    report = audited(findings=(finding(Severity(severity)),))
    if not raises:
        return settle(report, "raise", fail_on)  # type: ignore[arg-type]
    with pytest.raises(DropoutAuditError, match="DRP301 mask-resampled") as caught:
        settle(report, "raise", fail_on)  # type: ignore[arg-type]
    assert caught.value.report is report


def test_all_findings_are_in_one_exception() -> None:
    """Also those that would not have raised."""
    both = (finding(), finding(Severity.WARNING, "DRP209"))
    with pytest.raises(AssertionError) as caught:
        settle(audited(findings=both))
    assert isinstance(caught.value, DropoutAuditError)
    assert caught.value.findings == both
    text = str(caught.value)
    assert text.startswith("the dropout audit found 1 error, 1 warning: DRP209 mask")
    assert text.count("\n    site ") == 2


@pytest.mark.parametrize("on_finding", ["raise", "warn", "collect"])
def test_nothing_found_is_silent(on_finding: OnFinding) -> None:
    """Whatever was asked for."""
    settle(audited(), on_finding)


def test_collecting_is_silent() -> None:
    """The report has the findings; nothing else happens."""
    settle(audited(findings=(finding(),)), "collect")


def test_a_warning_is_one_and_points_at_the_caller() -> None:
    """Also for findings of severity warning: a warning stops nobody."""
    both = (finding(Severity.WARNING), finding(Severity.WARNING, "DRP209"))
    with pytest.warns(DropoutAuditWarning, match="2 warnings") as caught:
        settle(audited(findings=both), "warn")
    assert len(caught) == 1
    assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings(record=True) as none:
        settle(audited(findings=(finding(Severity.INFO),)), "warn")
    assert none == []


def test_the_exception_can_be_pickled() -> None:
    """A test process hands it to the one that prints."""
    error = DropoutAuditError(audited(findings=(finding(),)))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DropoutAuditError
    assert (str(again), again.report) == (str(error), error.report)


def test_users_import_the_names_from_the_package() -> None:
    """And a traceback calls them so."""
    assert dropaudit.DropoutAuditError is DropoutAuditError
    assert DropoutAuditError.__module__ == "dropaudit"
    assert {"audit", "judge", "Report"} <= set(dir(dropaudit))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dropaudit.nonsense
