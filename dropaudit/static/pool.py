"""Worker processes, one thread each to talk to them. A worker that dies is replaced."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dropaudit.static.checker import Unreadable, is_notebook, read, unchecked, unparsed
from dropaudit.static.factwire import packed_facts
from dropaudit.static.files import Found
from dropaudit.static.prefilter import compiled
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.program.reading import may_hold_facts
from dropaudit.static.record import FileRecord, Options
from dropaudit.static.wire import packed_options, unpacked

_HERE = str(Path(__file__).parents[2])  # where this package was imported from
_SECONDS = 60.0
_SECONDS_PER_BYTE = 20.0 / 1_000_000
# isolated: nothing in the current directory, which may be what is scanned, can be imported
_START = "import sys; sys.path[:] = sys.argv[1:]; from dropaudit.static.worker import main; main()"


NO_FACTS = packed_facts(None)
EMPTY_FACTS = packed_facts(FileFacts())


@dataclass(frozen=True)
class Checked:
    """A file by its number, its record, its packed facts; `data` is None if it died of it."""

    at: int
    data: bytes | None
    record: FileRecord
    facts: bytes = NO_FACTS


def checked(
    files: Sequence[Found], order: Sequence[int], options: Options | None, jobs: int
) -> Generator[Checked, None, None]:
    """Check the files at `order` in `jobs` processes; what is ready first comes first.

    Without `options` only their facts are read, and the records are empty.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[Checked | BaseException] = queue.SimpleQueue()
    for at in order:
        todo.put(at)
    stations = [_Station(files, options, todo, done) for _ in range(min(jobs, len(order)))]
    try:
        for station in stations:
            station.start()
        for _ in order:
            result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        for station in stations:
            station.stop()


class _Station(threading.Thread):
    """Takes files from `todo` to a worker of its own, and a new one where that dies."""

    def __init__(
        self,
        files: Sequence[Found],
        options: Options | None,
        todo: queue.SimpleQueue[int],
        done: queue.SimpleQueue[Checked | BaseException],
    ) -> None:
        super().__init__(daemon=True)
        self._files = files
        self._options = options
        self._todo = todo
        self._done = done
        self._stopped = threading.Event()
        self._worker = Worker()

    def run(self) -> None:
        try:
            passes = compiled(self._worker.triggers())
            while not self._stopped.is_set():
                at = self._todo.get_nowait()
                file = self._files[at]
                try:
                    data = read(file.path)
                except Unreadable as error:
                    self._done.put(Checked(at, None, unchecked(file.display, str(error))))
                    continue
                if is_notebook(file.display) or may_hold_facts(data) or passes(data):
                    self._done.put(self._checked(at, file, data))
                else:
                    record = replace(unparsed(file.display, data), facts=None)
                    self._done.put(Checked(at, data, record, EMPTY_FACTS))
        except queue.Empty:
            return
        except BaseException as error:  # handed to the thread that waits for results
            self._done.put(error)

    def stop(self) -> None:
        self._stopped.set()
        self._worker.stop()
        self.join()
        self._worker.stop()  # one that was started meanwhile

    def _checked(self, at: int, file: Found, data: bytes) -> Checked:
        try:
            record, facts = self._worker.check(file.display, data, self._options)
            return Checked(at, data, record, facts)
        except Died as error:
            if not self._stopped.is_set():
                self._worker.stop()
                self._worker = Worker()
            return Checked(at, None, unchecked(file.display, f"could not be checked: {error}"))


class Died(Exception):
    """A worker ended before it answered; the message says how."""


class Worker:
    """One process. Started at once; `triggers` waits until it is ready."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *filter(None, sys.path), _HERE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._hello: list[list[str]] | None = None

    def triggers(self) -> list[list[str]]:
        """The patterns of the prefilter. Raises `RuntimeError` if the process cannot start."""
        if self._hello is None:
            try:
                hello = json.loads(self._line(self._seconds))
            except Died as error:
                raise RuntimeError("a worker process of dropaudit cannot be started") from error
            if "error" in hello:
                raise RuntimeError(f"a worker process of dropaudit failed: {hello['error']}")
            self._hello = [[str(one) for one in every] for every in hello["triggers"]]
        return self._hello

    def check(self, path: str, data: bytes, options: Options | None) -> tuple[FileRecord, bytes]:
        """The record of a file, empty without `options`, and its facts; raises `Died`."""
        self.triggers()
        assert self._process.stdin is not None
        head = json.dumps([path, options and packed_options(options), len(data)]).encode()
        with suppress(OSError):  # it died: reading says so
            self._process.stdin.write(head + b"\n" + data)
            self._process.stdin.flush()
        seconds = self._seconds + _SECONDS_PER_BYTE * len(data)
        value = json.loads(self._line(seconds))
        facts = self._bytes(int(self._line(seconds)), seconds)
        return FileRecord(path) if value is None else unpacked(path, value), facts

    def stop(self) -> None:
        """End the process now."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self._process.wait()

    def _line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        return self._read(self._process.stdout.readline, lambda data: data.endswith(b"\n"), seconds)

    def _bytes(self, size: int, seconds: float) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        return self._read(lambda: stream.read(size), lambda data: len(data) == size, seconds)

    def _read(
        self, read: Callable[[], bytes], complete: Callable[[bytes], bool], seconds: float
    ) -> bytes:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            data = read()
        finally:
            timer.cancel()
        if complete(data):
            return data
        self._process.wait()
        if late.is_set():
            raise Died(f"it took longer than {seconds:.0f} seconds")
        raise Died("the parser crashed on it, or it takes too much memory")
