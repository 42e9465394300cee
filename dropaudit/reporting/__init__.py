"""Findings in, text out. Imports neither libcst nor torch, prints nothing, reads no file.

Every file in `dropaudit/reporting/format/` is a format: its name, with `-` for `_`, is what
`--output-format` takes, and its `render(outcome)` gives the whole text.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType

from dropaudit.findings import Finding, Location


def _no_lines(where: Location) -> Sequence[str]:
    return ()


def _no_place(path: str, offset: int) -> Location | None:
    return None


@dataclass(frozen=True)
class Outcome:
    """What a scan came to, and how it is to be shown.

    `findings` are those that remain, sorted; `fixed` those that were mended. `lines` gives the
    lines, without their ends, of the file or notebook cell that a location is in, and `place` the
    location of a byte offset in the Python source of a path (edits count such bytes):
    `dropaudit.static.texts.Texts` has both. `root` is the directory that relative paths start at.
    """

    findings: tuple[Finding, ...]
    files_checked: int
    fixed: tuple[Finding, ...] = ()
    lines: Callable[[Location], Sequence[str]] = _no_lines
    place: Callable[[str, int], Location | None] = _no_place
    unsafe_fixes: bool = False
    show_fixes: bool = False
    color: bool = False
    root: Path = field(default_factory=Path.cwd)

    def fixable(self, finding: Finding) -> bool:
        """Whether `--fix`, with `--unsafe-fixes` if that was given, would mend `finding`."""
        return finding.fix is not None and (finding.fix.safe or self.unsafe_fixes)


def names() -> tuple[str, ...]:
    """The names of the formats, without importing any.

    >>> "json-lines" in names()
    True
    """
    package = import_module(f"{__name__}.format")
    return tuple(
        sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(package.__path__))
    )


def formats() -> dict[str, ModuleType]:
    """Every format by its name."""
    return {name: _format(name) for name in names()}


def render(name: str, outcome: Outcome) -> str:
    """The outcome in the format called `name`; ends in a newline unless it is empty.

    >>> print(render("concise", Outcome((), files_checked=1)), end="")
    All checks passed!
    """
    text: str = _format(name).render(outcome)
    return text


def _format(name: str) -> ModuleType:
    return import_module(f"{__name__}.format.{name.replace('-', '_')}")
