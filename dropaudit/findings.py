"""The vocabulary both halves share: what was found, where, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How sure a reader can be that a finding must be acted on."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True)
class Location:
    """A range in a file as editors count it: lines and columns from one, the end exclusive.

    `cell` is the number of a notebook's code cell, from one; lines then count within the cell.
    `module` is the path, in a live model, of the module that is meant: an audit knows it.

    >>> print(Location("net.py", 3, 9, 3, 20))
    net.py:3:9
    >>> print(Location("nb.ipynb", 2, 8, 2, 9, cell=2))
    nb.ipynb:cell 2:2:8
    >>> print(Location("net.py", 3, 9, 3, 20, module="encoder.dropout"))
    encoder.dropout at net.py:3
    """

    path: str
    line: int
    column: int
    end_line: int
    end_column: int
    cell: int | None = None
    module: str | None = None

    def __str__(self) -> str:
        if self.module is not None:
            return f"{self.module} at {self.path}:{self.line}"
        cell = "" if self.cell is None else f"cell {self.cell}:"
        return f"{self.path}:{cell}{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Edit:
    """Replace the bytes `start:stop` of the Python source by `text`, encoded as the file is."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class Fix:
    """Edits that mend one finding together. Safe: behavior and comments are kept."""

    title: str
    edits: tuple[Edit, ...]
    safe: bool


@dataclass(frozen=True)
class Finding:
    """One occurrence of a defect. Plain data: comparable, picklable, printable.

    >>> where = Location("net.py", 3, 9, 3, 20)
    >>> print(Finding("DRP401", "discarded-result", Severity.ERROR, where, "result thrown away"))
    net.py:3:9: DRP401 result thrown away
    """

    code: str
    name: str
    severity: Severity
    where: Location
    message: str
    help: str = ""
    fix: Fix | None = None
    figures: tuple[tuple[str, float], ...] = ()
    """What was measured, by name: nothing in a scan, the statistic and its bound in an audit."""

    def __str__(self) -> str:
        return f"{self.where}: {self.code} {self.message}"

    @property
    def sort_key(self) -> tuple[str, int, int, int, str, str]:
        where = self.where
        return (where.path, where.cell or 0, where.line, where.column, self.code, self.message)
