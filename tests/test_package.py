"""The wheel: what is in it, and that it works where nothing else is installed."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RULES = sorted(file.name for file in (ROOT / "dropaudit" / "rules").glob("*.py"))

# One worker builds the wheel and makes the environment once, for all tests here.
pytestmark = [pytest.mark.xdist_group("package"), pytest.mark.network]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree with the backend that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = next(file for file in sorted(binaries.iterdir()) if file.stem == "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


@pytest.fixture(scope="session")
def members(wheel: Path) -> list[str]:
    """The names of the files in the wheel."""
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("name", RULES)
def test_the_wheel_holds_every_rule(name: str, members: list[str]) -> None:
    """A rule file that is left out would be a rule that is silent."""
    assert f"dropaudit/rules/{name}" in members


def test_the_wheel_holds_the_license_and_the_marker_of_types(members: list[str]) -> None:
    """Type checkers look for py.typed, people for the license."""
    assert "dropaudit/py.typed" in members
    assert [name for name in members if name.endswith("licenses/LICENSE")]


def test_the_wheel_holds_the_package_and_nothing_else(members: list[str]) -> None:
    """Tests, fixtures and documentation stay in the repository."""
    tops = {name.split("/")[0] for name in members}
    assert tops == {"dropaudit", next(top for top in tops if top.endswith(".dist-info"))}


def test_an_installed_scan_finds_the_marked_lines(empty: Path) -> None:
    """The console script works outside the repository, from a folder that is not the source."""
    fixture = ROOT / "fixtures" / "tagger"
    command = [empty.with_name("dropaudit"), "scan", "--isolated", "--no-cache", "."]
    run = subprocess.run(command, cwd=fixture, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "")
    assert "tagger.py" in run.stdout
    assert "DRP403" in run.stdout


def test_an_installed_scan_of_right_code_is_clean(empty: Path) -> None:
    """The twin of the above: exit code 0."""
    fixture = ROOT / "fixtures" / "healthy" / "tagger"
    command = [empty.with_name("dropaudit"), "scan", "--isolated", "--no-cache", "."]
    run = subprocess.run(command, cwd=fixture, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("package", ["torch", "numpy", "pytest"])
def test_installing_brings_nothing_heavy(empty: Path, package: str) -> None:
    """A linter that downloads gigabytes is not installed twice."""
    assert not _imports(empty, package)


def test_what_is_a_dependency_can_be_imported(empty: Path) -> None:
    """The twin of the above: the question can be answered with yes."""
    assert _imports(empty, "libcst")


def _imports(python: Path, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python, "-I", "-c", code], check=False).returncode == 0
