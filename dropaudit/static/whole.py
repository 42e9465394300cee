"""All files of a scan as one program: what the checks across files find in it, once and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from dropaudit.findings import Finding
from dropaudit.static.cache import Cache
from dropaudit.static.checker import read_apart
from dropaudit.static.files import Found
from dropaudit.static.gathering import Gathering
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.surroundings import Surroundings


class Whole:
    """The program that the files of a scan are, with what lies around them.

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
        self._files = files
        self._records = records
        self._gathering = gathering
        self._options = options
        self._facts: dict[str, FileFacts] | None = None
        self._changed: dict[str, FileFacts | None] = {}
        self._found: dict[str, tuple[Finding, ...]] = {}
        self.joins = any(record.joins for record in records)
        self.around = around() if self.joins else Surroundings()

    def join(self, cache: Cache | None) -> None:
        """Let the checks across files look, unless the cache knows what they would find."""
        if not self.joins:
            return
        self._gathering.look_at(self.around.files)
        contents = self._contents()
        found = cache.joined(contents, self._options) if cache is not None else None
        if found is None:
            found = self._joined(self._records)
            self._facts = None  # they may be many
            failed = any(finding.code == "DRP000" for of in found.values() for finding in of)
            if cache is not None and not failed:
                cache.put_joined(contents, self._options, found)
        self._found = found

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
            found = self._joined([record], {record.path: record.facts}).get(record.path, ())
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
        found.update(self._joined(seen) if seen else {})
        return [self._complete(one, found.get(one.path, ())) for one in records]

    def _complete(self, record: FileRecord, found: Iterable[Finding]) -> FileRecord:
        return replace(record.completed(found), partial=self.around.cut)

    def _joined(
        self, records: Sequence[FileRecord], others: dict[str, FileFacts | None] | None = None
    ) -> dict[str, tuple[Finding, ...]]:
        from dropaudit.static.joining import joined

        if self._facts is None:
            self._facts = self._gathering.facts([*self._files, *self.around.files])
        merged = {**self._facts, **self._changed, **(others or {})}
        facts = {path: one for path, one in merged.items() if one is not None}
        return joined(records, facts, self._options)

    def _contents(self) -> list[tuple[str, str]]:
        """What the findings depend on: the files, and after an empty name those around them."""
        known = self._gathering.contents
        asked = sorted(file.display for file in self._files)
        others = sorted(file.display for file in self.around.files)
        return [(path, known.get(path, "")) for path in (*asked, "", *others)]
