"""Paths, lines and fingerprints as services know them: from the root of the repository."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from dropaudit.findings import Finding, Location
from dropaudit.reporting import Outcome


def repository(outcome: Outcome) -> Path:
    """The directory that holds `.git` at or above the root of the outcome, else that root."""
    for directory in (outcome.root, *outcome.root.parents):
        if (directory / ".git").exists():
            return directory
    return outcome.root


def relative(path: str, outcome: Outcome, start: Path) -> str | None:
    """`path` from `start` on, with forward slashes; None where it lies outside."""
    full = os.path.normpath(outcome.root / path)
    try:
        return Path(full).relative_to(os.path.normpath(start)).as_posix()
    except ValueError:
        return None


def line_text(where: Location, outcome: Outcome) -> str:
    """The line that `where` starts on; empty where it cannot be read."""
    lines = outcome.lines(where)
    return lines[where.line - 1] if 0 < where.line <= len(lines) else ""


def ordinals(outcome: Outcome) -> list[tuple[str, int]]:
    """For each finding its line without blanks, and which of those alike it is, from one.

    Alike are findings of one code on lines with one text in one file: line numbers, which every
    edit above moves, do not count.
    """
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for finding in outcome.findings:
        text = "".join(line_text(finding.where, outcome).split())
        key = (finding.where.path, finding.code, text)
        seen[key] += 1
        found.append((text, seen[key]))
    return found


def digest(*parts: str) -> str:
    """Sixteen hexadecimal digits that stand for `parts`."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(joined).hexdigest()[:16]


def region(finding: Finding) -> Location:
    """The range within the file: of a notebook, whose cells services do not know, its start."""
    where = finding.where
    return where if where.cell is None else Location(where.path, 1, 1, 1, 1)


def message(finding: Finding) -> str:
    """The message; in a notebook, after the cell and line that `region` cannot give."""
    where = finding.where
    if where.cell is None:
        return finding.message
    return f"cell {where.cell}, line {where.line}: {finding.message}"
