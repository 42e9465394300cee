"""The command as a process: start, pipes, imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BAD = "import torch.nn.functional as F\n\n\ndef f(x):\n    F.dropout(x)\n    return x\n"
COMMAND = [sys.executable, "-m", "dropaudit"]


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=directory, capture_output=True, text=True, check=False
    )


def test_a_real_process_finds_and_exits(tmp_path: Path) -> None:
    """No runner in between."""
    (tmp_path / "net.py").write_text(BAD)
    done = run(tmp_path, "scan", "--output-format", "concise")
    assert done.returncode == 1
    assert done.stdout.startswith("net.py:5:5: DRP401")
    assert done.stderr == ""


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`dropaudit rule --all | head` is quiet."""
    with subprocess.Popen(
        [*COMMAND, "rule", "--all"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", ["--version", "--help", "scan --show-files", "scan"])
def test_a_warm_start_imports_nothing_heavy(tmp_path: Path, arguments: str) -> None:
    """libcst and rich cost more than a scan from the cache."""
    (tmp_path / "net.py").write_text("import torch\n")
    run(tmp_path, "scan")
    assert _heavy(tmp_path, arguments) == set()


def test_a_cold_scan_imports_libcst(tmp_path: Path) -> None:
    """The twin of the above: the test can see it."""
    (tmp_path / "net.py").write_text(BAD)
    assert "libcst" in _heavy(tmp_path, "scan --no-cache")


def _heavy(directory: Path, arguments: str) -> set[str]:
    code = (
        "import sys; from dropaudit.cli import main; "
        "main(sys.argv[1:], standalone_mode=False); print('modules', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments.split()],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.splitlines()[-1].split()[1:]
    return {"libcst", "rich", "torch", "pathspec"}.intersection(modules)
