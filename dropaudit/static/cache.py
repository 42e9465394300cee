"""Records of files that did not change since the last scan, looked up without libcst.

One JSON file for each directory that was scanned, so that a warm scan opens a few dozen files and
a pre-commit hook one. An entry counts only if the bytes of the file, the settings, the path shown,
this version of dropaudit (every rule and engine file), of libcst and of Python are the same.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dropaudit.static.record import FileRecord, Options
from dropaudit.static.wire import packed, packed_options, unpacked

_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by dropaudit.\n"
    "# For information about cache directory tags, see https://bford.info/cachedir/\n"
)
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

    @staticmethod
    def default_directory(root: Path | None = None) -> Path:
        """`.dropaudit_cache` in the project root."""
        return (root or Path.cwd()) / ".dropaudit_cache"

    def get(self, path: str, data: bytes, options: Options) -> FileRecord | None:
        """The record of a file with these bytes, if it was stored under the same settings."""
        shard, name = self._shard(path)
        entry = shard.entries.get(name)
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] != _key(path, data, options):
            return None
        try:
            return unpacked(path, entry[1])
        except ValueError:
            return None

    def put(self, path: str, data: bytes, options: Options, record: FileRecord) -> None:
        """Remember a record; `save` writes it."""
        shard, name = self._shard(path)
        shard.entries[name] = [_key(path, data, options), packed(record)]
        shard.changed = True

    def save(self) -> None:
        """Write what is new, forget what is gone. Never raises for a directory it cannot write."""
        changed = [shard for shard in self._shards.values() if shard.changed]
        if not changed:
            return
        try:
            self._prepare()
            for shard in changed:
                shard.forget_deleted()
                _replace(shard.file, json.dumps(shard.value(), separators=(",", ":")))
                shard.changed = False
            self._forget_unused()
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.warning = f"the cache in {self.directory} cannot be written: {why}"

    def _shard(self, path: str) -> tuple[_Shard, str]:
        directory, name = os.path.split(os.path.abspath(path))
        shard = self._shards.get(directory)
        if shard is None:
            digest = sha256(os.fsencode(directory)).hexdigest()[:24]
            shard = self._shards[directory] = _Shard(directory, self.directory / f"{digest}.json")
            shard.load()
        return shard, name

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("CACHEDIR.TAG", _TAG), (".gitignore", "*\n")):
            if not (self.directory / name).exists():
                _replace(self.directory / name, text)

    def _forget_unused(self) -> None:
        oldest = time.time() - _UNUSED_DAYS * _DAY
        for file in self.directory.glob("*"):
            try:
                if file.suffix in (".json", ".part") and file.stat().st_mtime < oldest:
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

    def value(self) -> dict[str, Any]:
        return {"maker": fingerprint(), "directory": self.directory, "entries": self.entries}

    def forget_deleted(self) -> None:
        gone = [n for n in self.entries if not os.path.exists(os.path.join(self.directory, n))]
        for name in gone:
            del self.entries[name]


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


def _key(path: str, data: bytes, options: Options) -> str:
    settings = json.dumps([path, packed_options(options)]).encode()
    return sha256(b"%d\0%b\0%b" % (len(settings), settings, data)).hexdigest()


def _replace(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as part:
            part.write(text)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
