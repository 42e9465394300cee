"""The projects in fixtures/: marked lines are reported, by the command that a user types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.programs import marked

ROOT = Path(__file__).parent.parent
FILES = sorted(
    file.relative_to(ROOT).as_posix()
    for file in (ROOT / "fixtures").rglob("*")
    if file.suffix in (".py", ".ipynb")
)
LINE = re.compile(
    r"^(?P<path>[^:]+):(?:cell (?P<cell>\d+):)?(?P<line>\d+):\d+: (?P<code>DRP\d{3}) "
)

Place = tuple[str, int, int, str]


@pytest.fixture(scope="session")
def reported() -> Counter[Place]:
    """(path, cell or 0, line, code) of every finding in fixtures/."""
    command = [sys.executable, "-m", "dropaudit", "scan", "--isolated", "--no-cache"]
    command += ["--output-format", "concise", "fixtures"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    found = (LINE.match(line) for line in run.stdout.splitlines())
    return Counter(
        (match["path"], int(match["cell"] or 0), int(match["line"]), match["code"])
        for match in found
        if match
    )


@pytest.mark.parametrize("path", FILES)
def test_marked_lines_are_reported_and_no_others(path: str, reported: Counter[Place]) -> None:
    """Each file has exactly the findings that its own marks announce."""
    found = Counter({place: n for place, n in reported.items() if place[0] == path})
    assert found == Counter(_expected(path))


@pytest.mark.parametrize("path", [path for path in FILES if "/healthy/" in path])
def test_a_healthy_twin_has_no_mark(path: str) -> None:
    """What fixtures/healthy/ holds is right: a mark there would be a mistake of ours."""
    assert _expected(path) == []


def test_nothing_is_reported_outside_the_known_files(reported: Counter[Place]) -> None:
    """A finding in a file that the tests do not know would go unnoticed."""
    assert {place[0] for place in reported} <= set(FILES)


def _expected(path: str) -> list[Place]:
    text = (ROOT / path).read_text("utf-8")
    if not path.endswith(".ipynb"):
        return [(path, 0, line, code) for line, code in marked(text)]
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return [
        (path, number, line, code)
        for number, cell in enumerate(cells, 1)
        for line, code in marked("".join(cell["source"]))
    ]
