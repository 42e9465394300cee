"""`dropaudit scan` and `dropaudit rule` as a person uses them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dropaudit.cli import main

BAD = """\
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)
"""
GOOD = BAD.replace("0.5)", "0.5, training=self.training)")
UNUSED = GOOD.replace("training)\n", "training)  # noqa: DRP201\n")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one bad and one good file, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in [*os.environ]:
        if name.startswith("DROPAUDIT_") or name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "good.py").write_text(GOOD)
    return tmp_path


def dropaudit(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=input)


def scan(*arguments: str, input: str | None = None) -> Result:
    return dropaudit("scan", "--output-format", "concise", *arguments, input=input)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("", 1),
        ("good.py", 0),
        ("bad.py", 1),
        (".", 1),
        ("--exit-zero", 0),
        ("--select DRP4", 0),
        ("--select DRP201", 1),
        ("--select functional-dropout-ignoring-mode", 1),
        ("--ignore DRP2", 0),
        ("--ignore ALL --extend-select DRP201", 1),
        ("--exclude bad.py", 0),
        ("--extend-exclude b*.py", 0),
        ("--exclude bad.py bad.py", 1),
        ("--exclude bad.py --force-exclude bad.py", 0),
        ("--per-file-ignores bad.py:DRP201", 0),
        ("--per-file-ignores good.py:DRP201", 1),
        ("--per-file-ignores !good.py:DRP2", 0),
        ("--isolated --no-cache --preview -j 1", 1),
        ("--diff", 0),
        ("--diff --unsafe-fixes", 1),
        ("--diff --unsafe-fixes --exit-zero", 0),
        ("--fix", 1),
        ("--fix --unsafe-fixes", 0),
        ("--fix --unsafe-fixes --exit-non-zero-on-fix", 1),
        ("--fix-only", 0),
        ("--add-noqa", 0),
        ("--show-files", 0),
        ("--show-settings", 0),
        ("--statistics", 1),
        ("missing.py", 2),
        ("--select DRP999", 2),
        ("--ignore nonsense", 2),
        ("--nonsense", 2),
        ("--config missing.toml", 2),
        ("--config missing.toml --isolated", 2),
        ("--baseline missing.json", 2),
        ("--output-format nonsense", 2),
        ("--per-file-ignores bad.py", 2),
        ("-o missing/out.txt", 2),
        ("- bad.py", 2),
    ],
)
def test_exit_codes(arguments: str, code: int) -> None:
    """0 nothing, 1 something, 2 not what was asked for; and never a traceback."""
    result = scan(*arguments.split())
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code == 2:
        assert result.stderr.strip() and not result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("missing.py", "no such file or directory: missing.py"),
        ("--select DRP2O1", "unknown rule 'DRP2O1': did you mean DRP201"),
        ("--select discarded-results", "did you mean discarded-result?"),
    ],
)
def test_mistakes_are_said_in_one_sentence(arguments: str, said: str) -> None:
    """What, and what to do."""
    assert said in scan(*arguments.split()).stderr


def test_a_line_for_each_finding_and_a_footer() -> None:
    """The look of ruff."""
    lines = scan().stdout.splitlines()
    assert lines[0].startswith("bad.py:7:16: DRP201 `F.dropout`")
    assert lines[1] == "Found 1 error."
    assert scan("good.py").stdout == "All checks passed!\n"


def test_quiet_prints_findings_only() -> None:
    """And nothing where there are none."""
    assert len(scan("-q").stdout.splitlines()) == 1
    assert scan("-q", "good.py").output == ""


def test_settings_are_read_and_flags_win(project: Path) -> None:
    """Of the project that is scanned, not of where the command runs."""
    file = project / "pyproject.toml"
    file.write_text("[tool.dropaudit]\nignore = ['DRP201']\noutput-format = 'json'\n")
    assert dropaudit("scan").stdout.strip() == "[]"
    assert dropaudit("scan", "--select", "DRP201", "--ignore", "DRP4").exit_code == 1
    assert dropaudit("scan", "--isolated").exit_code == 1
    (project / "inner").mkdir()
    assert dropaudit("scan", "bad.py").exit_code == 0
    file.write_text("[tool.dropaudit]\nignored = []\n")
    result = dropaudit("scan")
    assert result.exit_code == 2
    assert "did you mean `ignore`?" in result.stderr


def test_unknown_rules_in_settings_name_the_file(project: Path) -> None:
    """Or nobody would find them."""
    (project / "pyproject.toml").write_text("[tool.dropaudit]\nselect = ['DRP999']\n")
    result = scan()
    assert result.exit_code == 2
    assert "pyproject.toml: unknown rule 'DRP999'" in result.stderr


def test_the_environment_chooses_format_and_cache(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ruff's variables do."""
    monkeypatch.setenv("DROPAUDIT_OUTPUT_FORMAT", "json")
    monkeypatch.setenv("DROPAUDIT_CACHE_DIR", str(project / "elsewhere"))
    assert json.loads(dropaudit("scan").stdout)[0]["code"] == "DRP201"
    assert (project / "elsewhere" / "CACHEDIR.TAG").exists()
    assert not (project / ".dropaudit_cache").exists()


