"""Where in the user's own code something happens: the nearest frame that is not library code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

import dropaudit
from dropaudit.findings import Location

_INTERNAL = tuple(
    f"{Path(file).resolve().parent}{os.sep}"
    for file in (str(torch.__file__), str(dropaudit.__file__))
)
_NOT_INTERNAL: dict[CodeType, bool] = {}


def user_frame() -> FrameType | None:
    """The innermost frame outside torch and dropaudit, None when there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code):
            return frame
        frame = frame.f_back
    return None


def user_line() -> tuple[str, int]:
    """File and line of `user_frame()`; ("", 0) when there is none."""
    frame = user_frame()
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def location(file: str, line: int, module: str | None = None) -> Location:
    """A location with the file as a user would type it: relative to the working directory."""
    shown = file or "<unknown>"
    if file and not file.startswith("<"):
        try:
            relative = os.path.relpath(file)
        except ValueError:  # another drive
            relative = file
        shown = file if relative.startswith("..") else relative
    line = max(line, 1)
    return Location(shown, line, 1, line, 1, module=module)


def calling_codes(limit: int = 64) -> list[CodeType]:
    """The code of the users' frames on the stack, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    found: list[CodeType] = []
    while frame is not None and len(found) < limit:
        if is_users(frame.f_code):
            found.append(frame.f_code)
        frame = frame.f_back
    return found


def runs_under(function_names: frozenset[str], file_part: str) -> bool:
    """Whether a frame on the stack runs one of these functions in a file whose path holds
    `file_part`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name in function_names and file_part in code.co_filename:
            return True
        frame = frame.f_back
    return False


def is_users(code: CodeType) -> bool:
    """Whether code is the user's: neither torch's nor dropaudit's own."""
    known = _NOT_INTERNAL.get(code)
    if known is None:
        file = code.co_filename
        known = not file.startswith(_INTERNAL) and not file.startswith("<frozen ")
        _NOT_INTERNAL[code] = known
    return known
