"""Many files: order, processes, the cache, and files that kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dropaudit.static import pool, runner
from dropaudit.static.cache import Cache, content_of
from dropaudit.static.files import FileSelection, Found, discover
from dropaudit.static.pool import Worker
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.runner import check_apart

OPTIONS = Options()
HEAD = "import torch.nn.functional as F\nF.dropout(x, 0.5, self.training)\n"  # DRP401


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the work, it goes to worker processes."""
    monkeypatch.setattr(runner, "_SMALL", -1)


def write(**programs: str) -> list[Found]:
    for name, program in programs.items():
        Path(f"{name}.py").write_text(program)
    return discover(["."], FileSelection())


def scan(files: list[Found], options: Options, **others: Any) -> list[FileRecord]:
    return runner.scan(files, options, **others).records


def codes(records: list[FileRecord]) -> dict[str, list[str]]:
    return {r.path.removesuffix(".py"): [f.code for f in r.findings] for r in records}


def test_records_come_in_the_order_of_the_files_for_any_number_of_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, in one, in three: equal records."""
    files = write(**{f"n{n}": HEAD * (n % 4) + "y = 1\n" * n for n in range(12)}, plain="x = 1\n")
    here = scan(files, OPTIONS, jobs=1, cache=None)
    assert [r.path for r in here] == [f.display for f in files]
    assert codes(here)["n3"] == ["DRP401"] * 3
    monkeypatch.setattr(runner, "_SMALL", -1)
    assert scan(files, OPTIONS, jobs=1, cache=None) == here
    assert scan(files, OPTIONS, jobs=3, cache=None) == here


WILD = {
    "nested": "x = " + "(" * 1600 + ")" * 1600,
    "unclosed": "x = " + "[" * 5000,
    "negations": "x = " + "not " * 12_000 + "1",
}
LONG = {
    "sum400": "x = " + "a + " * 400 + "a",
    "sum1500": "x = " + "a + " * 1500 + "a",
    "conjunction5000": "x = " + "a and " * 5000 + "a",
    "calls400": "x = a" + ".b()" * 400,
    "strings2000": "x = " + "'a' " * 2000,
    "conditions500": "x = " + "a if b else " * 500 + "c",
    "branches1000": "if a: pass\n" + "elif b: pass\n" * 1000,
    "blocks95": "".join(" " * n + "if a:\n" for n in range(95)) + " " * 95 + "pass",
}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_kills_the_parser_is_said_and_the_rest_is_checked(jobs: int) -> None:
    """One DRP000 each; every other file keeps its finding."""
    files = write(**{name: HEAD + program + "\n" for name, program in WILD.items()}, good=HEAD)
    found = codes(scan(files, OPTIONS, jobs=jobs, cache=None))
    assert found == {**{name: ["DRP000"] for name in WILD}, "good": ["DRP401"]}


@pytest.mark.parametrize("name", WILD)
def test_a_single_wild_file_does_not_end_this_process(name: str) -> None:
    """Neither in a scan (above) nor when its bytes come from elsewhere."""
    files = write(one=HEAD + WILD[name] + "\n")
    record = check_apart("one.py", files[0].path.read_bytes(), OPTIONS)
    assert [f.code for f in record.findings] == ["DRP000"]


def test_long_and_deep_programs_are_checked() -> None:
    """Valid Python is never skipped for its shape."""
    files = write(**{name: HEAD + program + "\n" for name, program in LONG.items()})
    found = codes(scan(files, OPTIONS, jobs=2, cache=None))
    assert found == {name: ["DRP401"] for name in LONG}


def test_a_file_that_takes_too_long_is_said(monkeypatch: pytest.MonkeyPatch, apart: None) -> None:
    """The time limit grows with the file; here it is too short for a sum of many terms."""
    monkeypatch.setattr(pool, "_SECONDS_PER_BYTE", 0.0)
    real = Worker._line

    def soon(self: Worker, seconds: float) -> bytes:
        return real(self, seconds if self._hello is None else 0.5)

    monkeypatch.setattr(Worker, "_line", soon)
    files = write(slow=HEAD + "x = " + "a + " * 9000 + "a\n", z=HEAD)
    records = scan(files, OPTIONS, jobs=1, cache=None)
    assert codes(records)["slow"] == ["DRP000"]
    assert "took longer than" in records[0].findings[0].message


def test_a_second_scan_checks_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, apart: None
) -> None:
    """Every record comes from the cache; a changed file is checked again."""
    files = write(a=HEAD, b="x = 1\n")
    first = scan(files, OPTIONS, jobs=2, cache=Cache(project / "cache"))
    monkeypatch.setattr(pool, "Worker", None)
    assert scan(files, OPTIONS, jobs=2, cache=Cache(project / "cache")) == first
    monkeypatch.undo()
    monkeypatch.chdir(project)
    Path("a.py").write_text(HEAD * 2)
    again = scan(files, OPTIONS, jobs=2, cache=Cache(project / "cache"))
    assert codes(again) == {"a": ["DRP401", "DRP401"], "b": []}


def test_a_death_is_not_kept(project: Path, apart: None) -> None:
    """Time and memory may suffice the next time."""
    files = write(a=HEAD + WILD["negations"])
    scan(files, OPTIONS, jobs=1, cache=Cache(project / "cache"))
    content = content_of(files[0].path.read_bytes())
    assert Cache(project / "cache").get("a.py", content, OPTIONS) is None


def test_what_cannot_be_read_is_said(project: Path) -> None:
    """A file that is gone, a directory that discovery could not list."""
    files = [Found(project / "gone.py", "gone.py"), Found(project, "closed", "cannot be listed: x")]
    gone, closed = scan(files, OPTIONS, jobs=1, cache=None)
    assert "cannot be read" in gone.findings[0].message
    assert "cannot be listed" in closed.findings[0].message


def test_progress_runs_from_none_to_all(apart: None) -> None:
    """Never back, never beyond."""
    files = write(a=HEAD, b=HEAD, c="x = 1\n")
    told: list[tuple[int, int]] = []
    scan(files, OPTIONS, jobs=2, cache=None, progress=lambda *both: told.append(both))
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((0, 3), (3, 3))


def test_an_interrupt_leaves_no_process(monkeypatch: pytest.MonkeyPatch, apart: None) -> None:
    """Every worker that was started has ended when the exception arrives."""
    started: list[Worker] = []
    real = Worker.__init__

    def remember(self: Worker) -> None:
        real(self)
        started.append(self)

    monkeypatch.setattr(Worker, "__init__", remember)

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    files = write(**{f"n{n}": HEAD * 200 for n in range(10)})
    with pytest.raises(KeyboardInterrupt):
        scan(files, OPTIONS, jobs=2, cache=None, progress=interrupt)
    assert len(started) == 2
    assert all(worker._process.poll() is not None for worker in started)


def test_the_scanned_directory_is_not_imported_from(apart: None) -> None:
    """A hostile tree may hold a libcst.py."""
    for name in ("libcst", "dropaudit", "json", "sitecustomize"):
        Path(f"{name}.py").write_text(f"open('owned', 'w')\n{HEAD}")
    found = codes(scan(discover(["."], FileSelection()), OPTIONS, jobs=1, cache=None))
    assert all(codes == ["DRP401"] for codes in found.values())
    assert not Path("owned").exists()


def test_a_broken_rule_ends_the_scan_with_its_name(
    monkeypatch: pytest.MonkeyPatch, apart: None
) -> None:
    """An installation that cannot work must not look like a clean scan."""
    broken = pool._START.replace(
        "main()", "import dropaudit.catalogue as c; c.rules = None; main()"
    )
    monkeypatch.setattr(pool, "_START", broken)
    with pytest.raises(RuntimeError, match="worker process of dropaudit failed: TypeError"):
        scan(write(a=HEAD), OPTIONS, jobs=1, cache=None)


def test_no_files_are_no_records() -> None:
    """And no process is started for them."""
    assert scan([], OPTIONS, jobs=4, cache=None) == []
