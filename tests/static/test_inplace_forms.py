"""In-place dropout: what it overwrites, through helpers, aliases, views and containers."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.joining import scan_program
from tests.programs import marked, unmarked

HEAD = """\
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import Sequential as Seq

S = nn.Sequential

"""
# The body of a forward, where `self.drop` works in place, and whether that is wrong.
FORWARDS = {
    "an activation held in an attribute": ("return self.drop(self.act(x))", True),
    "a function held in an attribute": ("return self.drop(self.function(x))", True),
    "an activation through a local": ("h = self.act(x)\nh = self.drop(h)\nreturn h", True),
    "an activation through a view": ("return self.drop(self.act(x).flatten(1))", True),
    "a method that ends in an activation": ("return self.drop(self.activated(x))", True),
    "a function that ends in an activation": ("return self.drop(activated(x))", True),
    "a residual": ("h = self.fc(x)\nreturn h + self.drop(h)", True),
    "a residual the other way": ("h = self.fc(x)\nreturn self.drop(h) + h", True),
    "a residual by a function": ("h = self.fc(x)\nreturn torch.add(h, self.drop(h))", True),
    "a residual by a method": ("h = self.fc(x)\nreturn h.add(self.drop(h))", True),
    "a residual in place": ("h = self.fc(x)\nh += self.drop(h)\nreturn h", True),
    "a residual around a layer": ("h = self.fc(x)\nreturn h + self.fc(self.drop(h))", True),
    "both in one tensor": ("h = self.fc(x)\nreturn torch.cat([h, self.drop(h)], 1)", True),
    "both returned": ("h = self.fc(x)\nreturn h, self.drop(h)", True),
    "read in the same statement": (
        "h = self.fc(x)\nreturn self.fc(self.drop(h)) * self.fc(h)",
        True,
    ),
    "read later": ("h = self.fc(x)\ny = self.drop(h)\nreturn y + self.fc(h)", True),
    "an alias": ("h = self.fc(x)\nkept = h\nh = self.drop(h)\nreturn h + kept", True),
    "a view of it": (
        "h = self.fc(x)\nturned = h.transpose(0, 1)\nh = self.drop(h)\nreturn h @ turned",
        True,
    ),
    "it is a view": ("h = self.fc(x)\ny = self.drop(h.view(-1))\nreturn y.sum() + h.sum()", True),
    "another tensor": ("h = self.fc(x)\nreturn h + self.drop(self.fc(h))", False),
    "a copy": ("h = self.fc(x)\nreturn h + self.drop(h.clone())", False),
    "only the shape is read": (
        "h = self.fc(x)\nreturn self.drop(h).view(h.size(0), -1)",
        False,
    ),
    "one of two branches": (
        "h = self.fc(x)\nreturn self.drop(h) if self.training else h",
        False,
    ),
    "bound anew": ("h = self.fc(x)\nh = self.drop(h)\nreturn h + self.fc(h)", False),
    "read before": ("h = self.fc(x)\ny = h.sum()\nh = self.drop(h)\nreturn h + y", False),
    "an activation that keeps its input": ("return self.drop(F.gelu(x))", False),
    "a layer behind the activation": ("return self.drop(self.fc(self.act(x)))", False),
    "no gradient": ("with torch.no_grad():\n    return self.drop(self.act(x))", False),
}
CONTAINERS = {
    "an imported alias": "Seq(nn.ReLU(), nn.Dropout(p, inplace=True))",
    "an alias of the module": "S(nn.ReLU(), nn.Dropout(p, inplace=True))",
    "a nested container": "S(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.Dropout(p, True))",
    "dropout of channels": "nn.Sequential(nn.ReLU(True), nn.Dropout2d(p, True))",
    "an in-place activation": "nn.Sequential(nn.ELU(inplace=True), nn.Dropout(p, True))",
}


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_is_judged_by_who_reads_the_tensor(name: str) -> None:
    """The line that builds the dropout is reported, or nothing is."""
    body, wrong = FORWARDS[name]
    mark = "  # DRP308" if wrong else ""
    program = (
        f"{HEAD}def activated(x):\n    return torch.tanh(x)\n\n\n"
        "class Net(nn.Module):\n    def __init__(self, p):\n        super().__init__()\n"
        "        self.fc = nn.Linear(2, 2)\n        self.act = nn.ReLU()\n"
        "        self.function = F.relu\n"
        f"        self.drop = nn.Dropout(p, inplace=True){mark}\n\n"
        "    def activated(self, x):\n        return F.relu(self.fc(x))\n\n"
        f"    def forward(self, x):\n{textwrap.indent(body, ' ' * 8)}\n"
    )
    _judge(program)


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_seen_under_every_name(name: str) -> None:
    """An activation and the dropout behind it, in one container."""
    _judge(f"{HEAD}def build(p):\n    return {CONTAINERS[name]}  # DRP308\n")


def _judge(program: str) -> None:
    compile(program, "example.py", "exec")
    found = scan_program("example.py", unmarked(program).encode(), {})
    assert [(f.where.line, f.code) for f in found] == marked(program), program
