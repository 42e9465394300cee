"""Hand-written masks in Modules and functions: scale, direction, source and mode."""

from __future__ import annotations

from importlib import import_module
from textwrap import dedent, indent

import pytest

from dropaudit.static.joining import scan_program

NAMES = (
    "unscaled_mask",
    "wrong_scale",
    "inverted_mask",
    "non_uniform_mask_source",
    "mask_ignoring_mode",
)
RULES = [import_module(f"dropaudit.rules.{name}").rule for name in NAMES]
HEAD = """\
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

"""


def codes(program: str) -> list[str]:
    """The codes of what the five rules find, in order."""
    source = HEAD + dedent(program)
    compile(source, "net.py", "exec")
    return [f.code for f in scan_program("net.py", source.encode(), {}, RULES)]


def module(body: str, name: str = "MyDropout") -> str:
    """A Module with a rate `p` whose forward is `body`."""
    forward = indent(dedent(body).strip("\n"), "        ")
    return (
        f"class {name}(nn.Module):\n"
        "    def __init__(self, p=0.2):\n"
        "        super().__init__()\n"
        "        self.p = p\n"
        "        self.keep_prob = 1 - p\n"
        "        self.scale = 1.0 / (1.0 - p)\n"
        "        self.fc = nn.Linear(8, 8)\n\n"
        f"    def forward(self, x):\n{forward}\n"
    )


UNSCALED = (
    """
    if not self.training:
        return x
    return x * (torch.rand_like(x) > self.p)
    """,
    """
    if self.training:
        self.mask = (torch.rand(x.size()) > self.p).float().to(x.device)
        x = x * self.mask
    return x
    """,
    """
    if not self.training or self.p == 0:
        return x
    mask = torch.distributions.Bernoulli(self.keep_prob).sample(x.shape)
    return mask * x
    """,
    """
    if self.training:
        binomial = torch.distributions.binomial.Binomial(probs=1 - self.p)
        return x * binomial.sample(x.size())
    return x
    """,
    """
    if self.training:
        with torch.no_grad():
            mask = torch.empty(x.shape)
            mask.bernoulli_(1 - self.p)
        x = x * mask
    return x
    """,
    """
    if self.training:
        drop = torch.rand(x.shape) < self.p
        x[drop] = 0
    return x
    """,
    """
    p = self.p if self.training else 0.0
    mask = torch.rand_like(x) >= p
    return x * mask
    """,
    """
    h = F.relu(self.fc(x))
    if self.training:
        noise = torch.from_numpy(np.random.binomial(1, self.keep_prob, h.shape)).float()
        h = h * noise
    return h
    """,
)

RIGHT = (
    """
    if self.training:
        return x * (torch.rand_like(x) > self.p) * self.scale
    return x
    """,
    """
    if self.training:
        mask = torch.rand_like(x) < self.keep_prob
        x = torch.where(mask, x / self.keep_prob, 0.0)
    return x
    """,
    """
    if self.training:
        binomial = torch.distributions.binomial.Binomial(probs=1 - self.p)
        return x * binomial.sample(x.size()) * (1.0 / (1 - self.p))
    return x
    """,
    """
    if self.training:
        return x * torch.bernoulli(torch.full_like(x, 1 - self.p))
    return x * self.keep_prob
    """,
    """
    if self.training:
        return x * torch.bernoulli(torch.full_like(x, 1 - self.p))
    return (1.0 - self.p) * x
    """,
    """
    if self.training:
        mask = torch.bernoulli(torch.full_like(x, self.keep_prob))
        return x * mask * (mask.numel() / mask.sum())
    return x
    """,
    """
    if self.training:
        mask = torch.bernoulli(torch.full_like(x, self.keep_prob))
        alpha = -1.7580993408473766
        return x * mask + alpha * (1 - mask)
    return x
    """,
    """
    if self.training:
        return x * (1 + self.p * torch.randn_like(x))
    return x
    """,
    """
    if self.training:
        mask = F.dropout(torch.ones_like(x), self.p)
        return x * mask
    return x
    """,
    """
    if self.training:
        gamma = self.p / 49
        mask = (torch.rand_like(x) < gamma).float()
        mask = 1 - F.max_pool2d(mask, 7, 1, 3)
        return x * mask * mask.numel() / mask.sum()
    return x
    """,
    """
    p = self.p if self.training else 0.0
    mask = torch.rand_like(x) >= p
    return x * mask / (1 - p)
    """,
)


