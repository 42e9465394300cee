"""Where findings are printed, and whether in color."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dropaudit.commands.failure import Failure
from dropaudit.commands.settings import Settings

# what text formats leave out under --quiet is their footer
WITH_FOOTER = ("full", "concise", "grouped")


def write_out(settings: Settings, text: str, err: bool = False) -> None:
    """Print `text`, as UTF-8 whatever the terminal is, or write it to the output file."""
    data = text.encode("utf-8", "backslashreplace")
    file = settings.output_file
    if file is None:
        stream = sys.stderr.buffer if err else sys.stdout.buffer
        stream.write(data)
        stream.flush()
        return
    from dropaudit.static.written import write

    try:
        write(Path(file), data)
    except OSError as error:
        raise Failure(f"{file} cannot be written: {error.strerror or error}") from error


def is_colored(settings: Settings) -> bool:
    """Whether to color what is printed: on a terminal, unless flags or variables say otherwise."""
    if settings.color != "auto":
        return settings.color == "always"
    if settings.output_file is not None or os.environ.get("NO_COLOR"):
        return False
    forced = os.environ.get("FORCE_COLOR", "0") not in ("", "0")
    return forced or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")
