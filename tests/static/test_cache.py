"""What the cache gives back, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.static import cache as module
from dropaudit.static.cache import Cache, content_of
from dropaudit.static.record import Claim, FileRecord, Options, Suppression

OPTIONS = Options()
CONTENT = content_of(b"x")
FIX = Fix("mend", (Edit(1, 2, "é"), Edit(3, 3, "")), safe=True)
RECORD = FileRecord(
    "a.py",
    (
        Finding(
            "DRP201", "some-rule", Severity.WARNING, Location("a.py", 1, 2, 3, 4), "m", "h", FIX
        ),
        Finding("DRP000", "unchecked", Severity.ERROR, Location("a.py", 1, 1, 1, 2, cell=3), "m"),
    ),
    (
        Suppression(Location("a.py", 1, 2, 1, 9), "ignore", ("DRP201",), (1, 2), Edit(1, 9, "")),
        Suppression(Location("a.py", 1, 2, 1, 9), "file-ignore", (), None, Edit(1, 9, "")),
    ),
    (
        Claim(
            Finding("DRP210", "another-rule", Severity.ERROR, Location("a.py", 1, 1, 1, 2), "m"),
            ("a", "b"),
        ),
    ),
    cells=((1, 1), (4, 2)),
    joins=True,
)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def stored(project: Path) -> Path:
    """A cache directory that holds RECORD for a.py."""
    cache = Cache(project / "cache")
    cache.put("a.py", CONTENT, OPTIONS, RECORD)
    cache.save()
    assert cache.warning == ""
    return project / "cache"


def test_a_record_comes_back_as_it_was(stored: Path) -> None:
    """Equal in every field, from another process's point of view."""
    assert Cache(stored).get("a.py", CONTENT, OPTIONS) == RECORD


@pytest.mark.parametrize(
    ("path", "content", "options"),
    [
        ("a.py", content_of(b"y"), OPTIONS),
        ("b.py", CONTENT, OPTIONS),
        ("a.py", CONTENT, Options(("*Prenet",))),
    ],
)
def test_another_file_content_or_setting_is_a_miss(
    stored: Path, path: str, content: str, options: Options
) -> None:
    """Each of them is part of the key."""
    assert Cache(stored).get(path, content, options) is None


def test_the_path_shown_is_part_of_the_key(stored: Path, project: Path) -> None:
    """Findings hold it, so the same file under another display is checked again."""
    assert Cache(stored).get(str(project / "a.py"), CONTENT, OPTIONS) is None


def test_another_version_of_anything_is_a_miss(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited rule, another libcst or another Python."""
    monkeypatch.setattr(module, "fingerprint", lambda: "other")
    assert Cache(stored).get("a.py", CONTENT, OPTIONS) is None


def test_the_fingerprint_knows_every_rule_and_engine_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one of them differently changes it."""
    before = module.fingerprint.__wrapped__()
    real = Path.read_bytes

    def edited(self: Path) -> bytes:
        return real(self) + (b"#" if self.name == "scanner.py" else b"")

    monkeypatch.setattr(Path, "read_bytes", edited)
    assert module.fingerprint.__wrapped__() != before


def damaged(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(change(json.loads(data))).encode()


def entry(key_and_record: Callable[[str, Any], Any]) -> Callable[[bytes], bytes]:
    return damaged(lambda v: {**v, "entries": {"a.py": key_and_record(*v["entries"]["a.py"])}})


def finding(severity: str, line: object) -> list[Any]:
    return ["DRP201", "some-rule", severity, [line, 1, 1, 2, None], "m", "h", None]


SUPPRESSION = [[1, 1, 1, 2, None], "no-such-form", [], None, [0, 0, ""]]
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "binary": lambda data: b"\x80\x04\xff\0",
    "another value": lambda data: b"[1, 2]",
    "deep": lambda data: b"[" * 100_000,
    "no maker": damaged(lambda v: {"entries": v["entries"]}),
    "entries of another type": damaged(lambda v: {**v, "entries": ["a.py"]}),
    "an entry of another type": entry(lambda key, record: 5),
    "a record of another type": entry(lambda key, record: [key, "record"]),
    "a record that is too short": entry(lambda key, record: [key, [record[0]]]),
    "a finding of another type": entry(lambda key, record: [key, [[7], *record[1:]]]),
    "no such severity": entry(lambda key, record: [key, [[finding("x", 1)], *record[1:]]]),
    "a line that is a text": entry(lambda key, rest: [key, [[finding("error", "1")], *rest[1:]]]),
    "no such suppression": entry(lambda key, record: [key, [[], [SUPPRESSION], *record[2:]]]),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_a_miss_and_is_rewritten(
    stored: Path, damage: Callable[[bytes], bytes]
) -> None:
    """Nothing in a cache is trusted."""
    (shard,) = stored.glob("*.json")
    shard.write_bytes(damage(shard.read_bytes()))
    cache = Cache(stored)
    assert cache.get("a.py", CONTENT, OPTIONS) is None
    cache.put("a.py", CONTENT, OPTIONS, RECORD)
    cache.save()
    assert Cache(stored).get("a.py", CONTENT, OPTIONS) == RECORD


def test_the_directory_says_what_it_is(stored: Path) -> None:
    """Backups skip it by its tag, git by its ignore file; no part file stays."""
    tag = (stored / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert (stored / ".gitignore").read_text() == "*\n"
    assert not list(stored.glob("*.part"))


def test_a_directory_that_cannot_be_written_is_one_warning(project: Path) -> None:
    """The scan goes on."""
    (project / "file").write_text("")
    cache = Cache(project / "file" / "cache")
    cache.put("a.py", CONTENT, OPTIONS, RECORD)
    assert cache.get("a.py", CONTENT, OPTIONS) == RECORD
    cache.save()
    assert "cannot be written" in cache.warning


def test_what_is_gone_is_forgotten(stored: Path, project: Path) -> None:
    """Entries of deleted files at once, whole directories after a month without use."""
    old = stored / "0123.json"
    old.write_text("{}")
    os.utime(old, (0, time.time() - 31 * 24 * 3600))
    (project / "b.py").write_bytes(b"x")
    cache = Cache(stored)
    cache.put("b.py", CONTENT, OPTIONS, FileRecord("b.py"))
    (project / "a.py").unlink()
    cache.save()
    (shard,) = stored.glob("*.json")
    assert list(json.loads(shard.read_bytes())["entries"]) == ["b.py"]


def test_several_processes_may_write_at_once(project: Path) -> None:
    """Whoever comes last, the cache stays whole."""
    program = (
        "from pathlib import Path; from dropaudit.static.cache import Cache;"
        "from dropaudit.static.record import FileRecord, Options\n"
        "for n in range(50):\n"
        "    cache = Cache(Path('cache'))\n"
        "    cache.put('a.py', 'x', Options(), FileRecord('a.py'))\n"
        "    cache.save()\n"
        "    assert cache.warning == '', cache.warning\n"
        "    assert Cache(Path('cache')).get('a.py', 'x', Options()) == FileRecord('a.py')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