@pytest.mark.parametrize("body", UNSCALED)
def test_a_module_that_only_masks_is_unscaled(body: str) -> None:
    """Textbook dropout as a Module, in its usual clothes."""
    assert codes(module(body)) == ["DRP101"]


@pytest.mark.parametrize("body", RIGHT)
def test_a_module_that_scales_is_right(body: str) -> None:
    """By any algebra, by an eval branch, by counting, or by another value in the gaps."""
    assert codes(module(body)) == []


@pytest.mark.parametrize("body", [b for b in RIGHT[:3] if "self.training" in b])
def test_a_right_scale_without_a_mode_is_blind(body: str) -> None:
    """The same Modules without their test of the mode."""
    assert codes(module(body.replace("if self.training:", "if self.p > 0:"))) == ["DRP216"]


@pytest.mark.parametrize(
    "name", ["MCDropout", "RandomErasing", "TokenMasking", "EdgeDrop", "Zoneout", "Augment"]
)
def test_other_purposes_are_not_dropout(name: str) -> None:
    """The name of the class decides: it drops on purpose, or something else."""
    scaled = "return x * (torch.rand_like(x) > self.p) / (1 - self.p)"
    assert codes(module(scaled, name)) == []


FUNCTIONS = (
    ("x * (torch.rand_like(x) > p) / p", "DRP102"),
    ("x * (torch.rand_like(x) > p) * (1 - p)", "DRP102"),
    ("x * (torch.rand_like(x) > p) / (1 - p) / (1 - p)", "DRP102"),
    ("F.dropout(x, p, training) / (1 - p)", "DRP102"),
    ("x * (torch.rand_like(x) < p) / (1 - p)", "DRP104"),
    ("x * torch.bernoulli(torch.full_like(x, p)) * (1 / (1 - p))", "DRP104"),
    ("x * (torch.randn_like(x) > p) / (1 - p)", "DRP105"),
    ("x * (torch.randn(x.shape) < 0.3) / 0.3", "DRP105"),
    ("x * (torch.rand_like(x) < p) / p", None),
    ("F.dropout(torch.ones_like(x), p) * (1 - p)", None),
    ("F.dropout(x, p, training) / x.size(-1) ** 0.5", None),
    ("x * (torch.rand_like(x) > p) * x.abs().sum()", "DRP101"),
)


@pytest.mark.parametrize(("result", "code"), FUNCTIONS)
def test_one_expression_has_one_fault(result: str, code: str | None) -> None:
    """Scale, direction and source of the mask in `def dropout(x, p)`."""
    program = (
        f"def dropout(x, p, training=True):\n    if training:\n        x = {result}\n    return x\n"
    )
    assert codes(program) == ([] if code is None else [code])


SILENT = (
    "def mask_tokens(ids, p):\n    return ids * (torch.rand(ids.shape) > p)\n",
    "def word_dropout(x, p):\n    return x * (torch.rand(x.shape[:1]) > p)\n",
    "def cutout(image, p):\n    return image * (torch.rand_like(image) > p)\n",
    "def drop_labels(labels, p):\n    return torch.where(torch.rand_like(labels) < p, 0, labels)\n",
    "def add_noise(x, p):\n    return x * (torch.rand_like(x) > p)\n",
    "def random_sign(x):\n    return x * ((torch.rand_like(x) > 0.5).float() * 2 - 1)\n",
    "def dropout_mask(x, p):\n    return torch.rand_like(x) > p\n",
    "def drop_none(x):\n    return x\n",
    "def step(q, epsilon):\n    return 0 if random.random() < epsilon else q.argmax()\n",
    "def test_dropout(x, p):\n    return x * (torch.rand_like(x) > p)\n",
)


@pytest.mark.parametrize("program", SILENT)
def test_what_is_no_dropout_is_silent(program: str) -> None:
    """Other things that are random and multiply."""
    assert codes(program) == []


def test_a_scale_is_evidence_of_its_own() -> None:
    """Dropping nodes need not be scaled; dividing by the rate to drop is wrong all the same."""
    program = """
    def drop_rows(x, drop_rate=0.5, training=True):
        rates = torch.ones(x.shape[0]) * drop_rate
        if training:
            masks = torch.bernoulli(1.0 - rates).unsqueeze(1)
            x = masks * x
            x = x / drop_rate
        return x
    """
    assert codes(program) == ["DRP102"]
    assert codes(program.replace("drop_rows", "drop_node")) == ["DRP102"]
    assert codes(program.replace("/ drop_rate", "/ (1 - drop_rate)")) == []
