"""Programs at the edges of the rules about dropout that is built, called, and comes to nothing."""

from __future__ import annotations

import pytest

from dropaudit.static.joining import scan_program
from dropaudit.static.scanner import scan_python

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
MODULE = HEAD + "class Net(nn.Module):\n"


def codes(program: str) -> list[str]:
    return [f.code for f in scan_program("net.py", program.encode(), {})]


@pytest.mark.parametrize(
    "call",
    [
        "nn.LSTM(4, 4, dropout=rate)",
        "nn.GRU(4, 4, 1, True, False, 0.5)",
        "nn.RNN(4, 4, 1, 'relu', True, False, 0.5)",
        "nn.LSTM(4, 4, **{'num_layers': 1, 'dropout': 0.5})",
        "nn.LSTM(4, 4, dropout=rate, proj_size=2)",
        "getattr(nn, 'GRU')(4, 4, dropout=rate)",
    ],
)
def test_one_layer_with_a_rate_is_reported(call: str) -> None:
    """Every way to leave the layer count at one while giving a rate."""
    assert codes(f"{HEAD}def build(rate):\n    return {call}\n") == ["DRP403"]


@pytest.mark.parametrize(
    "call",
    [
        "nn.LSTM(4, 4, layers, dropout=rate)",
        "nn.LSTM(4, 4, 1, dropout=0)",
        "nn.LSTM(4, 4, 1, True, False, False)",
        "nn.RNN(4, 4, 1, 'relu', True, True)",
        "nn.LSTM(4, 4, dropout=rate if layers > 1 else 0)",
        "nn.LSTM(4, 4, dropout=(layers > 1) * rate)",
        "nn.LSTM(4, 4, dropout=rate, **options)",
        "nn.LSTM(*sizes, dropout=rate)",
        "nn.TransformerEncoderLayer(4, 4, dropout=rate)",
    ],
)
def test_a_rate_that_may_act_or_is_written_off_is_spared(call: str) -> None:
    """The count is not shown to be one, or the rate is zero, perhaps on a condition."""
    program = f"{HEAD}def build(rate, layers, options, sizes):\n    return {call}\n"
    assert codes(program) == []


def test_a_rate_set_to_zero_for_one_layer_is_spared() -> None:
    """The usual guard, as a statement in place of an expression."""
    program = HEAD + (
        "def build(rate, layers):\n"
        "    if layers == 1:\n"
        "        rate = 0\n"
        "    return nn.LSTM(4, 4, dropout=rate)\n"
    )
    assert codes(program) == []


def test_the_last_expression_of_a_cell_is_spared() -> None:
    """A notebook prints it, so the result is used."""
    program = HEAD + "x = torch.ones(3)\nF.dropout(x, 0.5, training=True)\n"
    found = scan_python("nb.ipynb", program.encode(), cell_ends=frozenset([5]))
    assert "DRP401" not in [f.code for f in found]


@pytest.mark.parametrize(("activation", "expected"), [("relu", ["DRP308"]), ("gelu", [])])
def test_only_operations_that_keep_their_output_are_broken(
    activation: str, expected: list[str]
) -> None:
    """relu keeps its output for backward, gelu its input."""
    program = MODULE + (
        "    def forward(self, x):\n"
        f"        x = F.{activation}(x)\n"
        "        x = x.view(x.size(0), -1)\n"
        "        return F.dropout(x, 0.5, self.training, inplace=True)\n"
    )
    assert codes(program) == expected


def test_an_activation_from_a_parameter_default_counts() -> None:
    """`act=nn.ReLU` is what most callers get."""
    program = MODULE + (
        "    def __init__(self, act=nn.ReLU):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Linear(4, 4), act(), nn.Dropout(0.5, True))\n"
    )
    assert codes(program) == ["DRP308"]


@pytest.mark.parametrize("name", ["BaseHead", "HeadMixin", "AbstractHead"])
def test_a_class_meant_to_be_inherited_from_may_leave_its_dropout_unread(name: str) -> None:
    """A subclass in another file may apply it."""
    program = HEAD + (
        f"class {name}(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.drop = nn.Dropout(0.5)\n"
        "    def forward(self, x):\n"
        "        return x\n"
    )
    assert codes(program) == []
