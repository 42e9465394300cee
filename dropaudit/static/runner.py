"""All files of a scan: cached, in this process or in a pool, always in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dropaudit.static.cache import Cache
from dropaudit.static.checker import check, unchecked
from dropaudit.static.files import Found
from dropaudit.static.record import FileRecord, Options


def scan(
    files: Sequence[Found],
    options: Options,
    *,
    jobs: int,
    cache: Cache | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[FileRecord]:
    """The record of each of `files`, in their order."""
    records = []
    for done, file in enumerate(files):
        if progress is not None:
            progress(done, len(files))
        if file.problem:
            records.append(unchecked(file.display, file.problem))
            continue
        try:
            data = file.path.read_bytes()
        except OSError as error:
            records.append(unchecked(file.display, f"cannot be read: {error.strerror}"))
            continue
        record = cache.get(file.display, data, options) if cache else None
        if record is None:
            record = check(file.display, data, options)
            if cache:
                cache.put(file.display, data, options, record)
        records.append(record)
    if cache:
        cache.save()
    return records
