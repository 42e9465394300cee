"""Small programs in which models are switched, trained and evaluated: 209, 210 and 211.

The programs are in `mode_programs`: those of `silent.txt` are right, in those of `reported.txt` the
marked lines are not. A line `==== name` begins a program (its `example.py`), a line `---- path`
another file of it. All of them may import from `parts.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dropaudit.static.program.project import Project
from dropaudit.static.program.reading import read_facts
from tests.programs import findings, marked

DATA = Path(__file__).parent / "mode_programs"
PARTS = (DATA / "parts.py").read_text("utf-8")


@dataclass(frozen=True)
class Program:
    """One program: its text, and those of its other files by their paths."""

    name: str
    code: str
    others: dict[str, str]


def programs(file: str) -> Iterator[Program]:
    """The programs of a file, in their order."""
    _, *found = re.split(r"^==== (.+)\n", (DATA / file).read_text("utf-8"), flags=re.MULTILINE)
    for name, text in zip(found[::2], found[1::2], strict=True):
        code, *rest = re.split(r"^---- (.+)\n", text, flags=re.MULTILINE)
        others = {"parts.py": PARTS, **dict(zip(rest[::2], rest[1::2], strict=True))}
        yield Program(name, code, others)


SILENT = [pytest.param(one.code, one.others, id=one.name) for one in programs("silent.txt")]
REPORTED = [pytest.param(one.code, one.others, id=one.name) for one in programs("reported.txt")]


@pytest.mark.parametrize(("code", "others"), SILENT)
def test_a_program_that_is_right_is_left_alone(code: str, others: dict[str, str]) -> None:
    """Whatever rule might speak."""
    assert not marked(code)
    assert [(f.where.line, f.code, f.message) for f in findings(code, others)] == []


@pytest.mark.parametrize(("code", "others"), REPORTED)
def test_a_wrong_program_is_reported_at_the_marks(code: str, others: dict[str, str]) -> None:
    """There, and nowhere else."""
    assert marked(code)
    assert [(f.where.line, f.code) for f in findings(code, others)] == marked(code)


def test_what_is_seen_does_not_depend_on_the_order_of_the_files() -> None:
    """All programs as one project, its files in several orders, each followed twice."""
    every = [one for file in ("silent.txt", "reported.txt") for one in programs(file)]
    files = {
        f"p{number}/{path}": read_facts(text.encode())
        for number, one in enumerate(every)
        for path, text in {**one.others, "example.py": one.code}.items()
    }
    seen = [Project(files).sightings]
    for seed in (1, 2):
        paths = list(files)
        random.Random(seed).shuffle(paths)
        seen.append(Project({path: files[path] for path in paths}).sightings)
    assert seen[0].visits
    assert seen[0].trainings
    for other in seen[1:]:
        assert list(other.visits) == list(seen[0].visits)
        assert list(other.trainings) == list(seen[0].trainings)
