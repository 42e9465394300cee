"""The pytest plugin, in runs of its own; a stand-in for the auditor finds what it is told to."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from dropaudit.pytest_plugin import OPTIONS

Run = Callable[..., pytest.RunResult]

STAND_IN = '''
import sys
from types import ModuleType

from dropaudit.findings import Finding, Location, Severity
from dropaudit.runtime.report import Report
from dropaudit.runtime.trace import Site, Trace

running = []


class Audit:
    def __init__(self, models, options):
        self.models, self.options, self.findings, self.sites = models, options, [], []

    def start(self):
        running.append(self)

    def stop(self):
        running.remove(self)
        trace = Trace(steps=1, forwards=len(self.sites), sites=tuple(self.sites))
        self.report = Report(trace, tuple(self.findings))


def audit(*models, every=1, elements=4096, alpha=1e-6, on_finding="raise", fail_on="error",
          sites=()):
    if every < 1:
        raise ValueError("every must be at least 1, and is " + str(every))
    return Audit(models, {"every": every, "on_finding": on_finding})


def see(line=7):
    """Run a healthy dropout."""
    where = Location("net.py", line, 1, line, 1, module="drop")
    for one in running:
        one.sites.append(Site("drop", "Dropout", "elementwise", "nn.Dropout", where, p=0.1))


def find(code="DRP201", severity="error", line=7):
    """Run one that is not."""
    see(line)
    where = Location("net.py", line, 1, line, 1, module="drop")
    for one in running:
        finding = Finding(code, "bad-dropout", Severity(severity), where, "it dropped in eval")
        one.findings.append(finding)


auditor = ModuleType("dropaudit.runtime.auditor")
auditor.audit = audit
sys.modules["dropaudit.runtime.auditor"] = auditor
sys.modules.setdefault("torch", ModuleType("torch"))
'''


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of pytest over one test file, which can use the stand-in as `net`."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # others take a second to load
    pytester.makepyfile(net=STAND_IN)
    pytester.makeconftest("import net\n")
    pytester.makeini("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(test_it="import net, pytest\n" + source)
        return pytester.runpytest("-p", "dropaudit.pytest_plugin", *arguments)

    return run


def test_a_finding_fails_the_test_that_used_the_fixture(run: Run) -> None:
    """Failed, not an error of the teardown; the text of the assertion and no frame of ours."""
    result = run("def test_net(dropout_audit):\n    dropout_audit()\n    net.find()\n")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "the dropout audit found 1 error: DRP201 bad-dropout" in text
    assert "site      drop at net.py:7" in text
    assert "pytest_plugin" not in text and "Traceback" not in text and "def " not in text
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_net - dropaudit.DropoutAuditError: the*"])


@pytest.mark.parametrize(
    "body",
    [
        "dropout_audit(); net.see()",
        "net.find()",
        "audit = dropout_audit(); audit.stop(); net.find()",
        "with dropout_audit() as audit:\n        net.see()\n    net.find()",
        "dropout_audit(on_finding='collect'); net.find()",
        "dropout_audit(); net.find(severity='warning')",
        "audit = dropout_audit(); net.see(); audit.stop(); assert len(audit.report.sites) == 1",
        "dropout_audit(); audit = dropout_audit(); audit.start(); audit.stop(); audit.stop()",
    ],
)
def test_what_is_not_audited_or_not_wrong_passes(run: Run, body: str) -> None:
    """An audit goes from its call to `stop()`, the end of the `with`, or of the test."""
    run(f"def test_net(dropout_audit):\n    {body}\n").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    "body",
    [
        "audit = dropout_audit(); net.find(); audit.stop()",
        "with dropout_audit():\n        net.find()",
        "dropout_audit(); dropout_audit(on_finding='collect'); net.find()",
        "dropout_audit(fail_on='warning'); net.find(severity='warning')",
        "dropout_audit(evry=2)",
        "dropout_audit(on_finding='rise')",
        "dropout_audit(every=0)",
    ],
)
def test_what_is_wrong_fails(run: Run, body: str) -> None:
    """Also in one of several audits; a warning under pytest's `error` filter; a wrong option."""
    run(f"def test_net(dropout_audit):\n    {body}\n").assert_outcomes(failed=1)


