"""Reading the marks of an example and applying its fixes."""

from __future__ import annotations

import re

from dropaudit.findings import Edit
from dropaudit.static.scanner import scan_python

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


def fixed(program: str) -> str:
    """The program after all fixes, safe and unsafe, to a fixpoint."""
    for _ in range(20):
        edits = _first_edits(program)
        if not edits:
            return program
        data = program.encode()
        for edit in sorted(edits, reverse=True):
            data = data[: edit.start] + edit.text.encode() + data[edit.stop :]
        program = data.decode()
    raise AssertionError("fixes do not converge")


def _first_edits(program: str) -> tuple[Edit, ...]:
    found = (f.fix for f in scan_python("example.py", program.encode()))
    return next((fix.edits for fix in found if fix is not None), ())
