"""Commands over programs of several files: fixes one after another, hooks, editors."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dropaudit import catalogue
from dropaudit.cli import main
from dropaudit.commands import settings
from dropaudit.static import pool, scanner, surroundings
from tests.static import crossing

CLAIM = "import torch\nclaimed(armed)\n"
CALLER = "import torch\n\n\ndef f():\n    danger()\n"
ARMED = "import torch\n\n\ndef armed():\n    claimed(spare)\n"
SPARE = "import torch\n\n\ndef spare():\n    pass\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose files need each other, which is the current directory."""
    known, every = catalogue.names(), (*catalogue.rules(), crossing.rule)
    monkeypatch.setattr(catalogue, "rules", lambda: every)
    monkeypatch.setattr(scanner, "all_rules", lambda: every)
    monkeypatch.setattr(settings, "names", lambda: {**known, "DRP998": "crossing"})
    monkeypatch.setattr(pool, "Worker", None)  # all of it is small
    monkeypatch.chdir(tmp_path)
    for name, text in {"a": CLAIM, "b": CALLER, "c": ARMED, "d": SPARE, "setup": ""}.items():
        Path(f"{name}.py").write_text(text)
    return tmp_path


def scan(*arguments: str, input: str | None = None) -> Result:
    flags = ("--output-format", "concise", "--select", "DRP998")
    return CliRunner().invoke(main, ["scan", *flags, *arguments], input=input)


def lines(result: Result) -> list[str]:
    return [line for line in result.stdout.splitlines() if "DRP998" in line]


def test_a_file_alone_is_judged_with_its_project_at_hand() -> None:
    """And only it is reported on; `-v` says how many others were read."""
    result = scan("-v", "b.py")
    assert lines(result) == ["b.py:4:1: DRP998 armed in c.py"]
    assert "checked 1 files beside 4 others, in" in result.stderr


def test_it_is_said_when_some_were_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `-v`."""
    monkeypatch.setattr(surroundings, "MAX_FILES", 2)
    assert "beside 2 others, the most that are read, in" in scan("-v", "b.py").stderr


def test_a_scan_of_all_needs_no_others() -> None:
    """They are all reported on."""
    result = scan("-v")
    assert [line.split(":")[0] for line in lines(result)] == ["a.py", "b.py", "c.py"]
    assert "beside" not in result.stderr


def test_a_file_of_an_editor_has_its_project_at_hand() -> None:
    """By its name; without one there is nothing around it."""
    named = scan("-", "--stdin-filename", "b.py", input=CALLER)
    assert lines(named) == ["b.py:4:1: DRP998 armed in c.py"]
    assert lines(scan("-", input=CALLER)) == []


def test_a_fix_from_standard_input_is_judged_in_its_program() -> None:
    """The mended source goes to standard output."""
    fixed = scan("-", "--stdin-filename", "a.py", "--fix", "--unsafe-fixes", input=CLAIM)
    assert fixed.stdout == CLAIM.replace("claimed", "safe")


def test_fixes_of_several_files_leave_nothing_to_mend() -> None:
    """What is reported at the end is what a new scan reports."""
    result = scan("--fix", "--unsafe-fixes")
    assert Path("a.py").read_text() == CLAIM.replace("claimed", "safe")
    assert Path("c.py").read_text() == ARMED.replace("claimed", "safe")
    assert lines(result) == lines(scan()) == lines(scan("--no-cache"))


def test_a_diff_shows_what_fixes_do_and_changes_nothing() -> None:
    """In each of the files."""
    result = scan("--diff", "--unsafe-fixes")
    assert result.stdout.count("+safe(armed)") == 1
    assert result.stdout.count("+    safe(spare)") == 1
    assert Path("a.py").read_text() == CLAIM