def test_a_second_scan_says_the_same() -> None:
    """From the cache."""
    first = scan()
    assert scan().stdout == first.stdout == scan("--no-cache").stdout


def test_standard_input_is_checked_under_its_name() -> None:
    """Editors send what is not saved yet."""
    result = scan("--stdin-filename", "src/net.py", "-", input=BAD)
    assert result.exit_code == 1
    assert result.stdout.startswith("src/net.py:7:16: DRP201")
    assert scan("-", input=BAD).stdout.startswith("-:7:16: DRP201")
    assert scan("--stdin-filename", "bad.py", input=GOOD).exit_code == 0


def test_fixed_standard_input_goes_to_standard_output() -> None:
    """And what is left to standard error."""
    result = scan("-", "--fix", "--unsafe-fixes", input=BAD)
    assert result.stdout == GOOD
    assert "Found 1 error (1 fixed, 0 remaining)." in result.stderr
    result = scan("-", "--fix", input=BAD)
    assert result.stdout == BAD
    assert "DRP201" in result.stderr
    assert result.exit_code == 1


def test_a_safe_fix_needs_no_permission(project: Path) -> None:
    """An unused suppression is removed; mode bits are kept, links are followed."""
    target = project / "target.py"
    target.write_text(UNUSED)
    target.chmod(0o755)
    link = project / "link.py"
    link.symlink_to(target)
    assert "DRP001 [*]" in scan("link.py").stdout
    assert scan("--fix", "link.py").exit_code == 0
    assert target.read_text() == GOOD
    assert target.stat().st_mode & 0o777 == 0o755
    assert link.is_symlink()


def test_a_diff_changes_nothing(project: Path) -> None:
    """And shows what fixes would."""
    result = scan("--diff", "--unsafe-fixes")
    assert "+        return F.dropout(x, 0.5, training=self.training)" in result.stdout
    assert "Would fix 1 error." in result.stderr
    assert (project / "bad.py").read_text() == BAD


def test_noqa_comments_are_added_and_then_nothing_is_left(project: Path) -> None:
    """Nor is one of them unused."""
    assert "Added 1 noqa directive." in scan("--add-noqa").stderr
    assert "0.5)  # noqa: DRP201\n" in (project / "bad.py").read_text()
    assert scan().exit_code == 0


def test_a_baseline_silences_what_was_there(project: Path) -> None:
    """New findings are reported, wherever lines have moved, and only these are fixed."""
    assert scan("--write-baseline", "known.json").exit_code == 0
    assert scan("--baseline", "known.json").exit_code == 0
    (project / "bad.py").write_text("\n\n" + BAD + "        return F.dropout(x, 0.4)\n")
    result = scan("--baseline", "known.json")
    assert [line.split(":")[1] for line in result.stdout.splitlines()[:-2]] == ["10"]
    scan("--baseline", "known.json", "--fix", "--unsafe-fixes")
    text = (project / "bad.py").read_text()
    assert "F.dropout(x, 0.5)" in text
    assert "F.dropout(x, 0.4, training=self.training)" in text
    (project / "known.json").write_text("{")
    assert scan("--baseline", "known.json").exit_code == 2


def test_the_output_file_gets_the_findings(project: Path) -> None:
    """And the terminal gets none."""
    assert scan("-o", "out.txt").stdout == ""
    assert (project / "out.txt").read_text().startswith("bad.py:7:16: DRP201")


