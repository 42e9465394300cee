"""The vocabulary both halves share: what was found, where, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, order=True)
class Location:
    """A range in a file as editors count it: lines and columns from one, the end exclusive."""

    path: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True, order=True)
class Edit:
    """Replace the bytes `start:stop` of the file by `text`."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True)
class Finding:
    """One occurrence of a defect. Plain data: comparable, picklable, printable.

    >>> where = Location("net.py", 3, 9, 3, 20)
    >>> print(Finding("DRP401", Severity.ERROR, where, "the result is thrown away"))
    net.py:3:9: DRP401 the result is thrown away
    """

    code: str
    severity: Severity
    where: Location
    message: str
    edits: tuple[Edit, ...] = ()
    safe: bool = False

    def __str__(self) -> str:
        mark = "[*] " if self.edits else ""
        return f"{self.where}: {self.code} {mark}{self.message}"

    @property
    def sort_key(self) -> tuple[str, int, int, str, str]:
        return (self.where.path, self.where.line, self.where.column, self.code, self.message)
