"""Random masks: every right way to scale one is silent, every way without a scale is reported."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropaudit.rules import unscaled_mask, wrong_scale
from dropaudit.static.scanner import scan_python

# Expressions that are true, or one, where a value is kept; {q} and {p} are the probabilities.
BOOLEAN = (
    "torch.rand_like(x) < {q}",
    "torch.rand(x.shape) > {p}",
    "{p} <= torch.rand(x.shape, device=x.device)",
    "{q} > torch.rand(*x.size())",
    "torch.rand(x.size()).ge({p})",
    "torch.gt(torch.rand_like(x), {p})",
    "~(torch.rand_like(x) < {p})",
    "torch.logical_not(torch.rand_like(x) < {p})",
    "torch.empty_like(x).uniform_() > {p}",
    "torch.empty(x.shape).uniform_(0, 1) >= {p}",
    "torch.FloatTensor(x.shape).uniform_(0, 1) < {q}",
    "torch.bernoulli(torch.full(x.shape, {q})).bool()",
    "torch.bernoulli(torch.full_like(x, {p})) == 0",
    "torch.from_numpy(np.random.rand(*x.shape)) < {q}",
    "torch.tensor(np.random.uniform(size=x.shape) > {p})",
)
NUMERIC = (
    "torch.bernoulli(torch.ones_like(x) * ({q}))",
    "torch.bernoulli(torch.zeros_like(x) + {q})",
    "torch.bernoulli(({q}) * torch.ones(x.shape, device=x.device))",
    "1 - torch.bernoulli(torch.full_like(x, {p}))",
    "torch.empty(x.shape).bernoulli_({q})",
    "torch.empty_like(x).bernoulli_(p={q})",
    "x.new_empty(x.shape).bernoulli_({q})",
    "x.data.new(x.size()).bernoulli_({q})",
    "x.new().resize_(x.size()).bernoulli_({q})",
    "Variable(torch.zeros(x.size()).bernoulli_({q}))",
    "torch.distributions.Bernoulli({q}).sample(x.shape)",
    "torch.distributions.Bernoulli(probs={q}).sample(x.size()).to(x.device)",
    "torch.distributions.Binomial(1, {q}).sample(x.size())",
    "Bernoulli(torch.tensor({q})).sample(x.shape)",
    "torch.tensor(np.random.binomial(1, {q}, size=x.shape)).float()",
    "torch.floor(torch.rand_like(x) + {q})",
    "torch.rand(x.shape).add({q}).floor()",
    "({q} + torch.rand_like(x)).floor_()",
    "torch.ceil(torch.rand_like(x) - {p})",
    "torch.where(torch.rand_like(x) < {p}, 0.0, 1.0)",
    "(torch.rand_like(x) > {p}).float()",
    "(torch.rand_like(x) > {p}).to(x.dtype)",
    "(torch.rand_like(x) > {p}).type_as(x)",
    "(torch.rand_like(x) > {p}).half()",
    "(torch.rand(x.shape) < {q}).type(torch.FloatTensor).cuda()",
)
DRAWS = (*BOOLEAN, *NUMERIC)

# Statements that lay `mask` over `x` and leave the result in `y`.
APPLY = (
    "y = x * mask",
    "y = mask * x",
    "y = x.mul(mask)",
    "y = torch.mul(x, mask)",
    "y = torch.mul(mask, x)",
    "y = x * mask.detach()",
    "y = x * mask.unsqueeze(1)",
    "y = x * mask[:, None]",
    "y = x.clone()\n    y *= mask",
    "y = x.clone()\n    y.mul_(mask)",
)
APPLY_BOOLEAN = (
    "y = torch.where(mask, x, 0)",
    "y = torch.where(mask, x, torch.zeros_like(x))",
    "y = torch.where(~mask, torch.tensor(0.0), x)",
    "y = x.masked_fill(~mask, 0)",
    "y = x.masked_fill(mask == 0, 0.0)",
    "y = x.clone()\n    y[~mask] = 0",
    "y = x.clone()\n    y.masked_fill_(~mask, 0)",
)

# How the scale comes in: (before the product, after the product); the whole product is right.
SCALES = (
    ("", "y = y / ({q})"),
    ("", "y = y * (1 / ({q}))"),
    ("", "y = y * (1.0 / ({q}))"),
    ("", "y /= {q}"),
    ("", "y *= 1 / ({q})"),
    ("", "y = y.div({q})"),
    ("", "y.div_({q})"),
    ("", "y = torch.div(y, {q})"),
    ("", "y = ({q}) ** -1 * y"),
    ("scale = 1 / ({q})", "y = y * scale"),
    ("scale = 1 / ({q})", "y = scale * y"),
    ("x = x / ({q})", ""),
    ("x = x.div({q})", ""),
    ("x = torch.div(x, {q})", ""),
    ("mask = mask / ({q})", ""),
    ("mask = mask * (1.0 / (1.0 - ({p})))", ""),
    ("mask = mask.float().div({q})", ""),
    ("mask = mask.float().div_({q})", ""),
    ("mask = mask.float()\n    mask /= {q}", ""),
    ("mask = mask.float()\n    if {q} > 0:\n        mask.div_({q})", ""),
    ("mask = mask / mask.mean()", ""),
    ("", "y = y * mask.numel() / mask.sum()"),
    ("", "y = y * (mask.numel() / mask.sum())"),
)
# (parameters, statements before, keep, drop)
RATES = (
    ("p", "", "(1 - p)", "p"),
    ("p: float = 0.5", "", "(1.0 - p)", "p"),
    ("p", "keep = 1 - p", "keep", "p"),
    ("drop_prob", "keep_prob = 1 - drop_prob", "keep_prob", "drop_prob"),
    ("keep_prob", "", "keep_prob", "(1 - keep_prob)"),
    ("rate", "q = 1. - rate", "q", "(1 - q)"),
)


def program(draw: str, rate: tuple[str, str, str, str], before: str, apply: str, after: str) -> str:
    """A module with one function that drops."""
    params, setup, keep, drop = rate
    lines = [setup, f"mask = {draw}", before, apply, after, "return y"]
    body = "\n    ".join(line for line in lines if line).format(q=keep, p=drop)
    return (
        "import numpy as np\nimport torch\nfrom torch.autograd import Variable\n"
        "from torch.distributions import Bernoulli\n\n\n"
        f"def naive_dropout(x, {params}):\n    {body}\n"
    )


def codes(code: str) -> list[str]:
    """What the two rules on scales find."""
    compile(code, "example.py", "exec")
    found = scan_python("net.py", code.encode(), [unscaled_mask.rule, wrong_scale.rule])
    return [f.code for f in found]


def applications(draw: str) -> tuple[str, ...]:
    """The ways to apply what `draw` makes."""
    return (*APPLY, *APPLY_BOOLEAN) if draw in BOOLEAN else APPLY


@pytest.mark.parametrize(
    ("draw", "apply"),
    [(d, a) for d in DRAWS for a in applications(d) if a == APPLY[0] or d == DRAWS[0]],
)
def test_a_mask_without_a_scale_is_reported(draw: str, apply: str) -> None:
    """Each draw with the plain product, and each product with one draw."""
    code = program(draw, RATES[0], "", apply, "")
    assert codes(code) == ["DRP101"], code


@pytest.mark.parametrize(
    ("draw", "scale"),
    [(d, s) for d, s in product(DRAWS, SCALES) if s in SCALES[:2] or d in (DRAWS[0], DRAWS[-1])],
)
def test_a_right_scale_is_silent(draw: str, scale: tuple[str, str]) -> None:
    """Each draw with two scales, and each scale with two draws."""
    code = program(draw, RATES[0], scale[0], APPLY[0], scale[1])
    assert codes(code) == [], code


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_right_combination_is_silent_and_wrong_without_its_scale(data: st.DataObject) -> None:
    """Draw, rate, scale and use in any combination."""
    draw = data.draw(st.sampled_from(DRAWS))
    rate = data.draw(st.sampled_from(RATES))
    scale = data.draw(st.sampled_from(SCALES))
    numeric = scale[0].startswith("mask")
    apply = data.draw(st.sampled_from(APPLY if numeric else applications(draw)))
    right = program(draw, rate, scale[0], apply, scale[1])
    assert codes(right) == [], right
    wrong = program(draw, rate, "", apply, "")
    assert codes(wrong) == ["DRP101"], wrong
