"""Findings to render, over files that exist only here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.reporting import Outcome
from dropaudit.static.texts import Texts

NET = """\
import torch.nn.functional as F

def f(x):
\tlabel = "日本"; y = F.dropout(x)
    return F.dropout(
        y,
    )
"""
CELL = {"cell_type": "code", "metadata": {}, "outputs": [], "source": ["!ls\n", "F.dropout(x)"]}
NOTEBOOK = json.dumps({"cells": [CELL], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
FILES = {"src/net.py": NET.encode(), "nb.ipynb": NOTEBOOK.encode()}
ROOT = Path("/project").absolute()
HELP = "Pass `training=self.training`."


def _read(path: str) -> bytes:
    if path not in FILES:
        raise FileNotFoundError(path)
    return FILES[path]


def _after(text: str) -> int:
    return NET.encode().index(text.encode()) + len(text.encode())


TEXTS = Texts(_read)
SAFE = Fix(
    "Say the mode", (Edit(_after("y = F.dropout(x"), _after("y = F.dropout(x"), ", z"),), True
)
UNSAFE = Fix("Say the mode", (Edit(_after("        y,"), _after("        y,"), " z,"),), False)
ONE_LINE = Finding(
    "DRP201",
    "functional-dropout-ignoring-mode",
    Severity.ERROR,
    Location("src/net.py", 4, 20, 4, 32),
    "drops in eval too: 50% of <x>, always",
    HELP,
    SAFE,
)
LINES = Finding(
    "DRP205",
    "some-warning",
    Severity.WARNING,
    Location("src/net.py", 5, 12, 7, 6),
    "spans lines",
    "",
    UNSAFE,
)
IN_CELL = Finding(
    "DRP401",
    "discarded-result",
    Severity.INFO,
    Location("nb.ipynb", 2, 1, 2, 13, cell=1),
    "thrown away",
    HELP,
)
FINDINGS = (IN_CELL, ONE_LINE, LINES)
HOSTILE = Finding(
    "DRP000",
    "unchecked",
    Severity.ERROR,
    Location("evil\x1b[31m,:%\udcff\n.py", 1, 1, 1, 2),
    "cannot be parsed: \x00\x1b]8;;x\x07 <&\"'> ]]> \ud800\r\nnext",
    "Mend \x1b it.",
)


def outcome(*findings: Finding, **more: Any) -> Outcome:
    return Outcome(
        findings,
        files_checked=3,
        lines=TEXTS.lines,
        place=TEXTS.place,
        **{"root": ROOT, **more},
    )