def test_a_file_that_changes_meanwhile_is_left_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saved it wins."""
    from dropaudit.static import fixer

    fix = fixer.fix

    def slow(*arguments: Any) -> fixer.Fixed:
        fixed = fix(*arguments)
        (project / "bad.py").write_text("saved = True\n")
        return fixed

    monkeypatch.setattr(fixer, "fix", slow)
    result = scan("--fix", "--unsafe-fixes")
    assert "bad.py was not fixed: it was changed" in result.stderr
    assert (project / "bad.py").read_text() == "saved = True\n"


def test_notebooks_are_checked_and_mended(project: Path) -> None:
    """By cell; every other byte stays."""
    cells = [
        {"cell_type": "code", "source": ["%matplotlib inline\n", "import torch.nn as nn\n"]},
        {"cell_type": "code", "source": ["y = 1\n", "x = 2  # dropaudit: ignore[DRP201]"]},
    ]
    notebook = project / "n.ipynb"
    notebook.write_text(json.dumps({"cells": cells, "nbformat": 4}))
    assert scan("n.ipynb").stdout.startswith("n.ipynb:cell 2:2:8: DRP001 [*]")
    before = notebook.read_text()
    assert scan("--fix", "n.ipynb").exit_code == 0
    assert notebook.read_text() == before.replace("  # dropaudit: ignore[DRP201]", "")


def test_color_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing piped is colored unless it is asked for."""
    invoke = CliRunner().invoke
    command = ["scan", "--output-format", "concise", "--color"]
    assert "\x1b[" in invoke(main, [*command, "always"], color=True).stdout
    assert "\x1b[" not in invoke(main, [*command, "never"], color=True).stdout
    assert "\x1b[" not in invoke(main, [*command, "auto"], color=True).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in invoke(main, [*command, "auto"], color=True).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in invoke(main, [*command, "auto"], color=True).stdout


def test_a_file_that_cannot_be_checked_is_a_finding(project: Path) -> None:
    """Whatever is selected."""
    (project / "broken.py").write_text("F.dropout(\n")
    result = scan("--select", "DRP4")
    assert result.exit_code == 1
    assert "broken.py" in result.stdout and "DRP000" in result.stdout


def test_nothing_to_check_is_said(project: Path) -> None:
    """A typo in a pattern must not look like success."""
    (project / "empty").mkdir()
    result = scan("empty")
    assert result.exit_code == 0
    assert "no Python files" in result.stderr


def test_an_internal_error_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sentence, and the traceback for who asks."""

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("dropaudit.commands.session.scan", fail)
    result = scan()
    assert result.exit_code == 2
    assert "dropaudit failed (RuntimeError: boom)" in result.stderr
    assert "Traceback" not in result.stderr
    verbose = scan("-v")
    assert verbose.exit_code == 2
    assert "Traceback" in verbose.stderr


def test_a_rule_that_cannot_be_imported_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not look like a mistake in the file."""

    def fail(*arguments: object) -> None:
        raise ModuleNotFoundError("No module named 'nothing'")

    monkeypatch.setattr("dropaudit.static.checker._python", fail)
    result = scan("--no-cache")
    assert result.exit_code == 2
    assert "ModuleNotFoundError" in result.stderr


@pytest.mark.parametrize("asked", ["DRP001", "drp001", "unused-suppression"])
def test_a_rule_is_explained_by_code_or_name(asked: str) -> None:
    """Its page, as text or as JSON."""
    text = dropaudit("rule", asked).stdout
    assert text.startswith("# unused-suppression (DRP001)\n")
    assert "## Use instead" in text
    value = json.loads(dropaudit("rule", asked, "--output-format", "json").stdout)
    assert (value["code"], value["fixable"]) == ("DRP001", True)


@pytest.mark.parametrize(
    ("code", "checks"),
    [
        ("DRP000", ["source", "trace"]),
        ("DRP001", ["source"]),
        ("DRP201", ["source", "program", "trace"]),
    ],
)
def test_a_page_says_how_the_defect_is_found(code: str, checks: list[str]) -> None:
    """By a scan, by an audit, or by both."""
    value = json.loads(dropaudit("rule", code, "--output-format", "json").stdout)
    assert value["checks"] == checks
    assert ("watching a model" in dropaudit("rule", code).stdout) == ("trace" in checks)


def test_all_rules_are_explained() -> None:
    """In the order of their codes."""
    rules = json.loads(dropaudit("rule", "--all", "--output-format", "json").stdout)
    codes = [rule["code"] for rule in rules]
    assert codes == sorted(codes)
    assert {"DRP000", "DRP201"} <= set(codes)


@pytest.mark.parametrize("arguments", ["", "DRP201 --all", "DRP999", "DRP2"])
def test_a_rule_that_is_none_is_exit_code_2(arguments: str) -> None:
    """So is nothing, and a group of rules."""
    assert dropaudit("rule", *arguments.split()).exit_code == 2
