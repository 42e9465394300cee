"""The hooks, run by the real pre-commit in a git repository against this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BAD = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.layer(x)
        self.drop(x)
        return x
"""
GOOD = BAD.replace("        self.drop(x)", "        x = self.drop(x)")
UNUSED = GOOD.replace("return x\n", "return x  # dropaudit: ignore[DRP401]\n")

Commit = Callable[[str, str], "subprocess.CompletedProcess[str]"]

# One worker lets pre-commit make the environment of the hooks once, for all tests here.
pytestmark = [pytest.mark.xdist_group("pre-commit"), pytest.mark.network]


@dataclass(frozen=True)
class Hooks:
    """A repository that offers the hooks of the working tree, and pre-commit's own folder."""

    repository: Path
    revision: str
    home: Path


@pytest.fixture(scope="session")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    """The working tree, changes that are not committed included, as a commit of a new repository.

    Git reads the files where they are, so .gitignore holds and nothing here is touched.
    """
    repository = tmp_path_factory.mktemp("hooks")
    _git(repository, "init", "--quiet")
    _git(repository, f"--work-tree={ROOT}", "add", "--all", cwd=ROOT)
    _git(repository, "commit", "--quiet", "--message", "Working tree")
    revision = _git(repository, "rev-parse", "HEAD").strip()
    return Hooks(repository, revision, tmp_path_factory.mktemp("pre-commit"))


@pytest.fixture
def project(tmp_path: Path, hooks: Hooks) -> Commit:
    """A git repository with a hook installed: try to commit `net.py` with some text."""
    _git(tmp_path, "init", "--quiet")

    def commit(hook: str, text: str) -> subprocess.CompletedProcess[str]:
        config = tmp_path / ".pre-commit-config.yaml"
        config.write_text(
            f"repos:\n"
            f"- repo: {hooks.repository}\n"
            f"  rev: {hooks.revision}\n"
            f"  hooks:\n"
            f"  - id: {hook}\n"
        )
        (tmp_path / "net.py").write_text(text)
        install = [sys.executable, "-m", "pre_commit", "install"]
        environment = _environment() | {"PRE_COMMIT_HOME": str(hooks.home)}
        subprocess.run(install, cwd=tmp_path, env=environment, check=True, capture_output=True)
        _git(tmp_path, "add", "--all")
        command = [*_as_author(), "commit", "--message", "Add a network"]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return commit


def test_a_commit_with_a_finding_is_blocked(project: Commit) -> None:
    """The finding is shown, and nothing is committed."""
    run = project("dropaudit", BAD)
    output = run.stdout + run.stderr
    assert run.returncode == 1, output
    assert "net.py:12:9: DRP401" in output


def test_a_commit_without_findings_passes(project: Commit, tmp_path: Path) -> None:
    """Right code is committed as it is."""
    run = project("dropaudit", GOOD)
    assert run.returncode == 0, run.stdout + run.stderr
    assert _git(tmp_path, "show", "HEAD:net.py") == GOOD


def test_the_fixing_hook_changes_the_file_and_blocks(project: Commit, tmp_path: Path) -> None:
    """As with every hook that fixes: look at the change, add it, commit again."""
    run = project("dropaudit-fix", UNUSED)
    output = run.stdout + run.stderr
    assert run.returncode == 1, output
    assert (tmp_path / "net.py").read_text() == GOOD
    again = project("dropaudit-fix", (tmp_path / "net.py").read_text())
    assert again.returncode == 0, again.stdout + again.stderr


def test_the_environment_of_the_hooks_holds_no_torch(project: Commit, hooks: Hooks) -> None:
    """The environment that pre-commit made has dropaudit, libcst and no torch."""
    assert project("dropaudit", GOOD).returncode == 0
    pythons = sorted(hooks.home.glob("repo*/py_env-*/bin/python"))
    assert pythons, "pre-commit made no environment"
    for python in pythons:
        assert _imports(python, "dropaudit")
        assert _imports(python, "libcst")
        assert not _imports(python, "torch")


def _imports(python: Path, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-I", "-c", code], check=False).returncode == 0


def _git(repository: Path, *arguments: str, cwd: Path | None = None) -> str:
    command = [*_as_author(), f"--git-dir={repository / '.git'}", *arguments]
    run = subprocess.run(
        command, cwd=cwd or repository, env=_environment(), check=True, stdout=subprocess.PIPE
    )
    return run.stdout.decode()


def _as_author() -> list[str]:
    """Git with an author and without the settings of whoever runs the tests."""
    settings = {
        "user.name": "Tester",
        "user.email": "tester@example.org",
        "commit.gpgsign": "false",
    }
    return ["git", *(part for name in settings for part in ("-c", f"{name}={settings[name]}"))]


def _environment() -> dict[str, str]:
    """Nothing of a git that runs around the tests (they may run in a hook themselves)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
