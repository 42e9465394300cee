"""All files of a scan: from the cache, in this process or in a pool, in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from dropaudit.static.cache import Cache
from dropaudit.static.calm import is_calm
from dropaudit.static.checker import Unreadable, check, read, unchecked
from dropaudit.static.files import Found
from dropaudit.static.record import FileRecord, Options

_Checked = tuple[int, bytes | None, FileRecord]  # bytes: None where nothing must be kept

# starting processes costs as much as parsing this many bytes in this one
_SMALL = 100_000


def scan(
    files: Sequence[Found],
    options: Options,
    *,
    jobs: int,
    cache: Cache | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[FileRecord]:
    """The record of each of `files`, in their order: the same for any number of jobs.

    Nothing in a file ends the scan: one that kills a worker, or takes too long, is a finding.
    Raises `RuntimeError` where dropaudit itself is broken. `progress` is told (done, total).
    """
    records: dict[int, FileRecord] = {}
    sizes: dict[int, int] = {}
    held: dict[int, bytes] = {}  # while there is little to check
    tell = progress or (lambda done, total: None)
    tell(0, len(files))
    for at, file in enumerate(files):
        try:
            if file.problem:
                raise Unreadable(file.problem)
            data = read(file.path)
        except Unreadable as error:
            records[at] = unchecked(file.display, str(error))
            continue
        record = cache.get(file.display, data, options) if cache else None
        if record is None:
            sizes[at] = len(data)
            if sum(sizes.values()) <= _SMALL:
                held[at] = data
        else:
            records[at] = record
    tell(len(records), len(files))
    if sum(sizes.values()) <= _SMALL and all(map(is_calm, held.values())):
        here: Generator[_Checked, None, None] = (
            (at, data, check(files[at].display, data, options)) for at, data in held.items()
        )
    else:
        here = _in_processes(files, sizes, options, max(jobs, 1))
    with closing(here):
        for at, content, record in here:
            records[at] = record
            if cache and content is not None:
                cache.put(record.path, content, options, record)
            tell(len(records), len(files))
    if cache:
        cache.save()
    return [records[at] for at in range(len(files))]


def check_apart(path: str, data: bytes, options: Options) -> FileRecord:
    """As `check`, for bytes of unknown origin: where they could harm this process, in another."""
    if is_calm(data):
        return check(path, data, options)
    from dropaudit.static.pool import Died, Worker

    worker = Worker()
    try:
        return worker.check(path, data, options)
    except Died as error:
        return unchecked(path, f"could not be checked: {error}")
    finally:
        worker.stop()


def _in_processes(
    files: Sequence[Found], sizes: dict[int, int], options: Options, jobs: int
) -> Generator[_Checked, None, None]:
    from dropaudit.static.pool import checked

    order = sorted(sizes, key=lambda at: (-sizes[at], at))
    yield from checked(files, order, options, jobs)
