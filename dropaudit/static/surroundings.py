"""The rest of the program around the files that were asked for, nearest first, within bounds.

A pre-commit hook names three files. What they import, and who calls them, lies in the same
project: the nearest folder above them that holds a `pyproject.toml`, `setup.py`, `setup.cfg` or
`.git`. These files are read for facts and never reported on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dropaudit.static.files import FileSelection, Found, Nearby

MAX_FILES = 2_000
MAX_BYTES = 20_000_000  # with the number of files, about ten seconds when nothing is cached
MAX_FOLDERS = 5_000
MAX_BYTES_OF_ONE = 1_000_000  # a table
_MARKS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")


@dataclass(frozen=True)
class Surroundings:
    """Files to read for facts; `cut` says that the bounds left some out."""

    files: tuple[Found, ...] = ()
    cut: bool = False


def surroundings(
    paths: Sequence[str], files: Sequence[Found], selection: FileSelection
) -> Surroundings:
    """What lies around `files`, which were found under `paths`."""
    asked = [os.path.abspath(file.path) for file in files]
    tops = tuple(os.path.abspath(path) + os.sep for path in paths if os.path.isdir(path))
    known = {os.path.realpath(path) for path in asked}
    folders = sorted({os.path.dirname(path) for path in asked})
    chains = [list(_up(folder)) for folder in folders]
    chains = [one for one in chains if not (one[-1] + os.sep).startswith(tops)]
    nearby = Nearby(selection)
    found: list[Found] = []
    size = 0
    for step in range(max(map(len, chains), default=0)):
        for top in dict.fromkeys(one[step] for one in chains if step < len(one)):
            for real, file in nearby.below(top):
                if nearby.folders > MAX_FOLDERS:
                    return Surroundings(tuple(found), cut=True)
                if real in known or not file.path.name.endswith((".py", ".pyi")):
                    continue
                known.add(real)
                bytes_ = _size(file)
                if bytes_ > MAX_BYTES_OF_ONE:
                    continue
                size += bytes_
                if len(found) == MAX_FILES or size > MAX_BYTES:
                    return Surroundings(tuple(found), cut=True)
                found.append(file)
    return Surroundings(tuple(found))


def outermost(folder: str) -> str:
    """The highest folder that is the root of a project in which `folder` lies; empty for none."""
    highest = ""
    while True:
        if any(os.path.exists(os.path.join(folder, mark)) for mark in _MARKS):
            highest = folder
        above = os.path.dirname(folder)
        if above == folder:
            return highest
        folder = above


def _up(folder: str) -> Iterator[str]:
    """The folder and those above it up to the root of its project; only it, where there is none."""
    chain = [folder]
    while not any(os.path.exists(os.path.join(chain[-1], mark)) for mark in _MARKS):
        above = os.path.dirname(chain[-1])
        if above == chain[-1]:
            return iter([folder])
        chain.append(above)
    return iter(chain)


def _size(file: Found) -> int:
    try:
        return file.path.stat().st_size
    except OSError:
        return 0
