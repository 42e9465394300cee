"""Small programs in which models are switched, trained and evaluated: 209, 210 and 211.

The programs are in `mode_programs`: those of `silent.txt` are right, in those of `reported.txt` the
marked lines are not. A line `==== name` begins a program (its `example.py`), a line `---- path`
another file of it. All of them may import from `parts.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import findings, marked

DATA = Path(__file__).parent / "mode_programs"
PARTS = (DATA / "parts.py").read_text("utf-8")


def programs(file: str) -> Iterator[object]:
    """Each program of a file: its text, and those of its other files."""
    _, *found = re.split(r"^==== (.+)\n", (DATA / file).read_text("utf-8"), flags=re.MULTILINE)
    for name, text in zip(found[::2], found[1::2], strict=True):
        code, *rest = re.split(r"^---- (.+)\n", text, flags=re.MULTILINE)
        others = {"parts.py": PARTS, **dict(zip(rest[::2], rest[1::2], strict=True))}
        yield pytest.param(code, others, id=name)


@pytest.mark.parametrize(("code", "others"), list(programs("silent.txt")))
def test_a_program_that_is_right_is_left_alone(code: str, others: dict[str, str]) -> None:
    """Whatever rule might speak."""
    assert not marked(code)
    assert [(f.where.line, f.code, f.message) for f in findings(code, others)] == []


@pytest.mark.parametrize(("code", "others"), list(programs("reported.txt")))
def test_a_wrong_program_is_reported_at_the_marks(code: str, others: dict[str, str]) -> None:
    """There, and nowhere else."""
    assert marked(code)
    assert [(f.where.line, f.code) for f in findings(code, others)] == marked(code)