def test_a_warning_that_is_an_error_reads_like_one(run: Run) -> None:
    """Under pytest's filter `error`; otherwise it is listed among the warnings."""
    body = "def test_net(dropout_audit):\n    dropout_audit(on_finding='warn'); net.find()\n"
    result = run(body)
    result.assert_outcomes(failed=1)
    assert "the dropout audit found 1 error: DRP201 bad-dropout" in result.stdout.str()
    assert "pytest_plugin" not in result.stdout.str()
    run(body, "-W", "default").assert_outcomes(passed=1, warnings=1)


@pytest.mark.parametrize("option", ["evry=2", "on_finding='rise'", "every=0"])
def test_a_wrong_option_of_the_fixture_is_shown_where_it_stands(run: Run, option: str) -> None:
    """In one sentence below the line of the test."""
    result = run(f"def test_net(dropout_audit):\n    dropout_audit({option})\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f">       dropout_audit({option})", "E       *Error: *", "*.py:3: *"]
    )
    assert "pytest_plugin.py" not in result.stdout.str()


def test_several_audits_fail_in_one_text(run: Run) -> None:
    """Each with its finding, and a finding of both only once."""
    result = run(
        "def test_net(dropout_audit):\n    dropout_audit(); net.find('DRP201', line=1)\n"
        "    dropout_audit(); net.find('DRP301', line=2)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*found 2 errors: DRP201 bad-dropout, DRP301 bad-dropout"])


def test_an_audit_may_start_in_a_fixture(run: Run) -> None:
    """The test fails all the same; and it is stopped where the test never runs."""
    run(
        "@pytest.fixture\ndef model(dropout_audit):\n    dropout_audit()\n"
        "@pytest.fixture\ndef broken(model):\n    raise OSError\n"
        "def test_net(model):\n    net.find()\n"
        "def test_broken(broken):\n    pass\n"
        "def test_nothing_runs():\n    assert not net.running\n"
    ).assert_outcomes(failed=1, errors=1, passed=1)


