"""Corners of the rules about mode that are too odd for a documentation page."""

from __future__ import annotations

import pytest

from dropaudit.static.joining import scan_program
from dropaudit.static.record import Options
from tests.programs import fixed

HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"
CLASS = "class Net(nn.Module):\n    def forward(self, x, *args, **kwargs):\n        "

REPORTED = {
    "F.dropout(x)": "DRP201",
    "torch.nn.functional.dropout3d(x, 0.1)": "DRP201",
    "(lambda z: F.dropout(z))(x)": "DRP201",
    "F.dropout(x, training=not self.training)": "DRP201",
    "F.dropout(x, training=1)": "DRP205",
    "F.dropout(x, self.training)": "DRP106",
    "F.feature_alpha_dropout(x, 0.3)": "DRP217",
    "F.scaled_dot_product_attention(x, x, x, None, 0.3)": "DRP202",
    "F.dropout(x, keep_prob, self.training)": "DRP103",
    "F.dropout(x, 0.5, False)": "DRP218",
}
FIXED = {
    "F.dropout(\n            x,\n            0.5,  # half\n        )": (
        "F.dropout(\n            x,\n            0.5, training=self.training,  # half\n        )"
    ),
    "F.dropout((x))": "F.dropout((x), training=self.training)",
    "F.dropout(x, training=not self.training)": "F.dropout(x, training=self.training)",
    "F.scaled_dot_product_attention(x, x, x, dropout_p=(0.1 if a else 0.2))": (
        "F.scaled_dot_product_attention("
        "x, x, x, dropout_p=(0.1 if a else 0.2) if self.training else 0.0)"
    ),
}
UNFIXABLE = (
    "class Net(nn.Module):\n    @staticmethod\n    def forward(x):\n        return F.dropout(x)\n",
    "class Net(nn.Module):\n    def forward(self, x):\n"
    "        return [F.dropout(self) for self in x]\n",
)
SILENT = (
    "F.dropout(x, *args)",
    "F.dropout(x, **kwargs)",
    "F.dropout(x, 0)",
    "F.dropout(x, training=kwargs['training'])",
    "F.scaled_dot_product_attention(x, x, x, **kwargs)",
)


@pytest.mark.parametrize(("expression", "code"), REPORTED.items())
def test_odd_calls_are_reported_once_each(expression: str, code: str) -> None:
    """Under the one code that fits."""
    assert _codes(CLASS + f"return {expression}\n") == [code]


@pytest.mark.parametrize("expression", SILENT)
def test_what_cannot_be_seen_is_not_reported(expression: str) -> None:
    """Spread arguments, rates of zero, flags from elsewhere."""
    assert _codes(CLASS + f"return {expression}\n") == []


@pytest.mark.parametrize(("before", "after"), FIXED.items())
def test_fixes_keep_comments_commas_and_precedence(before: str, after: str) -> None:
    """The text around the edit stays as it was."""
    program = HEAD + CLASS + f"return {before}\n"
    assert fixed(program) == HEAD + CLASS + f"return {after}\n"


@pytest.mark.parametrize("program", UNFIXABLE)
def test_there_is_no_fix_where_self_is_not_the_module(program: str) -> None:
    """A static method, or a `self` that is bound anew."""
    found = scan_program("net.py", (HEAD + program).encode(), {})
    assert [(f.code, f.fix) for f in found] == [("DRP201", None)]


def test_the_message_shows_the_default_rate_of_the_constructor() -> None:
    """The number that a user of the class gets."""
    program = (
        "class Net(nn.Module):\n    def __init__(self, rate=0.25):\n        self.rate = rate\n"
        "    def forward(self, x):\n        return F.dropout(x, self.rate)\n"
    )
    found = scan_program("net.py", (HEAD + program).encode(), {})
    assert "25 % of the activations" in found[0].message


def test_settings_name_what_stays_on() -> None:
    """`always-on` silences the class that it names."""
    program = (HEAD + CLASS + "return F.dropout(x)\n").encode()
    assert scan_program("net.py", program, {}, options=Options(always_on=("N?t",))) == []


def _codes(program: str) -> list[str]:
    return [f.code for f in scan_program("net.py", (HEAD + program).encode(), {})]
