"""Which `eval` overrides do what only a direct call brings about."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.scanner import scan_python

HEAD = "from torch import nn\n\nclass Adapter(nn.Linear):\n"
MERGE = """
def eval(self):
    nn.Linear.eval(self)
    if not self.merged:
        self.weight.data += self.delta
        self.merged = True
"""


def reported(methods: str) -> list[str]:
    """The names of the methods that DRP208 reports."""
    program = HEAD + textwrap.indent(textwrap.dedent(methods), "    ")
    found = [f for f in scan_python("net.py", program.encode()) if f.code == "DRP208"]
    lines = program.splitlines()
    return [lines[f.where.line - 1].split("def ")[1].split("(")[0] for f in found]


@pytest.mark.parametrize(
    "train",
    [
        "",
        "def train(self, mode=True):\n    nn.Linear.train(self, mode)\n"
        "    if self.merged:\n        self.weight.data -= self.delta\n",
        "def train(self, mode=True):\n    super().train(mode)\n"
        "    if mode and self.merged:\n        self.weight.data -= self.delta\n    return self\n",
    ],
)
def test_weights_merged_in_eval_alone_are_reported(train: str) -> None:
    """A parent calls train(False), which takes them apart at best."""
    assert reported(train + MERGE) == ["eval"]


@pytest.mark.parametrize(
    "train",
    [
        "def train(self, mode=True):\n    super().train(mode)\n    if mode:\n        self.split()\n"
        "    else:\n        self.merge()\n    return self\n",
        "def train(self, mode=True):\n    super().train(mode)\n    if not mode:\n"
        "        self.merge()\n    return self\n",
        "def train(self, mode=True):\n    super().train(mode)\n    self.switch(mode)\n"
        "    return self\n",
    ],
)
def test_a_train_that_acts_on_eval_does_the_work_for_a_parent(train: str) -> None:
    """An else branch, `not mode`, a helper that is told the mode."""
    assert reported(train + MERGE) == []


def test_the_same_work_in_both_is_done_either_way() -> None:
    """Clearing a cache in train() as well as in eval() leaves nothing out."""
    code = """
    def train(self, mode=True):
        self.cache = None
        return super().train(mode)

    def eval(self):
        self.cache = None
        return super().eval()
    """
    assert reported(code) == []


@pytest.mark.parametrize("work", ["self.head = None", "self.strip()"])
def test_work_that_an_extra_argument_asks_for_is_spared(work: str) -> None:
    """Nobody expects it of a plain switch."""
    code = f"def eval(self, deploy=False):\n    super().eval()\n    if deploy:\n        {work}\n"
    assert reported(code) == []
    assert reported(f"{code}    self.ready = True\n") == ["eval"]