@pytest.mark.parametrize("arguments", [(), ("--dropaudit",)])
def test_the_test_s_own_failure_comes_first(run: Run, arguments: tuple[str, ...]) -> None:
    """What was found stands below it."""
    result = run(
        "def test_net(dropout_audit):\n    dropout_audit(); net.find()\n    assert 1 == 2\n",
        *arguments,
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E       assert 1 == 2", "*- dropout audit -*", "*found 1 error*"])
    result.stdout.no_fnmatch_line("*DropoutAuditError*")


def test_an_audit_of_the_test_s_own_shows_the_test_alone(run: Run) -> None:
    """The frames below it are ours and explain nothing."""
    result = run(
        "from dropaudit.runtime.failure import settle\n"
        "from dropaudit.runtime.report import Report\n"
        "def test_net():\n"
        "    audit = net.audit(); audit.start(); net.find(); audit.stop()\n"
        "    settle(audit.report)\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([">       settle(audit.report)", "E*DropoutAuditError: the*"])
    result.stdout.no_fnmatch_line("*raise DropoutAuditError*")
    result.stdout.no_fnmatch_line("*failure.py*")


def test_a_test_that_is_run_again_starts_afresh(run: Run, pytester: pytest.Pytester) -> None:
    """As plugins do that give a test another chance."""
    pytester.syspathinsert()
    pytester.makepyfile(
        again="from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "    runtestprotocol(item, nextitem=nextitem)\n"
        "    return True\n"
    )
    result = run(
        "times = []\n"
        "def test_net(dropout_audit):\n    times.append(1); dropout_audit()\n"
        "    if len(times) == 1: net.find()\n",
        "-p",
        "again",
    )
    result.assert_outcomes(passed=1)


def test_skipping_and_expected_failures_stay_what_they_are(run: Run) -> None:
    """An audit fails inside the test, so `xfail` covers it."""
    run(
        "def test_skip(dropout_audit):\n    dropout_audit(); net.find(); pytest.skip()\n"
        "@pytest.mark.xfail(raises=AssertionError, strict=True)\n"
        "def test_xfail(dropout_audit):\n    dropout_audit(); net.find()\n"
    ).assert_outcomes(skipped=1, xfailed=1)


THREE = """
def test_bad():
    net.find()
def test_good():
    net.see()
def test_neither():
    pass
"""


def test_the_option_audits_every_test(run: Run) -> None:
    """Without it nothing happens."""
    run(THREE).assert_outcomes(passed=3)
    result = run(THREE, "--dropaudit")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(["*FAILED*::test_bad - dropaudit.DropoutAuditError*"])


def test_the_summary_counts_sites_and_lists_findings(run: Run) -> None:
    """In a section of its own."""
    result = run(THREE + "def test_too():\n    net.find(); net.see(9)\n", "--dropaudit")
    result.stdout.fnmatch_lines(
        [
            "*= dropout audit =*",
            "2 sites of dropout seen in 3 tests",
            "DRP201 bad-dropout (error): 1 place, 2 tests",
            "    drop at net.py:7  test_it.py::test_bad and 1 more",
        ]
    )


def test_the_summary_never_calls_nothing_good(run: Run) -> None:
    """No dropout, no verdict; and no section where nobody asked."""
    only = "def test_neither():\n    pass\n"
    result = run(only, "--dropaudit")
    result.stdout.fnmatch_lines(["No dropout was observed: nothing was checked."])
    run(only).stdout.no_fnmatch_line("*dropout audit*")
    result = run("def test_good():\n    net.see()\n", "--dropaudit")
    result.stdout.fnmatch_lines(["1 site of dropout seen in 1 test", "nothing was found"])


def test_a_test_without_dropout_is_not_told_so(run: Run) -> None:
    """DRP002 is for those who asked for this test."""
    seen = "    net.find('DRP002', 'warning')\n"
    run(f"def test_it():\n{seen}", "--dropaudit").stdout.no_fnmatch_line("*DRP002*")
    result = run(f"@pytest.mark.dropaudit(fail_on='warning')\ndef test_it():\n{seen}")
    result.assert_outcomes(failed=1)


def test_the_summary_is_complete_under_xdist(run: Run) -> None:
    """What the workers saw travels with their reports."""
    result = run(THREE, "--dropaudit", "-n2", "-p", "xdist.plugin")
    result.assert_outcomes(failed=1, passed=2)
    result.stdout.fnmatch_lines(
        [
            "*the dropout audit found 1 error: DRP201 bad-dropout",
            "1 site of dropout seen in 2 tests",
            "DRP201 bad-dropout (error): 1 place, 1 test",
        ]
    )


def test_the_marker_audits_one_test(run: Run) -> None:
    """And takes the options of `audit`; the closest marker has the last word."""
    run(
        "@pytest.mark.dropaudit\ndef test_marked():\n    net.find()\n"
        "@pytest.mark.dropaudit(on_finding='collect')\ndef test_calm():\n    net.find()\n"
        "@pytest.mark.dropaudit(every=3)\nclass TestIt:\n"
        "    @pytest.mark.dropaudit(elements='all')\n"
        "    def test_options(self):\n        assert net.running[0].options['every'] == 3\n"
        "    @pytest.mark.dropaudit(enabled=False)\n"
        "    def test_off(self):\n        assert not net.running\n"
        "def test_plain():\n    net.find()\n"
    ).assert_outcomes(failed=1, passed=4)


def test_the_marker_takes_a_test_out_of_the_option(run: Run) -> None:
    """For dropout that is meant to be odd."""
    run(
        "@pytest.mark.dropaudit(enabled=False)\ndef test_it():\n    net.find()\n", "--dropaudit"
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evry=2", "@pytest.mark.dropaudit takes every, *, patience, enabled, and not evry"),
        ("3", "@pytest.mark.dropaudit takes every, *, patience, enabled, and not 3"),
        ("every=0", "@pytest.mark.dropaudit: every must be at least 1, and is 0"),
        ("fail_on='info'", '@pytest.mark.dropaudit: fail_on must be "error" or "warning", *'),
    ],
)
def test_a_wrong_option_of_the_marker_is_one_sentence(
    run: Run, arguments: str, sentence: str
) -> None:
    """The test fails without having run."""
    result = run(f"@pytest.mark.dropaudit({arguments})\ndef test_it():\n    print('ran')\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([sentence])
    result.stdout.no_fnmatch_line("ran")


def test_unittest_async_and_doctest_items_are_audited(run: Run) -> None:
    """Whatever pytest calls a test; a TestCase's own failure comes first."""
    result = run(
        "import unittest, asyncio\n"
        "class TestNet(unittest.TestCase):\n"
        "    def test_bad(self):\n        net.find()\n"
        "    def test_own(self):\n        net.find(); self.assertEqual(1, 2)\n"
        "    def test_good(self):\n        net.see()\n"
        "class TestAsync(unittest.IsolatedAsyncioTestCase):\n"
        "    async def test_bad(self):\n        net.find()\n"
        "def documented():\n    '''\n    >>> net.find()\n    '''\n",
        "--dropaudit",
        "--doctest-modules",
    )
    result.assert_outcomes(failed=4, passed=1)
    result.stdout.fnmatch_lines(["FAILED test_it.py::TestNet::test_own - AssertionError: 1 != 2"])


def test_nothing_is_started_before_torch_is_there(pytester: pytest.Pytester) -> None:
    """A test that imports torch itself is audited from there on; others cost nothing."""
    pytester.makepyfile(net=STAND_IN.replace("sys.modules.setdefault", "(lambda *_: None)"))
    pytester.makepyfile(torch="")
    pytester.makepyfile(
        """
        import net, sys

        def test_before():
            assert not net.running and "torch" not in sys.modules
            finders = len(sys.meta_path)

        def test_import():
            import torch
            assert len(net.running) == 1
            net.find()

        def test_after():
            assert len(net.running) == 1
            assert not any("dropaudit" in type(finder).__module__ for finder in sys.meta_path)
        """
    )
    result = pytester.runpytest_subprocess("--dropaudit", "-p", "no:randomly")
    result.assert_outcomes(passed=2, failed=1)


LIVE = """
import pytest, torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x):
        return F.dropout(self.layer(x), 0.5{mode})


def step(net):
    net.train()(torch.randn(64, 64)).sum().backward()
    with torch.no_grad():
        net.eval()(torch.randn(64, 64))


def test_plain():
    step(Net())

def test_fixture(dropout_audit):
    net = Net()
    audit = dropout_audit(net)
    step(net)
    audit.stop()
    assert audit.report.sites

@pytest.mark.dropaudit(every=1, elements="all", alpha=1e-6, fail_on="error", sites=())
def test_marker():
    step(Net())

@pytest.mark.dropaudit(on_finding="warn")
def test_warned():
    with pytest.warns(UserWarning):  # not ours: that one comes at the end of the test
        import warnings; warnings.warn("")
    step(Net())

@pytest.mark.dropaudit(enabled=False)
def test_off():
    step(Net())
"""


@pytest.mark.parametrize(
    ("arguments", "failed"), [((), 3), (("--dropaudit",), 4), (("--dropaudit", "-n2"), 4)]
)
def test_a_live_model_that_drops_in_eval_fails(
    pytester: pytest.Pytester, arguments: tuple[str, ...], failed: int
) -> None:
    """With the real auditor, as users run it."""
    pytester.makeini("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    pytester.makepyfile(test_live=LIVE.replace("{mode}", ""))
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(failed=failed, passed=5 - failed)
    result.stdout.fnmatch_lines(
        [
            "the dropout audit found 1 error: DRP201 functional-dropout-ignoring-mode",
            "    site      (the model) at test_live.py:12",
            "*= dropout audit =*",
            "1 site of dropout seen in * tests",
        ]
    )


@pytest.mark.parametrize("arguments", [(), ("--dropaudit",)])
def test_its_healthy_twin_passes(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    """The same tests, with the mode handed on."""
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(test_live=LIVE.replace("{mode}", ", self.training"))
    result = pytester.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["nothing was found"])


def test_options_are_those_of_audit() -> None:
    """The plugin knows their names without importing torch."""
    from dropaudit import audit

    taken = inspect.signature(audit).parameters.values()
    assert tuple(p.name for p in taken if p.kind is p.KEYWORD_ONLY) == OPTIONS


def imported(program: str) -> set[str]:
    code = f"{program}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


HEAVY = {"torch", "libcst", "click", "numpy", "dropaudit.runtime.trace", "dropaudit.catalogue"}


def test_the_plugin_imports_nothing_heavy() -> None:
    """Every pytest run in the environment pays for it."""
    assert not imported("import dropaudit.pytest_plugin") & HEAVY


def test_an_import_by_the_plugin_would_be_seen() -> None:
    """The twin."""
    assert imported("import dropaudit.pytest_plugin, dropaudit.runtime.trace") & HEAVY
