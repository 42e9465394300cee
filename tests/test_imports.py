"""The import laws, each in a fresh process, and for each a proof that its check can fail."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import dropaudit
from dropaudit.static.cache import Cache
from dropaudit.static.files import FileSelection, discover
from dropaudit.static.record import Options
from dropaudit.static.runner import scan

PACKAGE = Path(dropaudit.__file__).parent


def imported(program: str, *arguments: str) -> set[str]:
    """The top-level modules, and those of dropaudit, that `program` leaves in `sys.modules`."""
    code = f"{program}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code, *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(shown.stdout.splitlines()[-1]))


def imports(modules: Iterable[str]) -> str:
    return "\n".join(f"import {name}" for name in modules)


def exists(module: str) -> bool:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


HEAVY = {"libcst", "click", "torch", "rich", "numpy", "pathspec"}
LIGHT = [
    "findings", "catalogue", "config", "selection", "reporting",
    "static.record", "static.cache", "static.runner", "static.checker", "static.pool",
    "static.suppressions", "static.files", "static.wire",
]  # fmt: skip


def test_the_package_imports_nothing_heavy() -> None:
    """`import dropaudit` costs next to nothing."""
    assert not imported("import dropaudit") & HEAVY


@pytest.mark.parametrize("heavy", ["libcst", "click", "pathspec"])
def test_importing_something_heavy_would_be_seen(heavy: str) -> None:
    """The twin: the same check fails for a program that does import it."""
    assert imported(f"import dropaudit, {heavy}") & HEAVY


@pytest.mark.parametrize("module", [m for m in LIGHT if exists(f"dropaudit.{m}")])
def test_light_modules_import_no_libcst(module: str) -> None:
    """What runs before or without a parse."""
    assert not imported(f"import dropaudit.{module}") & {"libcst", "torch", "rich"}


def test_a_module_that_imports_libcst_would_be_seen() -> None:
    """The twin: the scanner does."""
    assert "libcst" in imported("import dropaudit.static.scanner")


def test_names_of_rules_are_known_without_importing_them() -> None:
    """`catalogue.names()` reads the files."""
    known = imported("from dropaudit.catalogue import names; assert names()")
    assert "libcst" not in known
    assert not any(name.startswith("dropaudit.rules.") for name in known)


def test_importing_the_rules_would_be_seen() -> None:
    """The twin: `catalogue.rules()` imports every one of them."""
    known = imported("from dropaudit.catalogue import rules; rules()")
    assert "libcst" in known
    assert any(name.startswith("dropaudit.rules.") for name in known)


@pytest.mark.parametrize("module", sorted(p.stem for p in (PACKAGE / "static").glob("[a-z]*.py")))
def test_the_static_half_imports_no_torch_and_no_runtime(module: str) -> None:
    """Each module of it alone."""
    known = imported(f"import dropaudit.static.{module}")
    assert "torch" not in known
    assert not any(name.startswith("dropaudit.runtime") for name in known)


WITHOUT_TORCH = [
    "arrival", "evidence", "failure", "gradients", "judge", "modes", "repeats",
    "report", "script", "statistics", "summary", "table", "trace",
]  # fmt: skip


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_judging_and_reporting_need_no_torch(module: str) -> None:
    """A trace is judged where there is none; libcst waits until a rule is needed."""
    known = imported(f"import dropaudit.runtime.{module}")
    assert not known & {"torch", "libcst", "click"}


@pytest.mark.parametrize("name", ["audit", "site", "compare_modes", "check_dropout"])
def test_a_module_that_imports_torch_would_be_seen(name: str) -> None:
    """The twin: what watches a model does, once its name is asked for."""
    assert "torch" in imported(f"import dropaudit; dropaudit.{name}")


SCAN = """
import sys
from pathlib import Path
from dropaudit.static.cache import Cache
from dropaudit.static.files import FileSelection, discover
from dropaudit.static.record import Options
from dropaudit.static.runner import scan
cache = None if sys.argv[1] == "none" else Cache(Path(sys.argv[1]))
records = scan(discover(["."], FileSelection()), Options(), jobs=1, cache=cache).records
assert [len(record.findings) for record in records] == [1]
"""


def test_a_warm_scan_imports_no_libcst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record comes from the cache; the twin, without one, must parse."""
    project, cache = tmp_path / "project", tmp_path / "cache"
    project.mkdir()
    monkeypatch.chdir(project)
    Path("a.py").write_text("import torch.nn.functional as F\nF.dropout(x, 0.5, self.training)\n")
    scan(discover(["."], FileSelection()), Options(), jobs=1, cache=Cache(cache))
    assert not imported(SCAN, str(cache)) & {"libcst", "click", "rich", "dropaudit.rules"}
    assert "libcst" in imported(SCAN, "none")


def modules_named_by(source: str, package: str) -> set[str]:
    """The modules of dropaudit that a source file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: -node.level + 1 or None]
                base = ".".join([*above, *([base] if base else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return {name for name in found if name.startswith("dropaudit.")}


SOURCES = sorted(p.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("*.py"))
NEVER = {  # package -> what nothing in it may import, not even inside a function
    "dropaudit.static": ("dropaudit.cli", "dropaudit.runtime", "dropaudit.reporting"),
    "dropaudit.runtime": ("dropaudit.cli", "dropaudit.static"),
    "dropaudit.rules": ("dropaudit.cli", "dropaudit.runtime", "dropaudit.reporting"),
    "dropaudit.reporting": ("dropaudit.cli", "dropaudit.static.scanner", "dropaudit.static.source"),
}

JUDGING = tuple(  # what a check over a trace asks: plain numbers, no torch
    f"dropaudit.runtime.{name}"
    for name in (
        "trace",
        "statistics",
        "evidence",
        "modes",
        "gradients",
        "repeats",
        "world",
        "acrossranks",
    )
)


def broken_laws(source: str, package: str) -> list[str]:
    """The imports in `source` that the laws forbid in `package`."""
    laws = [law for place, law in NEVER.items() if package.startswith(place)]
    banned = tuple(name for law in laws for name in law) or ("dropaudit.cli",)
    found = {n for n in modules_named_by(source, package) if n.startswith(banned)}
    if package.startswith("dropaudit.rules"):
        found = {n for n in found if ".".join(n.split(".")[:3]) not in JUDGING}
    return sorted(found)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_point_one_way(path: Path) -> None:
    """Nobody imports the command line; the halves do not know each other."""
    if path.name not in ("cli.py", "__main__.py"):
        package = ".".join(path.parent.parts)
        assert broken_laws((PACKAGE.parent / path).read_text("utf-8"), package) == []


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("from dropaudit.cli import main", "dropaudit"),
        ("def f():\n    import dropaudit.runtime.recorder", "dropaudit.static"),
        ("from ..runtime import trace", "dropaudit.static"),
        ("from dropaudit import cli", "dropaudit.rules"),
        ("from dropaudit.static import source", "dropaudit.runtime"),
        ("from dropaudit.runtime.recorder import Recorder", "dropaudit.rules"),
        ("from dropaudit.runtime import ledger", "dropaudit.rules"),
    ],
)
def test_an_import_against_the_direction_would_be_seen(source: str, package: str) -> None:
    """The twin, for each law and each way to write an import."""
    assert broken_laws(source, package)
