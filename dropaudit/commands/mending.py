"""The fixes of one file, written unless somebody else changed it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dropaudit.commands.failure import warn
from dropaudit.commands.settings import Settings
from dropaudit.findings import Finding
from dropaudit.static.files import Found
from dropaudit.static.record import FileRecord
from dropaudit.static.runner import check_apart
from dropaudit.static.whole import Whole


@dataclass(frozen=True)
class Mended:
    """A file before and after its fixes, what they mended, and what is left."""

    path: str
    before: bytes
    after: bytes
    applied: tuple[Finding, ...]
    remaining: tuple[Finding, ...]


def mend(
    file: Found,
    stdin: bytes | None,
    settings: Settings,
    whole: Whole,
    wanted: Callable[[FileRecord, bytes], list[Finding]],
) -> Mended:
    """Fix a file, or standard input, as a part of its program.

    It is written unless only a diff is asked for; the files that follow see it mended either way.
    """
    from dropaudit.static.fixer import fix
    from dropaudit.static.written import write

    data = file.path.read_bytes() if stdin is None else stdin
    sources: dict[int, tuple[FileRecord, bytes]] = {}

    def record_of(content: bytes) -> FileRecord:
        record = whole.again(check_apart(file.display, content, settings.options), content)
        sources[id(record)] = record, content  # the record is kept, so its id stays its own
        return record

    def of_record(record: FileRecord) -> list[Finding]:
        return wanted(record, sources[id(record)][1])

    fixed = fix(file.display, data, record_of, of_record, settings.unsafe_fixes)
    if stdin is None and fixed.data != data and not settings.diff:
        try:
            write(file.path, fixed.data, expected=data)
        except OSError as error:
            why = f"{error.strerror or error}"
            warn(f"{file.display} was not fixed: {why}")
            left = tuple(of_record(record_of(data)))
            return Mended(file.display, data, data, (), left)
    if fixed.data != data:
        whole.change(file.display, fixed.data)
    return Mended(file.display, data, fixed.data, fixed.applied, fixed.remaining)
