"""Files as one program: what is joined, what is kept, and what happens when one of them changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dropaudit import catalogue
from dropaudit.static import pool, runner, scanner, surroundings, unseen
from dropaudit.static.cache import Cache
from dropaudit.static.files import FileSelection, Found, discover
from dropaudit.static.fixer import fix
from dropaudit.static.program import reading
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.runner import check_apart, scan, scan_bytes
from dropaudit.static.surroundings import Surroundings
from dropaudit.static.whole import Whole
from tests.static import crossing

OPTIONS = Options()
SELECTION = FileSelection()
CALLER = "import torch\ndef f():\n    danger()\n"
ARMED = "import torch\ndef armed(): pass\n"
UNARMED = "import torch\ndef other(): pass\n"
CLAIM = "import torch\nclaimed(armed)\nclaimed(missing)\n"
_START = pool._START.replace(
    "main()", "from tests.static.crossing import install; install(); main()"
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    every = (*catalogue.rules(), crossing.rule)
    monkeypatch.setattr(catalogue, "rules", lambda: every)
    monkeypatch.setattr(scanner, "all_rules", lambda: every)
    monkeypatch.setattr(pool, "_START", _START)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**programs: str) -> list[Found]:
    for name, program in programs.items():
        Path(f"{name}.py").write_text(program)
    return discover(["."], SELECTION)


def only(name: str) -> list[Found]:
    return [Found(Path(name).absolute(), name)]


def around(*names: str) -> Any:
    files = [Found(Path(name).absolute(), name) for name in names]
    return lambda: surroundings.surroundings(names, files, SELECTION)


def said(records: list[FileRecord]) -> dict[str, list[tuple[str, int]]]:
    return {r.path: [(f.code, f.where.line) for f in r.findings] for r in records if r.findings}


def scanned(files: list[Found], **others: Any) -> dict[str, list[tuple[str, int]]]:
    return said(scan(files, OPTIONS, **{"jobs": 1, "cache": None, **others}).records)


def test_a_finding_may_need_another_file() -> None:
    """It is one finding of the file in which it lies, with those of checks of one file."""
    assert scanned(write(a=CALLER, b=ARMED)) == {"a.py": [("DRP998", 2)]}
    assert scanned(write(b=UNARMED)) == {}


def test_a_claim_stands_where_the_program_agrees() -> None:
    """Of two calls, the one whose argument is defined in another file."""
    assert scanned(write(a=CLAIM, b=ARMED)) == {"a.py": [("DRP998", 2)]}
    assert scanned(write(b=UNARMED)) == {}


def test_findings_are_the_same_for_any_order_and_any_number_of_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this process, in one, in two, and from the last file to the first."""
    files = write(**{f"a{n}": CALLER * n + CLAIM for n in range(4)}, b=ARMED, c=ARMED)
    here = scan(files, OPTIONS, jobs=1, cache=None).records
    assert sum(len(record.findings) for record in here) == 10
    back = scan(files[::-1], OPTIONS, jobs=1, cache=None).records
    assert back[::-1] == here
    monkeypatch.setattr(runner, "_SMALL", -1)
    for jobs in (1, 2):
        assert scan(files, OPTIONS, jobs=jobs, cache=None).records == here


def test_a_second_scan_joins_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither facts nor findings are worked out again; the records are equal."""
    files = write(a=CALLER + CLAIM, b=ARMED)
    first = scan(files, OPTIONS, jobs=1, cache=Cache(project / "cache")).records
    monkeypatch.setattr(Whole, "_joined", None)
    monkeypatch.setattr(runner, "check", None)
    assert scan(files, OPTIONS, jobs=1, cache=Cache(project / "cache")).records == first
    assert said(first) == {"a.py": [("DRP998", 2), ("DRP998", 5)]}


def test_a_change_in_one_file_is_seen_in_another(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the changed file is read; the facts of the other come from the cache."""
    cache = project / "cache"
    assert scanned(write(a=CALLER, b=ARMED), cache=Cache(cache))
    read: list[bytes] = []
    real = reading.read_facts

    def remember(data: bytes) -> Any:
        read.append(data)
        return real(data)

    monkeypatch.setattr(unseen, "read_facts", remember)
    assert scanned(write(b=UNARMED), cache=Cache(cache)) == {}
    assert read == [UNARMED.encode()]
    assert scanned(write(b=ARMED), cache=Cache(cache)) == {"a.py": [("DRP998", 2)]}
    Path("b.py").unlink()
    assert scanned(discover(["."], SELECTION), cache=Cache(cache)) == {}


