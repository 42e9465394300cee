"""Texts from all ranks to rank 0: through a store of torch.distributed, or through files.

Nothing here is a collective: a rank that is gone is waited for until a deadline, and no other rank
waits for anybody. The store is that of torchrun's agent, which outlives the program's process
groups, else that of the process group while there is one. Files do for ranks of one machine.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from dropaudit.runtime.ranks import is_initialized

_CHUNK = 1 << 19
_CONNECT = timedelta(seconds=10)
_NUMBERS = count()
"""All ranks start their audits in the same order: the n-th of one belongs to the n-th of all."""


class Mail:
    """The way from the ranks of one audit to rank 0."""

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        self._begun = time.time()
        self.stopped = False

    def announce(self, rank: int) -> None:
        """Say that this rank is audited, so that it is known whom to wait for."""
        store = self._store()
        if store is not None:
            with suppress(Exception):  # it is said again, with the text
                store.set(f"here/{rank}", "1")

    def send(self, rank: int, text: str) -> None:
        """Hand in the text of a rank. Raises `OSError` if there is no way at all."""
        data = zlib.compress(text.encode())
        store = self._store()
        sent = store is not None and _put(store, rank, data)
        if not sent or not _has_agent():
            # Rank 0 may have left the process group already, and its store with it.
            try:
                self._write(rank, data)
            except OSError:
                if not sent:
                    raise

    def receive(
        self, ranks: set[int], patience: float, grace: float | None = None
    ) -> dict[int, str]:
        """The texts of `ranks`, of those that come.

        Args:
            ranks: whom to wait for.
            patience: seconds to wait at most.
            grace: seconds after which a rank that never announced itself is given up; None: it is
                waited for like the others.
        """
        texts: dict[int, str] = {}
        store, begun, pause = self._store(), time.monotonic(), 0.01
        while ranks - texts.keys() and not self.stopped:
            for rank in sorted(ranks - texts.keys()):
                text = self._read(rank)
                if text is None and store is not None:
                    try:
                        text = _fetch(store, rank)
                    except Exception:  # the process that held it is gone
                        store = None
                if text is not None:
                    texts[rank] = text
            waited = time.monotonic() - begun
            left = ranks - texts.keys()
            if waited > patience or not left:
                break
            if grace is not None and waited > grace and not self.announced(left):
                break
            time.sleep(pause)
            pause = min(2 * pause, 0.2)
        self._clean(ranks)
        return texts

    def announced(self, ranks: set[int]) -> set[int]:
        """Those of `ranks` that said that they are audited."""
        store = self._store()
        if store is not None:
            with suppress(Exception):  # the process that held it is gone
                return {rank for rank in ranks if store.check([f"here/{rank}"])}
        return set()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """While it lasts, SIGTERM ends the waiting and not the process.

        torchrun sends it to all ranks as soon as one has died: that is when a report is needed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(*_: Any) -> None:
            self.stopped = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)

    def _store(self) -> Any:
        """A store that all ranks reach, or None."""
        import torch.distributed.distributed_c10d  # what is under it is not exported

        dist: Any = torch.distributed
        prefix = f"dropaudit/{self._number}"
        try:
            if _has_agent():
                host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                agent = dist.TCPStore(host, port, None, False, _CONNECT)
                attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
                return dist.PrefixStore(f"{prefix}/{attempt}", agent)
            if is_initialized():
                return dist.PrefixStore(prefix, dist.distributed_c10d._get_default_store())
        except Exception:  # there is no other way to ask whether it can be reached
            return None
        return None

    # Files

    def _folder(self) -> Path:
        names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
        words = [os.environ.get(name, "") for name in names]
        user = os.getuid() if hasattr(os, "getuid") else "user"
        run = re.sub(r"[^\w.-]", "_", "-".join(words))
        name = f"dropaudit-{user}-{os.getppid()}-{run}-{self._number}"
        return Path(tempfile.gettempdir(), name)

    def _write(self, rank: int, data: bytes) -> None:
        folder = self._folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_own(folder):
            raise PermissionError(f"{folder} belongs to somebody else")
        partial = folder / f"rank-{rank}.{os.getpid()}"
        partial.write_bytes(data)
        partial.replace(folder / f"rank-{rank}")

    def _read(self, rank: int) -> str | None:
        file = self._folder() / f"rank-{rank}"
        try:
            # A file of an earlier run of the same name is older than this audit.
            if not _is_own(file.parent) or file.stat().st_mtime < self._begun - 1:
                return None
            data = file.read_bytes()
            file.unlink()
            return zlib.decompress(data).decode()
        except (OSError, ValueError, zlib.error):
            return None

    def _clean(self, ranks: set[int]) -> None:
        for rank in ranks:
            with suppress(OSError):
                (self._folder() / f"rank-{rank}").unlink()
        with suppress(OSError):
            self._folder().rmdir()


def _has_agent() -> bool:
    """Whether torchrun keeps a store for its ranks."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)


def _put(store: Any, rank: int, data: bytes) -> bool:
    """Whether the store took the text of a rank."""
    parts = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
    try:
        for n, part in enumerate(parts):
            store.set(f"text/{rank}/{n}", part.hex())
        store.set(f"text/{rank}", str(len(parts)))
    except Exception:  # the process that held it is gone
        return False
    return True


def _fetch(store: Any, rank: int) -> str | None:
    if not store.check([f"text/{rank}"]):
        return None
    parts = int(store.get(f"text/{rank}"))
    data = b"".join(bytes.fromhex(store.get(f"text/{rank}/{n}").decode()) for n in range(parts))
    return zlib.decompress(data).decode()


def _is_own(folder: Path) -> bool:
    about = folder.lstat()
    return stat.S_ISDIR(about.st_mode) and (
        not hasattr(os, "getuid") or about.st_uid == os.getuid()
    )
