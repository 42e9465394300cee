"""What is known of files that did not change since the last scan, looked up without libcst.

One JSON file of records for each directory that was scanned, so that a warm scan opens a few dozen
files and a pre-commit hook one; one file of facts beside it, which is read only where files must be
joined again; and one with what the checks across files found for each set of files that was given.
An entry counts only if the bytes of the file, the settings, the path shown, this version of
dropaudit (every rule and engine file), of libcst and of Python are the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dropaudit.findings import Finding
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.wire import (
    packed,
    packed_findings,
    packed_options,
    unpacked,
    unpacked_findings,
)

_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by dropaudit.\n"
    "# For information about cache directory tags, see https://bford.info/cachedir/\n"
)
_FACTS = ".facts"
_UNUSED_DAYS = 30
_DAY = 24 * 60 * 60


class Cache:
    """Records by path and content. Nothing in it is trusted: what cannot be read is a miss.

    Several processes may use one directory: files are replaced whole, and the last one wins.
    `warning` says, after `save`, that a directory could not be written.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warning = ""
        self._shards: dict[str, _Shard] = {}
        self._facts: dict[str, _FactShard] = {}
        self._joined: dict[Path, str] = {}

    @staticmethod
    def default_directory(root: Path | None = None) -> Path:
        """`.dropaudit_cache` in the project root."""
        return (root or Path.cwd()) / ".dropaudit_cache"

    def get(self, path: str, content: str, options: Options) -> FileRecord | None:
        """The record of a file with this `content_of`, if it was stored under the same settings.

        It holds no facts.
        """
        shard, name = self._shard(path)
        entry = shard.entries.get(name)
        key = _key(path, content, options)
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] != key:
            return None
        try:
            return unpacked(path, entry[1])
        except ValueError:
            return None

    def put(self, path: str, content: str, options: Options, record: FileRecord) -> None:
        """Remember a record; `save` writes it."""
        shard, name = self._shard(path)
        shard.entries[name] = [_key(path, content, options), packed(record)]
        shard.changed = True

    def facts(self, path: str, content: str) -> bytes | None:
        """The facts of a file with this content, as they were stored: compressed."""
        directory, name = os.path.split(os.path.abspath(path))
        entry = self._fact_shard(directory).entries.get(name)
        return entry[1] if entry is not None and entry[0] == content else None

    def put_facts(self, path: str, content: str, facts: bytes) -> None:
        """Remember compressed facts; `save` writes them."""
        directory, name = os.path.split(os.path.abspath(path))
        shard = self._fact_shard(directory)
        shard.entries[name] = content, facts
        shard.changed = True

    def joined(
        self, contents: Sequence[tuple[str, str]], options: Options
    ) -> dict[str, tuple[Finding, ...]] | None:
        """What checks across files found in these files: (path, content) of each."""
        try:
            value = json.loads(self._joined_file(contents).read_bytes())
            if value["maker"] != fingerprint() or value["key"] != _joined_key(contents, options):
                return None
            return {path: unpacked_findings(path, of) for path, of in value["findings"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def put_joined(
        self,
        contents: Sequence[tuple[str, str]],
        options: Options,
        found: Mapping[str, Sequence[Finding]],
    ) -> None:
        """Remember what checks across files found; `save` writes it."""
        value = {
            "maker": fingerprint(),
            "key": _joined_key(contents, options),
            "findings": {path: packed_findings(of) for path, of in found.items()},
        }
        self._joined[self._joined_file(contents)] = json.dumps(value, separators=(",", ":"))

    def save(self) -> None:
        """Write what is new, forget what is gone. Never raises for a directory it cannot write."""
        every: list[_Shard | _FactShard] = [*self._shards.values(), *self._facts.values()]
        changed = [shard for shard in every if shard.changed]
        if not changed and not self._joined:
            return
        try:
            self._prepare()
            for shard in changed:
                shard.forget_deleted()
                _replace(shard.file, shard.written())
                shard.changed = False
            while self._joined:
                file, text = self._joined.popitem()
                _replace(file, text.encode())
            self._forget_unused()
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.warning = f"the cache in {self.directory} cannot be written: {why}"

    def _shard(self, path: str) -> tuple[_Shard, str]:
        directory, name = os.path.split(os.path.abspath(path))
        shard = self._shards.get(directory)
        if shard is None:
            shard = self._shards[directory] = _Shard(directory, self._file(directory, ".json"))
            shard.load()
        return shard, name

    def _fact_shard(self, directory: str) -> _FactShard:
        shard = self._facts.get(directory)
        if shard is None:
            shard = _FactShard(directory, self._file(directory, _FACTS))
            self._facts[directory] = shard
            shard.load()
        return shard

    def _file(self, directory: str, suffix: str) -> Path:
        return self.directory / f"{sha256(os.fsencode(directory)).hexdigest()[:24]}{suffix}"

    def _joined_file(self, contents: Iterable[tuple[str, str]]) -> Path:
        paths = json.dumps([os.getcwd(), *(path for path, _ in contents)])
        return self.directory / f"joined-{sha256(paths.encode()).hexdigest()[:24]}.json"

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("CACHEDIR.TAG", _TAG), (".gitignore", "*\n")):
            if not (self.directory / name).exists():
                _replace(self.directory / name, text.encode())

    def _forget_unused(self) -> None:
        oldest = time.time() - _UNUSED_DAYS * _DAY
        for file in self.directory.glob("*"):
            try:
                if file.suffix in (".json", _FACTS, ".part") and file.stat().st_mtime < oldest:
                    file.unlink()
            except OSError:  # another process was faster
                continue


@dataclass
class _Shard:
    """The entries of one directory: file name to [key, packed record]."""

    directory: str
    file: Path
    entries: dict[str, Any] = field(default_factory=dict)
    changed: bool = False

    def load(self) -> None:
        try:
            value = json.loads(self.file.read_bytes())
            if value["maker"] == fingerprint() and isinstance(value["entries"], dict):
                self.entries = value["entries"]
            if time.time() - self.file.stat().st_mtime > _DAY:
                os.utime(self.file)  # in use: see _forget_unused
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return

    def written(self) -> bytes:
        value = {"maker": fingerprint(), "directory": self.directory, "entries": self.entries}
        return json.dumps(value, separators=(",", ":")).encode()

    def forget_deleted(self) -> None:
        _forget_deleted(self.directory, self.entries)


@dataclass
class _FactShard:
    """The facts in one directory: file name to content and compressed facts.

    The file is a line of JSON that says how long each is, then all of them.
    """

    directory: str
    file: Path
    entries: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    changed: bool = False

    def load(self) -> None:
        try:
            head, _, data = self.file.read_bytes().partition(b"\n")
            value = json.loads(head)
            if value["maker"] != fingerprint():
                return
            entries: dict[str, tuple[str, bytes]] = {}
            at = 0
            for name, content, size, sum in value["entries"]:
                facts = data[at : at + size]
                if zlib.crc32(facts) != sum:
                    return
                entries[name] = content, facts
                at += size
            self.entries = entries
            if time.time() - self.file.stat().st_mtime > _DAY:
                os.utime(self.file)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return

    def written(self) -> bytes:
        entries = [
            [name, content, len(facts), zlib.crc32(facts)]
            for name, (content, facts) in self.entries.items()
        ]
        head = {"maker": fingerprint(), "directory": self.directory, "entries": entries}
        line = json.dumps(head, separators=(",", ":")).encode()
        return b"".join([line, b"\n", *(facts for _, facts in self.entries.values())])

    def forget_deleted(self) -> None:
        _forget_deleted(self.directory, self.entries)


def _forget_deleted(directory: str, entries: dict[str, Any]) -> None:
    gone = [name for name in entries if not os.path.exists(os.path.join(directory, name))]
    for name in gone:
        del entries[name]


@cache
def fingerprint() -> str:
    """What makes records: this package, libcst and Python, as one digest."""
    package = Path(__file__).parent.parent
    digest = sha256(f"{sys.implementation.name} {sys.version_info[:2]}".encode())
    sources = [package / "__init__.py", package / "catalogue.py", package / "findings.py"]
    for part in ("rules", "static"):
        sources.extend(sorted((package / part).rglob("*.py")))
    for source in sources:
        data = source.read_bytes()
        digest.update(f"\0{source.relative_to(package).as_posix()} {len(data)}\0".encode())
        digest.update(data)
    digest.update(_libcst_version())
    return digest.hexdigest()


def _libcst_version() -> bytes:
    """The bytes of libcst's version file: reading package metadata takes longer than a scan."""
    spec = find_spec("libcst")
    if spec is not None and spec.origin is not None:
        try:
            return Path(spec.origin).with_name("_version.py").read_bytes()
        except OSError:
            pass
    from importlib.metadata import version

    return version("libcst").encode()


def content_of(data: bytes) -> str:
    """What stands for the bytes of a file."""
    return sha256(data).hexdigest()


def _key(path: str, content: str, options: Options) -> str:
    return sha256(json.dumps([path, packed_options(options), content]).encode()).hexdigest()


def _joined_key(contents: Sequence[tuple[str, str]], options: Options) -> str:
    return sha256(json.dumps([packed_options(options), list(contents)]).encode()).hexdigest()


def _replace(file: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(data)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
