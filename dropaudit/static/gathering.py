"""The facts of many files: from a check that was just made, from the cache, or from the files."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dropaudit.static.cache import Cache, content_of
from dropaudit.static.calm import is_calm
from dropaudit.static.checker import Unreadable, read, read_apart
from dropaudit.static.factwire import packed_facts, unpacked_facts
from dropaudit.static.files import Found
from dropaudit.static.program.facts import FileFacts

# starting processes costs as much as reading this many bytes in this one
SMALL = 100_000
_RECURSION = 10_000  # what could be read can be unpacked


class Gathering:
    """Facts by the path that is shown, packed until they are asked for.

    `contents` stands for the bytes of every file that could be read.
    """

    def __init__(self, cache: Cache | None, jobs: int) -> None:
        self.contents: dict[str, str] = {}
        self._cache = cache
        self._jobs = jobs
        self._packed: dict[str, bytes] = {}

    def look(self, path: str, data: bytes) -> str:
        """Know of a file; its facts are looked for when they are needed."""
        content = self.contents[path] = content_of(data)
        return content

    def look_at(self, files: Iterable[Found]) -> None:
        """Know of files that can be read."""
        for file in files:
            with suppress(Unreadable):
                self.look(file.display, read(file.path))

    def keep(self, path: str, data: bytes, packed: bytes, store: bool = True) -> str:
        """Know of a file and its facts, and `store` these in the cache."""
        content = self.look(path, data)
        self._packed[path] = packed
        if self._cache is not None and store:
            self._cache.put_facts(path, content, packed)
        return content

    def forget(self, path: str) -> None:
        """Know no more of a file: something in it kills who reads it."""
        self.contents.pop(path, None)

    def knows(self, path: str, data: bytes) -> bool:
        """Whether these are the bytes of the file."""
        return self.contents.get(path) == content_of(data)

    def facts(self, files: Iterable[Found]) -> dict[str, FileFacts]:
        """The facts of those of `files` that have some, by path."""
        files = tuple(files)
        self._find([file for file in files if file.display in self.contents])
        found: dict[str, FileFacts] = {}
        enabled, limit = gc.isenabled(), sys.getrecursionlimit()
        gc.disable()  # many objects and no garbage
        sys.setrecursionlimit(max(limit, _RECURSION))
        try:
            for file in files:
                packed = self._packed.get(file.display)
                facts = None if packed is None else _unpacked(packed)
                if facts is not None:
                    found[file.display] = facts
        finally:
            sys.setrecursionlimit(limit)
            if enabled:
                gc.enable()
        return found

    def _find(self, files: Sequence[Found]) -> None:
        missing: list[Found] = []
        for file in files:
            path = file.display
            if path in self._packed:
                continue
            stored = self._cache.facts(path, self.contents[path]) if self._cache else None
            if stored is not None:
                self._packed[path] = stored
            else:
                missing.append(file)
        self._read(missing)

    def _read(self, files: Sequence[Found]) -> None:
        here: list[tuple[Found, bytes]] = []
        size = 0
        for file in files:
            try:
                data = read(file.path)
            except Unreadable:  # gone meanwhile
                continue
            size += len(data)
            if size > SMALL or not is_calm(data):
                return self._read_in_processes(files)
            here.append((file, data))
        for file, data in here:
            self.keep(file.display, data, packed_facts(read_apart(file.display, data)))
        return None

    def _read_in_processes(self, files: Sequence[Found]) -> None:
        from dropaudit.static.pool import checked

        for one in checked(files, range(len(files)), None, self._jobs):
            path = files[one.at].display
            if one.data is None:
                self._packed[path] = one.facts
            else:
                self.keep(path, one.data, one.facts)


def _unpacked(packed: bytes) -> FileFacts | None:
    try:
        return unpacked_facts(packed)
    except ValueError:  # a damaged cache
        return None
