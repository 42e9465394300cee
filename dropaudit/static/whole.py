"""All files of a scan as programs: what the checks across files find in them, once and again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from dropaudit.findings import Finding
from dropaudit.static.cache import Cache
from dropaudit.static.checker import read_apart
from dropaudit.static.files import Found
from dropaudit.static.gathering import Gathering
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.surroundings import Surroundings, outermost


class Whole:
    """The programs that the files of a scan are, with what lies around them.

    A program is what lies below one outermost root of a project, or below none: nothing is imported
    across these, and only one is held at a time.

    Fixes change one file after another, in the order of the files. Each is judged beside what the
    ones before it have become: `again` and `change`. So that this stays fast, files in which the
    checks across files found nothing are not joined again: what the fixes of other findings bring
    to light there is found by the next scan.
    """

    def __init__(
        self,
        files: Sequence[Found],
        records: Sequence[FileRecord],
        gathering: Gathering,
        options: Options,
        around: Callable[[], Surroundings],
    ) -> None:
        self._records = records
        self._gathering = gathering
        self._options = options
        self._held: tuple[str, dict[str, FileFacts]] | None = None
        self._changed: dict[str, FileFacts | None] = {}
        self._found: dict[str, tuple[Finding, ...]] = {}
        self.joins = any(record.joins for record in records)
        self.around = around() if self.joins else Surroundings()
        self._roots: dict[str, str] = {}
        self._of_root: defaultdict[str, list[Found]] = defaultdict(list)
        roots: dict[str, str] = {}
        for file in (*files, *self.around.files) if self.joins else ():
            folder = os.path.dirname(os.path.abspath(file.path))
            if folder not in roots:
                roots[folder] = outermost(folder)
            self._roots[file.display] = roots[folder]
            self._of_root[roots[folder]].append(file)

    def join(self, cache: Cache | None) -> None:
        """Let the checks across files look, unless the cache knows what they would find."""
        self._gathering.look_at(self.around.files)
        of_root: defaultdict[str, list[FileRecord]] = defaultdict(list)
        for record in self._records if self.joins else ():
            of_root[self._roots[record.path]].append(record)
        for root, records in sorted(of_root.items()):
            if any(record.joins for record in records):
                self._found.update(self._joined_once(root, records, cache))
        self._held = None

    def _joined_once(
        self, root: str, records: Sequence[FileRecord], cache: Cache | None
    ) -> dict[str, tuple[Finding, ...]]:
        contents = self._contents(root, records)
        found = cache.joined(contents, self._options) if cache is not None else None
        if found is None:
            found = self._joined(root, records)
            failed = any(finding.code == "DRP000" for of in found.values() for finding in of)
            if cache is not None and not failed:
                cache.put_joined(contents, self._options, found)
        return found

    @property
    def records(self) -> list[FileRecord]:
        """The records of the files, with all findings."""
        return [
            self._complete(record, self._found.get(record.path, ())) for record in self._records
        ]

    def again(self, record: FileRecord, data: bytes) -> FileRecord:
        """The record of a file that was checked again, among the others as they are now."""
        found = self._found.get(record.path, ())
        if found and (self._changed or not self._gathering.knows(record.path, data)):
            root = self._roots[record.path]
            joined = self._joined(root, [record], {record.path: record.facts})
            found = joined.get(record.path, ())
        return self._complete(record, found)

    def change(self, path: str, data: bytes) -> None:
        """Let a file be another from now on."""
        self._changed[path] = read_apart(path, data)

    def now(self, paths: Iterable[str]) -> list[FileRecord]:
        """The records of files that did not change, among the others as they are now."""
        wanted = set(paths)
        records = [one for one in self._records if one.path in wanted]
        seen = [one for one in records if self._changed and self._found.get(one.path)]
        found = {**self._found, **dict.fromkeys((one.path for one in seen), ())}
        for root in sorted({self._roots[one.path] for one in seen}):
            found.update(self._joined(root, [o for o in seen if self._roots[o.path] == root]))
        return [self._complete(one, found.get(one.path, ())) for one in records]

    def _complete(self, record: FileRecord, found: Iterable[Finding]) -> FileRecord:
        return replace(record.completed(found), partial=self.around.cut)

    def _joined(
        self,
        root: str,
        records: Sequence[FileRecord],
        others: dict[str, FileFacts | None] | None = None,
    ) -> dict[str, tuple[Finding, ...]]:
        from dropaudit.static.joining import joined

        changed = {path: of for path, of in self._changed.items() if self._roots[path] == root}
        merged = {**self._facts(root), **changed, **(others or {})}
        facts = {path: one for path, one in merged.items() if one is not None}
        return joined(records, facts, self._options)

    def _facts(self, root: str) -> dict[str, FileFacts]:
        if self._held is None or self._held[0] != root:
            self._held = None  # before the next is built
            self._held = root, self._gathering.facts(self._of_root[root])
        return self._held[1]

    def _contents(self, root: str, records: Sequence[FileRecord]) -> list[tuple[str, str]]:
        """What the findings depend on: the files, and after an empty name those around them."""
        known = self._gathering.contents
        asked = {record.path for record in records}
        others = {file.display for file in self._of_root[root]} - asked
        return [(path, known.get(path, "")) for path in (*sorted(asked), "", *sorted(others))]
