"""Which writes of `training` are slips, beyond the examples of the rule."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.joining import scan_program

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x)

"""


def reported(code: str, path: str = "net.py") -> list[str]:
    """The lines that DRP207 reports, stripped."""
    program = HEAD + textwrap.dedent(code)
    found = scan_program(path, program.encode(), {})
    lines = program.splitlines()
    return [lines[f.where.line - 1].strip() for f in found if f.code == "DRP207"]


@pytest.mark.parametrize(
    "code",
    [
        "net = Net()\nnet.training = False",
        "net = Net().to('cpu')\nnet.training = True",
        "net = nn.Sequential(nn.Linear(2, 2))\nnet.training = False",
        "class Other(Net):\n    def predict(self, x):\n        self.training = False",
    ],
)
def test_a_literal_written_on_a_module_of_the_file_is_reported(code: str) -> None:
    """By name, through `.to`, torch's own containers, and on self."""
    assert reported(code) == [code.splitlines()[-1].strip()]


@pytest.mark.parametrize(
    "code",
    [
        "net.training = False",
        "net = load()\nnet.training = False",
        "def f(task):\n    task.training = False",
        "net = Net()\nnet.training = flag",
        "net = Net()\nnet.eval()\nnet.training = False",
        "net = Net()\nfor m in net.modules():\n    m.training = False\nnet.training = False",
        "net = Net()\nwas = net.training\nnet.training = False\nnet.training = was",
        "class Other(Net):\n    def set_mode(self):\n        self.training = False",
        "class Other(Net):\n    def __init__(self):\n        self.training = False",
        "class Other(Net):\n    def f(self, x):\n"
        "        if torch.onnx.is_in_onnx_export():\n            self.training = False",
        "class Task:\n    def f(self):\n        self.training = False",
    ],
)
def test_what_may_be_meant_is_spared(code: str) -> None:
    """Unknown objects, values that are worked out, switches, exports, plain classes."""
    assert reported(code) == []


def test_a_test_may_flip_the_flag() -> None:
    """A file of tests does so to look at one branch."""
    code = "def test_it():\n    net = Net()\n    net.training = False"
    assert reported(code, "test_net.py") == []
