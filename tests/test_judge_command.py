"""`dropaudit judge`: a saved trace becomes a report and an exit code, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dropaudit.cli import main
from dropaudit.findings import Location
from dropaudit.runtime.report import Report
from dropaudit.runtime.trace import Backward, Forward, Site, Trace

WHERE = Location("net.py", 13, 1, 13, 1, module="drop")
SITE = Site(
    "drop",
    "Net",
    "elementwise",
    "F.dropout",
    WHERE,
    p=0.5,
    is_module=False,
    training=Forward(
        calls=5, acted=5, asked=5, elements=10240, draws=10240, drops=5082,
        scale=2.0, scale_low=2.0, scale_high=2.0, spread=0.0, mean=1.0074, mean_error=0.01,
    ),
    eval=Forward(calls=3, asked=3),
    backward=Backward(calls=5, elements=10240, dropped=5082, scale=2.0),
)  # fmt: skip
HEALTHY = Trace(steps=5, audited_steps=5, forwards=8, models=("Net",), sites=(SITE,))
DROPS_IN_EVAL = replace(
    HEALTHY,
    sites=(
        replace(
            SITE,
            eval=Forward(
                calls=3, acted=3, asked=3, told_on=3, first_step=6, elements=6144, draws=6144,
                drops=3050, scale=2.0, scale_low=2.0, scale_high=2.0, spread=0.0,
            ),
        ),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two traces in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("healthy.json").write_text(HEALTHY.to_json())
    Path("bad.json").write_text(DROPS_IN_EVAL.to_json())
    Path("nothing.json").write_text(Trace(steps=3, audited_steps=3, models=("Net",)).to_json())
    return tmp_path


def judge(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, ["judge", *arguments], input=input)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("healthy.json", 0),
        ("bad.json", 1),
        ("nothing.json", 0),
        ("nothing.json --fail-on warning", 1),
        ("bad.json --fail-on nonsense", 2),
        ("bad.json --output-format json", 1),
        ("", 2),
        ("bad.json healthy.json", 2),
    ],
)
def test_exit_codes(arguments: str, code: int) -> None:
    """As of a scan: 0 nothing, 1 something, 2 not what was asked for."""
    assert judge(*arguments.split()).exit_code == code


def test_the_report_is_printed() -> None:
    """The table, the findings and the verdict."""
    text = judge("bad.json").stdout
    assert "DRP201 functional-dropout-ignoring-mode (error)" in text
    assert "drop at net.py:13" in text and "Found 1 error." in text
    assert "Checked 1 site, found nothing." in judge("healthy.json").stdout


def test_a_trace_of_nothing_is_not_called_good() -> None:
    """DRP002 says that there was nothing to judge."""
    text = judge("nothing.json").stdout
    assert "DRP002 nothing-observed (warning)" in text
    assert "found nothing" not in text


def test_json_can_be_judged_again() -> None:
    """A report holds the trace that it was made from."""
    first = judge("bad.json", "--output-format", "json").stdout
    Path("report.json").write_text(first)
    assert judge("report.json", "--output-format", "json").stdout == first
    assert [f["code"] for f in json.loads(first)["findings"]] == ["DRP201"]
    Path("healthy-report.json").write_text(Report(HEALTHY).to_json())
    assert judge("healthy-report.json").exit_code == 0


def test_standard_input_is_read() -> None:
    """As with a scan, by the name -."""
    assert judge("-", input=DROPS_IN_EVAL.to_json()).exit_code == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "bad.json cannot be judged: it is no JSON: "),
        (b"{", "bad.json cannot be judged: it is no JSON: "),
        (b"[]", "bad.json cannot be judged: it holds no dropaudit trace; `dropaudit run --json"),
        (b"{}", "bad.json cannot be judged: it holds no dropaudit trace"),
        (b'{"trace": 3}', "bad.json cannot be judged: it holds no dropaudit trace"),
        (b'{"trace": {"dropaudit_trace": 1, "steps": "x"}}', "trace.steps must be int"),
        (b'{"dropaudit_trace": 99}', "a trace of format 99; this dropaudit reads format 1"),
        (b'{"dropaudit_trace": 1, "step": 3}', "trace has the unknown field 'step'"),
        (b'{"dropaudit_trace": 1, "sites": [{}]}', "trace.sites[0] is incomplete"),
        (b"\xff\xfe", "bad.json cannot be judged: it is not UTF-8"),
        (b"[" * 100_000, "bad.json cannot be judged: it is nested too deeply"),
    ],
)
def test_a_file_that_is_no_trace_is_one_sentence(content: bytes, sentence: str) -> None:
    """On standard error, with exit code 2."""
    Path("bad.json").write_bytes(content)
    result = judge("bad.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing.json", "no such file or directory: missing.json"), (".", ". cannot be read: ")],
)
def test_a_file_that_cannot_be_read_is_one_sentence(name: str, sentence: str) -> None:
    """On standard error, with exit code 2."""
    result = judge(name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr and result.stderr.count("\n") == 1


def test_no_torch_is_imported() -> None:
    """A trace is judged where there is none."""
    code = (
        "import sys; from dropaudit.cli import main; "
        "main(['judge', 'bad.json'], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
