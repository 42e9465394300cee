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


def test_the_wheel_registers_the_command_and_the_pytest_plugin(wheel: Path) -> None:
    """Or nobody would ever load the plugin."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "[pytest11]\ndropaudit = dropaudit.pytest_plugin" in text
    assert "dropaudit = dropaudit.cli:main" in text


def test_an_audit_without_torch_is_one_sentence(empty: Path, tmp_path: Path) -> None:
    """On the command line and in Python; nothing has run by then."""
    (tmp_path / "train.py").write_text("print('ran')")
    command = [empty.with_name("dropaudit"), "run", "train.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "Error: dropaudit run needs PyTorch: pip install 'dropaudit[torch]'\n"
    for name in ("audit", "site", "compare_modes", "check_dropout"):
        code = f"try: from dropaudit import {name}\nexcept ImportError as error: print(error)"
        run = subprocess.run([empty, "-c", code], capture_output=True, text=True, check=False)
        assert run.stdout == (
            f"dropaudit.{name} needs PyTorch: pip install 'dropaudit[torch]'\n"
        ), run.stderr


def test_a_trace_is_judged_without_torch(empty: Path, tmp_path: Path) -> None:
    """Somebody else's trace, on a machine that could not have made it."""
    code = "from dropaudit import Trace; print(Trace(steps=3).to_json())"
    trace = subprocess.run([empty, "-c", code], capture_output=True, text=True, check=True).stdout
    (tmp_path / "trace.json").write_text(trace)
    command = [empty.with_name("dropaudit"), "judge", "trace.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert "DRP002 nothing-observed (warning)" in run.stdout


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
