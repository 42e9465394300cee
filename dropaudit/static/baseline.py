"""Findings that a project had when it adopted dropaudit: known by their line's text, not number.

A finding is known if the baseline holds its path, code and line, blanks aside, and the how-many-th
it is with these. Lines that move keep their findings known; one more on an equal line is new.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dropaudit.findings import Finding, Location
from dropaudit.static.written import write

VERSION = 1

Lines = Callable[[Location], Sequence[str]]
Key = tuple[str, str, str, int]  # path, code, text of the line, ordinal


class BaselineError(ValueError):
    """Why a baseline cannot be used, in one sentence."""


@dataclass(frozen=True)
class Baseline:
    """What is known. `directory` is what its paths start at: that of the file."""

    directory: Path
    known: frozenset[Key] = field(default=frozenset())

    def new(self, findings: Iterable[Finding], lines: Lines) -> list[Finding]:
        """The findings that are not known."""
        found = list(findings)
        pairs = zip(keys(found, lines, self.directory), found, strict=True)
        return [finding for key, finding in pairs if key not in self.known]

    def stale(self, findings: Iterable[Finding], lines: Lines) -> list[Key]:
        """What is known and no longer found."""
        return sorted(self.known - set(keys(findings, lines, self.directory)))


def load(file: Path) -> Baseline:
    """The baseline in `file`. Raises `BaselineError`."""
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise BaselineError(
            f"baseline {file} cannot be read: {error.strerror or error}; "
            "`--write-baseline` makes one"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BaselineError(_broken(file, f"it is not JSON ({error})")) from error
    if not isinstance(value, dict) or not isinstance(value.get("findings"), list):
        raise BaselineError(_broken(file, "it holds no findings"))
    if value.get("version") != VERSION:
        version = value.get("version")
        raise BaselineError(_broken(file, f"its version is {version!r}, not {VERSION}"))
    entries = value["findings"]
    try:
        known = frozenset(_entry(entry) for entry in entries)
    except (TypeError, KeyError, ValueError):
        raise BaselineError(_broken(file, "an entry of it is not a finding")) from None
    return Baseline(_directory(file), known)


def save(file: Path, findings: Iterable[Finding], lines: Lines) -> int:
    """Write a baseline in which all of `findings` are known; their number."""
    entries = sorted(keys(findings, lines, _directory(file)))
    fields = ("path", "code", "line", "ordinal")
    value = {
        "version": VERSION,
        "findings": [dict(zip(fields, entry, strict=True)) for entry in entries],
    }
    write(file, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    return len(entries)


def keys(findings: Iterable[Finding], lines: Lines, directory: Path) -> list[Key]:
    """The key of each finding, in their order; paths start at `directory`."""
    seen: dict[tuple[str, str, str], int] = {}
    found: list[Key] = []
    for finding in findings:
        where = finding.where
        text = lines(where)
        line = text[where.line - 1] if where.line <= len(text) else ""
        path = os.path.relpath(os.path.realpath(where.path), directory).replace(os.sep, "/")
        key = (path, finding.code, " ".join(line.split()))
        seen[key] = seen.get(key, -1) + 1
        found.append((*key, seen[key]))
    return found


def _directory(file: Path) -> Path:
    return Path(os.path.realpath(file)).parent


def _entry(entry: Any) -> Key:
    path, code, line, ordinal = entry["path"], entry["code"], entry["line"], entry["ordinal"]
    if not all(isinstance(text, str) for text in (path, code, line)) or type(ordinal) is not int:
        raise ValueError("not a key")
    return path, code, line, ordinal


def _broken(file: Path, why: str) -> str:
    return f"baseline {file} cannot be used: {why}; `--write-baseline` makes a new one"