DAMAGE = {
    "empty": b"",
    "no head": b"\x80\xff",
    "another head": b"[]\n",
    "cut off": None,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_facts_are_read_again(project: Path, damage: bytes | None) -> None:
    """Nothing in a cache is trusted."""
    cache = project / "cache"
    scanned(write(a=CALLER, b=UNARMED), cache=Cache(cache))
    (shard,) = cache.glob("*.facts")
    shard.write_bytes(shard.read_bytes()[:-3] if damage is None else damage)
    for joined in cache.glob("joined-*"):
        joined.write_bytes(b"[1]")
    assert scanned(write(b=ARMED), cache=Cache(cache)) == {"a.py": [("DRP998", 2)]}


def test_files_around_are_read_for_facts_and_not_reported_on(project: Path) -> None:
    """A hook names one file; what lies beside it and above it in the project counts."""
    Path("pyproject.toml").touch()
    Path("package").mkdir()
    write(**{"package/a": CALLER, "b": ARMED + CALLER, "package/broken": "if\n"})
    name = "package/a.py"
    assert scanned(only(name)) == {}
    whole = scan(only(name), OPTIONS, jobs=1, cache=Cache(project / "cache"), around=around(name))
    assert said(whole.records) == {name: [("DRP998", 2)]}
    assert [file.display for file in whole.around.files] == ["package/broken.py", "b.py"]
    again = scan(only(name), OPTIONS, jobs=1, cache=Cache(project / "cache"), around=around(name))
    assert again.records == whole.records


def test_what_lies_around_is_looked_for_only_where_it_could_matter() -> None:
    """A file without any of the words of a rule across files needs none of it."""
    write(a=UNARMED, b=ARMED)

    def fail() -> Surroundings:
        raise AssertionError

    assert scanned(only("a.py"), around=fail) == {}


@pytest.mark.parametrize(
    ("asked", "paths", "found"),
    [
        ("app/x/one.py", (), ["app/x/two.py", "app/base.py", "app/y/far.py", "setup_.py"]),
        ("app/x/one.py", ("app/x",), ["app/base.py", "app/y/far.py", "setup_.py"]),
        ("app/x/one.py", (".",), []),
        ("setup_.py", (), ["app/base.py", "app/x/one.py", "app/x/two.py", "app/y/far.py"]),
    ],
)
def test_the_nearest_files_come_first(asked: str, paths: tuple[str, ...], found: list[str]) -> None:
    """The same folder, then each one above it, up to the root of the project and not beyond."""
    files = {"app/x/two": "", "app/x/one": "", "app/base": "", "app/y/far": "", "setup_": ""}
    for name in (*files, "venv/hidden", ".git/hook"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(f"{name}.py").write_text("import torch\n")
    Path("app/x/book.ipynb").write_text("{}")
    named = discover(list(paths), SELECTION) if paths else only(asked)
    near = surroundings.surroundings(paths or (asked,), named, SELECTION)
    assert [file.display for file in near.files] == found
    assert not near.cut


@pytest.mark.parametrize(
    ("bound", "value", "count"),
    [("MAX_FILES", 3, 3), ("MAX_BYTES", 45, 3), ("MAX_FOLDERS", 0, 0), ("MAX_FILES", 5, 5)],
)
def test_what_is_read_around_is_bounded(
    bound: str, value: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files, bytes and folders; it is said that something was left out."""
    Path("setup.py").write_text("import torch\n")
    write(**{name: "import torch\n" for name in "abcde"})
    monkeypatch.setattr(surroundings, bound, value)
    near = surroundings.surroundings(("a.py",), only("a.py"), SELECTION)
    assert (len(near.files), near.cut) == (count, count < 5)


def test_without_a_project_only_the_folder_counts(tmp_path: Path) -> None:
    """Whatever lies above it may be a whole disk."""
    Path("one").mkdir()
    write(**{"one/a": CALLER, "one/b": UNARMED, "c": ARMED})
    if any((up / ".git").exists() for up in tmp_path.parents):
        pytest.skip("the temporary folder lies in a project")
    near = surroundings.surroundings(("one/a.py",), only("one/a.py"), SELECTION)
    assert [file.display for file in near.files] == ["one/b.py"]


def test_a_part_of_the_program_does_not_judge_suppressions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a comment silences may need a file that was left out."""
    from dropaudit.static import suppressions

    monkeypatch.setattr(suppressions, "names", lambda: {"DRP998": "crossing"})
    monkeypatch.setattr(suppressions, "across_files", lambda: frozenset({"DRP998"}))
    Path("setup.py").write_text(UNARMED)
    write(a="import torch\ndef f():  # noqa: DRP998\n    danger()\n", b=UNARMED)

    def judged() -> list[str]:
        whole = scan(only("a.py"), OPTIONS, jobs=1, cache=None, around=around("a.py"))
        return [f.code for f in suppressions.apply(whole.records[0], lambda code: True)]

    assert judged() == ["DRP001"]
    monkeypatch.setattr(surroundings, "MAX_FILES", 1)
    assert judged() == []


def test_bytes_from_elsewhere_are_joined_with_the_files_around_them() -> None:
    """What an editor holds, not what is on disk, is the file of that name."""
    Path("setup.py").touch()
    write(a=UNARMED, b=ARMED)
    (file,) = only("a.py")
    whole = scan_bytes(file, CALLER.encode(), OPTIONS, jobs=1, cache=None, around=around("a.py"))
    assert said(whole.records) == {"a.py": [("DRP998", 2)]}
    assert [one.display for one in whole.around.files] == ["b.py", "setup.py"]


def notebook(*cells: str) -> str:
    made = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def test_findings_in_a_notebook_count_cells() -> None:
    """Those of the program, and claims, whose lines count through all cells until then."""
    Path("n.ipynb").write_text(
        notebook("%matplotlib inline\nimport torch", "x = 1\n\n" + CALLER, "\nclaimed(armed)\n")
    )
    (record, _) = scan(write(b=ARMED), OPTIONS, jobs=1, cache=None).records[::-1]
    places = [(f.where.cell, f.where.line, f.where.end_line) for f in record.findings]
    assert places == [(2, 4, 5), (3, 2, 2)]


def test_a_check_that_fails_is_one_finding() -> None:
    """On the first file; those of the other checks stay."""
    files = write(
        a="import torch\n", b=CALLER + "def crash(): pass\nfrom torch import nn\nnn.Dropout(2.0)\n"
    )
    whole = scan(files, OPTIONS, jobs=1, cache=None)
    assert said(whole.records) == {"a.py": [("DRP000", 1)], "b.py": [("DRP106", 6)]}
    message = whole.records[0].findings[0].message
    assert message == "rule DRP998 failed (ValueError: a broken rule); please report this"


WILD = {
    "NUL": b"import torch\ndanger()\n\0",
    "brackets": b"import torch\ndanger(" + b"(" * 1600 + b")" * 1601,
    "open": b"import torch\ndanger" + b"(" * 5000,
    "bytes": b"import torch\ndanger()\n# \xff\n",
    "Python 2": b"import torch\ndanger()\nprint 'x'\n",
}
DEEP = {
    "blocks": "".join(" " * n + "if a:\n" for n in range(95)) + " " * 95 + "danger()\n",
    "calls": "danger()" + ".b()" * 400 + "\n",
    "a table": "TABLE = [\n" + "    (1, 'a', None),\n" * 50_000 + "]\ndanger()\n",
    "branches": "if a: pass\n" + "elif b: pass\n" * 150 + "danger()\n",
}
DEEPER = {
    "branches": "if a: pass\n" + "elif b: pass\n" * 1000,
    "conjunction": "x = " + "a and " * 5000 + "a\n",
    "calls": "x = a" + ".b()" * 2000 + "\n",
}


@pytest.mark.parametrize("jobs", [0, 1])
def test_hostile_files_are_said_and_the_rest_is_joined(
    jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One DRP000 each, in this process or in another; every other finding stays."""
    if jobs:
        monkeypatch.setattr(runner, "_SMALL", -1)
    for name, data in WILD.items():
        Path(f"{name}.py").write_bytes(data)
    found = scanned(write(a=CALLER, b=ARMED), jobs=1)
    assert {path: [code for code, _ in of] for path, of in found.items()} == {
        "a.py": ["DRP998"],
        **{f"{name}.py": ["DRP000"] for name in WILD},
    }


def test_long_and_deep_files_are_joined() -> None:
    """The function around the call is reported, whatever its shape."""
    programs = {
        name: "import torch\ndef f(a=1, b=2):\n"
        + "".join(f" {line}\n" for line in text.splitlines())
        for name, text in DEEP.items()
    }
    found = scanned(write(**programs, zz=ARMED), jobs=2)
    assert found == {f"{name}.py": [("DRP998", 2)] for name in sorted(programs)}


@pytest.mark.parametrize("program", DEEPER.values(), ids=DEEPER)
def test_what_is_too_deep_to_follow_is_left_out_alone(program: str) -> None:
    """The functions before and after it are seen, at their lines."""
    files = write(a=CALLER + program + CALLER, b=ARMED)
    lines = CALLER.count("\n") + program.count("\n")
    assert scanned(files) == {"a.py": [("DRP998", 2), ("DRP998", lines + 2)]}


def test_a_file_for_a_newer_python_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a rule across files might report in it; libcst reads it, and its rules do."""

    def old(data: bytes) -> Any:
        raise SyntaxError("invalid syntax", ("net.py", 3, 5, "", 3, 6))

    monkeypatch.setattr(unseen, "read_facts", old)
    files = write(a=CALLER + "from torch import nn\nnn.Dropout(2.0)\n", b=UNARMED)
    whole = scan(files, OPTIONS, jobs=1, cache=None)
    assert said(whole.records) == {"a.py": [("DRP000", 3), ("DRP106", 5)]}
    version = ".".join(map(str, sys.version_info[:2]))
    assert f"Python {version} cannot parse it" in whole.records[0].findings[0].message


def mended(whole: Whole, name: str) -> tuple[str, list[str]]:
    """What fixes make of a file, as `--fix` does it, and what is left in it."""

    def record_of(data: bytes) -> FileRecord:
        return whole.again(check_apart(name, data, OPTIONS), data)

    data = Path(name).read_bytes()
    fixed = fix(name, data, record_of, lambda record: list(record.findings), unsafe=True)
    if fixed.data != data:
        whole.change(name, fixed.data)
    return fixed.data.decode(), [finding.code for finding in fixed.remaining]


def test_fixes_converge_in_a_program() -> None:
    """After each round the file is joined again with the others."""
    whole = scan(write(a=CLAIM, b=ARMED), OPTIONS, jobs=1, cache=None)
    assert mended(whole, "a.py") == ("import torch\nsafe(armed)\nclaimed(missing)\n", [])


def test_later_files_see_what_earlier_ones_have_become() -> None:
    """The fix of the first takes away what the claims of the others rest on."""
    program = "import torch\nclaimed(armed)\ndef g{}(): pass\n"
    files = write(a=program.format(1), b=program.format(2), c=ARMED, d=CALLER)
    whole = scan(files, OPTIONS, jobs=1, cache=None)
    assert set(said(whole.records)) == {"a.py", "b.py", "d.py"}
    whole.change("c.py", UNARMED.encode())
    assert mended(whole, "b.py") == (program.format(2), [])
    assert [said([one]) for one in whole.now(["a.py", "d.py"])] == [{}, {}]


def test_files_of_which_nothing_was_found_are_not_joined_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fixes of other findings cost what they did."""
    files = write(a="import torch\nfrom torch import nn\nnn.Dropout(2.0)\n", b=ARMED, c=CALLER)
    whole = scan(files, OPTIONS, jobs=1, cache=None)
    monkeypatch.setattr(Whole, "_joined", None)
    assert mended(whole, "a.py")[1] == ["DRP106"]


def test_projects_that_are_scanned_together_are_programs_of_their_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the other, and a change in one leaves the other as it is."""
    for name in ("one", "two"):
        Path(name, "deep").mkdir(parents=True)
        Path(name, "setup.py").touch()
        Path(name, "deep", "setup.py").touch()
    files = write(**{"one/deep/a": CALLER, "one/b": ARMED, "two/a": CALLER})
    cache = project / "cache"
    found = {"one/deep/a.py": [("DRP998", 2)]}
    assert scanned(files, cache=Cache(cache)) == found
    joined: list[str] = []
    real = Whole._joined

    def remember(self: Whole, root: str, *others: Any) -> Any:
        joined.append(Path(root).name)
        return real(self, root, *others)

    monkeypatch.setattr(Whole, "_joined", remember)
    assert scanned(write(**{"two/b": ARMED}), cache=Cache(cache)) == {
        **found,
        "two/a.py": [("DRP998", 2)],
    }
    assert joined == ["two"]
