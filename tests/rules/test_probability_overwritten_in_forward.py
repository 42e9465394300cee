"""Which rates that a forward writes are lost, beyond the examples of the rule."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.joining import scan_program

HEAD = """
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = rate
        self.drop_last = False
        self.drop = nn.Dropout(rate)

"""


def reported(methods: str) -> list[str]:
    """The lines that DRP214 reports, stripped."""
    program = HEAD + textwrap.indent(textwrap.dedent(methods), "    ")
    lines = program.splitlines()
    found = scan_program("net.py", program.encode(), {})
    return [lines[f.where.line - 1].strip() for f in found if f.code == "DRP214"]


@pytest.mark.parametrize(
    ("methods", "line"),
    [
        (
            "def forward(self, x):\n    self.drop.p = 0.0\n    return self.drop(x)",
            "self.drop.p = 0.0",
        ),
        (
            "def forward(self, x):\n    return self.step(x)\n\n"
            "def step(self, x):\n    if not self.training:\n        self.rate = 0\n"
            "    return F.dropout(x, self.rate, self.training)",
            "self.rate = 0",
        ),
    ],
)
def test_a_constant_that_nothing_takes_back_is_reported(methods: str, line: str) -> None:
    """In forward, and in a method that it calls."""
    assert reported(methods) == [line]


@pytest.mark.parametrize(
    "methods",
    [
        "def set_rate(self, rate):\n    self.drop.p = 0.0",
        "def forward(self, x):\n    self.drop.p = self.rate\n    return self.drop(x)",
        "def forward(self, x):\n    if x.dim() == 2:\n        self.drop_last = 0\n    return x",
        "def forward(self, x, on):\n    self.drop.p = 0.0 if on else 0.5\n    return self.drop(x)",
        "def forward(self, x):\n    if not self.training:\n        self.drop.p = 0.0\n"
        "    else:\n        self.drop.p = self.rate\n    return self.drop(x)",
    ],
)
def test_schedules_setters_and_rates_set_anew_are_spared(methods: str) -> None:
    """Nothing is lost where every call sets the rate, or somebody asks for it."""
    assert reported(methods) == []
