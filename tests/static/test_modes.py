"""What counts as a word of the mode, and what does not."""

from __future__ import annotations

from textwrap import indent

import libcst as cst
import pytest

from dropaudit.static.record import Options
from dropaudit.static.source import Source

GUARDED = {
    "branch": "if self.training:\n    drop(x)",
    "else branch": "if not self.training:\n    pass\nelse:\n    drop(x)",
    "early return": "if not self.training:\n    return x\ndrop(x)",
    "early return of elif": "if x is None:\n    pass\nelif not train:\n    return x\ndrop(x)",
    "conditional expression": "y = drop(x) if self.training else x",
    "and": "y = self.training and drop(x)",
    "local": "active = self.training and self.rate > 0\nif active:\n    drop(x)",
    "property": "if self.active:\n    drop(x)",
    "other module": "if self.block.training:\n    drop(x)",
    "word compared": "if mode == 'train':\n    drop(x)",
    "stage": "if self.stage == Stage.TRAIN:\n    drop(x)",
    "parameter": "if not deterministic:\n    drop(x)",
    "targets": "if targets is not None:\n    drop(x)",
    "comprehension": "y = [drop(z) for z in x if self.training]",
    "assertion": "assert self.training\ndrop(x)",
    "nested function": "if self.training:\n    def inner():\n        drop(x)",
    "option by name": "if getattr(self, 'training', True):\n    drop(x)",
}
OPEN = {
    "plain": "drop(x)",
    "rate only": "if self.rate:\n    drop(x)",
    "other mode": "if self.mode == 'nearest':\n    drop(x)",
    "after the branch": "if self.training:\n    x = x + 1\ndrop(x)",
    "test itself": "if drop(x):\n    self.training",
    "tensor from a call that takes the mode": (
        "y = F.dropout(x, training=self.training)\nif y is x:\n    drop(x)"
    ),
    "training loop of another object": "if self.train():\n    drop(x)",
    "circle": "a = b\nb = a\nif a:\n    drop(x)",
}


@pytest.mark.parametrize("body", GUARDED.values(), ids=GUARDED.keys())
def test_code_that_runs_in_one_mode_only_is_guarded(body: str) -> None:
    """By whatever branch, return or name."""
    source, call = _drop_in(body)
    assert source.modes.guards(call)


@pytest.mark.parametrize("body", OPEN.values(), ids=OPEN.keys())
def test_code_that_runs_in_both_modes_is_not_guarded(body: str) -> None:
    """However it is tested otherwise."""
    source, call = _drop_in(body)
    assert not source.modes.guards(call)


def test_a_sibling_class_says_nothing_of_purpose() -> None:
    """Only the function and class around the call count."""
    text = (
        "class MCDropout:\n    def forward(self, x):\n        drop(x)\n"
        "class Plain:\n    def forward(self, x):\n        drop(x)\n"
    )
    source = Source("net.py", text.encode())
    said = [source.modes.on_purpose(c) for c in source.nodes[cst.Call]]
    assert said == [True, False]


def test_always_on_patterns_name_purpose() -> None:
    """The settings may name classes and functions that drop on purpose."""
    text = b"class Jitter:\n    def forward(self, x):\n        drop(x)\n"
    for options, expected in ((Options(), False), (Options(always_on=("Jit*",)), True)):
        source = Source("net.py", text, options)
        assert source.modes.on_purpose(source.nodes[cst.Call][0]) is expected


def test_names_that_are_bound_over_and_over_are_followed_in_no_time() -> None:
    """A hundred assignments of a name to itself must not multiply."""
    body = "\n".join("x = f(x, y)\ny = g(x, y)" for _ in range(100)) + "\nif x:\n    drop(x)"
    source, call = _drop_in(body)
    assert not source.modes.guards(call)


def _drop_in(body: str) -> tuple[Source, cst.Call]:
    text = (
        "class Net(Module):\n"
        "    @property\n"
        "    def active(self):\n"
        "        return self.training\n"
        "    def forward(self, x, train=False, mode='train', deterministic=True, targets=None):\n"
        + indent(body, " " * 8)
        + "\n"
    )
    source = Source("net.py", text.encode())
    return source, next(c for c in source.nodes[cst.Call] if source.text(c).startswith("drop("))
