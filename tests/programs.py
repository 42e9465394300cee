"""Reading the marks of an example and applying its fixes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dropaudit.findings import Edit, Finding
from dropaudit.static.joining import scan_program

_MARK = re.compile(r"[ ]*# ((?:DRP\d{3} ?)+)$", re.MULTILINE)


def marked(program: str) -> list[tuple[int, str]]:
    """(line, code) for every `# DRP201` at the end of a line; several codes may follow one #."""
    return sorted(
        (program.count("\n", 0, match.start()) + 1, code)
        for match in _MARK.finditer(program)
        for code in match[1].split()
    )


def unmarked(program: str) -> str:
    """The program without its marks."""
    return _MARK.sub("", program)


def findings(program: str, others: Mapping[str, str] | None = None) -> list[Finding]:
    """What every rule finds in a program; `others` are more files of it."""
    files = {name: text.encode() for name, text in (others or {}).items()}
    return scan_program("example.py", program.encode(), files)


def fixed(program: str, others: Mapping[str, str] | None = None) -> str:
    """The program after all fixes, safe and unsafe, to a fixpoint."""
    for _ in range(20):
        edits = _first_edits(program, others)
        if not edits:
            return program
        data = program.encode()
        for edit in sorted(edits, reverse=True):
            data = data[: edit.start] + edit.text.encode() + data[edit.stop :]
        program = data.decode()
    raise AssertionError("fixes do not converge")


def _first_edits(program: str, others: Mapping[str, str] | None) -> tuple[Edit, ...]:
    found = (f.fix for f in findings(program, others))
    return next((fix.edits for fix in found if fix is not None), ())
