"""What one file contributes to a scan: plain, picklable, cacheable. Imports no libcst."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from dropaudit.findings import Edit, Finding, Location

if TYPE_CHECKING:
    from dropaudit.static.program.facts import FileFacts


@dataclass(frozen=True)
class Options:
    """The settings that change what a file is found to hold; part of every cache key.

    `always_on` are patterns (`*Prenet`) of classes and functions that drop on purpose in eval,
    `framework_bases` dotted names or patterns of base classes whose framework switches modes.
    """

    always_on: tuple[str, ...] = ()
    framework_bases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suppression:
    """A comment that silences findings.

    `lines` is the range of lines (within `where.cell`) on which a finding must start or end, or
    None for the whole file; `codes` are codes or prefixes, empty for every code. `edit` removes
    the comment, which is `text`, with the blanks before it.
    """

    where: Location
    form: Literal["noqa", "ignore", "file-ignore"]
    codes: tuple[str, ...]
    lines: tuple[int, int] | None
    edit: Edit
    text: str = ""


@dataclass(frozen=True)
class Claim:
    """What a check of one file would report if the program agrees.

    `about` are plain strings that the project check of the same rule understands.
    """

    finding: Finding
    about: tuple[str, ...]


@dataclass(frozen=True)
class FileRecord:
    """What one file holds: findings of every rule before selection and suppression, and comments.

    `claims` and `facts` are what it gives to the checks across files: their lines count through
    all code cells of a notebook, and `cells` says where each starts: (first line, cell). `facts`
    are None where the file could not be read for them, and where they are kept elsewhere. `joins`
    says that a check across files may report in it, `partial` that these saw only some files.
    """

    path: str
    findings: tuple[Finding, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    claims: tuple[Claim, ...] = ()
    facts: FileFacts | None = None
    cells: tuple[tuple[int, int], ...] = ()
    joins: bool = False
    partial: bool = False

    def located(self, finding: Finding) -> Finding:
        """A finding of the whole notebook with the lines of its cell; any other as it is."""
        where = finding.where
        if not self.cells or where.cell is not None:
            return finding
        at = max(bisect_right(self.cells, (where.line, sys.maxsize)) - 1, 0)
        first, cell = self.cells[at]
        line = max(where.line - first + 1, 1)
        end_line = line + where.end_line - where.line
        return replace(finding, where=replace(where, line=line, end_line=end_line, cell=cell))

    def completed(self, found: Iterable[Finding]) -> FileRecord:
        """This record with more findings, each once, in their order."""
        every = {*self.findings, *found}
        return replace(self, findings=tuple(sorted(every, key=lambda finding: finding.sort_key)))
