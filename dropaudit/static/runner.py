"""All files of a scan: from the cache, in this process or in a pool, in the order of the files."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace

from dropaudit.static.cache import Cache
from dropaudit.static.calm import is_calm
from dropaudit.static.checker import Unreadable, check, read, unchecked
from dropaudit.static.factwire import packed_facts, unpacked_facts
from dropaudit.static.files import Found
from dropaudit.static.gathering import Gathering
from dropaudit.static.pool import Checked
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.surroundings import Surroundings
from dropaudit.static.whole import Whole

# starting processes costs as much as parsing this many bytes in this one
_SMALL = 100_000


def scan(
    files: Sequence[Found],
    options: Options,
    *,
    jobs: int,
    cache: Cache | None,
    progress: Callable[[int, int], None] | None = None,
    around: Callable[[], Surroundings] = Surroundings,
) -> Whole:
    """The records of `files`, in their order: the same for any number of jobs.

    Nothing in a file ends the scan: one that kills a worker, or takes too long, is a finding.
    Raises `RuntimeError` where dropaudit itself is broken. `progress` is told (done, total).
    `around` is asked for more files of the program if a check across files may find something.
    """
    records: dict[int, FileRecord] = {}
    sizes: dict[int, int] = {}
    held: dict[int, bytes] = {}  # while there is little to check
    total = 0
    gathering = Gathering(cache, max(jobs, 1))
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
        content = gathering.look(file.display, data)
        record = cache.get(file.display, content, options) if cache else None
        if record is None:
            sizes[at] = len(data)
            total += len(data)
            if total <= _SMALL:
                held[at] = data
        else:
            records[at] = record
    tell(len(records), len(files))
    if total <= _SMALL and all(map(is_calm, held.values())):
        here = _in_this_process(files, held, options)
    else:
        here = _in_processes(files, sizes, options, max(jobs, 1))
    with closing(here):
        for one in here:
            records[one.at] = one.record
            if one.data is None:
                gathering.forget(one.record.path)
            else:
                content = gathering.keep(one.record.path, one.data, one.facts)
                if cache:
                    cache.put(one.record.path, content, options, one.record)
            tell(len(records), len(files))
    whole = Whole(files, [records[at] for at in range(len(files))], gathering, options, around)
    whole.join(cache)
    if cache:
        cache.save()
    return whole


def scan_bytes(
    file: Found,
    data: bytes,
    options: Options,
    *,
    jobs: int,
    cache: Cache | None,
    around: Callable[[], Surroundings] = Surroundings,
) -> Whole:
    """As `scan`, for one file whose bytes come from elsewhere; the cache is for those around it."""
    record = check_apart(file.display, data, options)
    gathering = Gathering(cache, max(jobs, 1))
    gathering.keep(file.display, data, packed_facts(record.facts), store=False)
    whole = Whole([file], [replace(record, facts=None)], gathering, options, around)
    whole.join(None)
    if cache:
        cache.save()
    return whole


def check_apart(path: str, data: bytes, options: Options) -> FileRecord:
    """As `check`, for bytes of unknown origin: where they could harm this process, in another."""
    if is_calm(data):
        return check(path, data, options)
    from dropaudit.static.pool import Died, Worker

    worker = Worker()
    try:
        record, facts = worker.check(path, data, options)
        return replace(record, facts=unpacked_facts(facts))
    except Died as error:
        return unchecked(path, f"could not be checked: {error}")
    finally:
        worker.stop()


def _in_this_process(
    files: Sequence[Found], held: dict[int, bytes], options: Options
) -> Generator[Checked, None, None]:
    for at, data in held.items():
        record = check(files[at].display, data, options)
        yield Checked(at, data, replace(record, facts=None), packed_facts(record.facts))


def _in_processes(
    files: Sequence[Found], sizes: dict[int, int], options: Options, jobs: int
) -> Generator[Checked, None, None]:
    from dropaudit.static.pool import checked

    order = sorted(sizes, key=lambda at: (-sizes[at], at))
    yield from checked(files, order, options, jobs)
