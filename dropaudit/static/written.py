"""Files written whole or not at all, and never over a change that somebody else made."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


class Changed(OSError):
    """A file is no longer what it was when it was read."""


def write(path: Path, data: bytes, expected: bytes | None = None) -> None:
    """Replace the content of `path`; a link is followed, the mode bits are kept.

    Raises `Changed` if the file does not hold the bytes `expected`, `OSError` if it cannot be
    written.
    """
    target = Path(os.path.realpath(path))
    if expected is not None and target.read_bytes() != expected:
        raise Changed("it was changed by another program and was left as it is")
    mode: int | None = None
    try:
        status = target.stat()
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISREG(status.st_mode):  # /dev/stdout, a pipe: nothing to replace
            target.write_bytes(data)
            return
        if not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied", str(path))
        mode = stat.S_IMODE(status.st_mode)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(data)
        os.chmod(name, _default_mode() if mode is None else mode)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _default_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
