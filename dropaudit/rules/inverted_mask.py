"""A dropout mask that keeps with the probability it should drop with.

## What it does
Finds hand-written dropout whose mask is one with the drop probability: the scale `1 / (1 - p)`
says that `p` drops, but the mask keeps with `p`; or a mask in a dropout that keeps with a
probability named for dropping. It also finds an evaluation branch that drops everything.

## Why is this bad
A rate of 0.1 drops 90 % of the activations instead of 10 %, and the scale then makes the rest too
small or too large. With the rate 0.5, where most code is tried out, nothing can be seen.

## Example
```python
def dropout(x, p):
    mask = torch.rand_like(x) < p
    return x * mask / (1 - p)
```

## Use instead
Keep with the probability `1 - p`: `torch.rand_like(x) > p`, or `torch.bernoulli` of `1 - p`.

```python
def dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask / (1 - p)
```

## Fix safety
The fix turns the comparison round, or draws with `1 - p`, where the scale says that `p` drops. It
changes what the network computes, so it is unsafe.

## Not seen
A parameter called `p` that keeps and is never used in a scale may be a survival rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.rules.unscaled_mask import DRAWS
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.maskbranches import evaluation_block
from dropaudit.static.maskevidence import dropout_uses, in_test
from dropaudit.static.maskrepairs import turned
from dropaudit.static.maskuses import DropoutUse
from dropaudit.static.maskverdicts import keeps_with_drop_rate, means_keep, verdict
from dropaudit.static.source import Change, Report, Source
from dropaudit.static.walk import descend

rule = Rule(
    "DRP104",
    "inverted-mask",
    __doc__,
    triggers=DRAWS,
    examples=(
        Example(
            """
            import torch

            def dropout(x, p):
                mask = torch.rand_like(x) < p
                return x * mask / (1 - p)  # DRP104
            """,
            fixed="""
            import torch

            def dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / (1 - p)
            """,
        ),
        Example(
            """
            import torch
            from torch import nn

            class Dropout(nn.Module):
                def __init__(self, p=0.1):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.bernoulli(torch.full(x.shape, self.p))
                    return mask * x * (1.0 / (1 - self.p))  # DRP104

            def dropout_by_name(x, drop_prob):
                mask = torch.rand_like(x) < drop_prob
                return x * mask  # DRP104

            def dropout_keep(x, keep_prob):
                mask = torch.rand_like(x) > keep_prob
                return x * mask / keep_prob  # DRP104

            def dropout_rows(rows, p=0.5, training=True):
                if not training or p == 0.0:
                    row_mask = torch.zeros(rows, dtype=torch.bool)  # DRP104
                    return row_mask
                row_mask = torch.rand(rows) > p
                return row_mask

            def dropout_columns(columns, p, training):
                if training:
                    mask = torch.rand(columns) < 1 - p
                else:
                    mask = torch.zeros(columns, dtype=torch.bool)  # DRP104
                return mask
            """
        ),
        Example(
            """
            import torch

            def dropout(x, keep):
                mask = torch.rand_like(x) < keep
                return x * mask / keep

            def dropout_inverse(x, drop_prob):
                dropped = torch.rand_like(x) < drop_prob
                return x.masked_fill(dropped, 0) / (1 - drop_prob)

            def dropout_survival(x, p):
                return x * torch.bernoulli(torch.full_like(x, p)) / p

            def dropout_renamed(x, drop_prob):
                drop_prob = 1 - drop_prob
                return x * (torch.rand_like(x) < drop_prob) / drop_prob

            def dropped_rows(rows, p=0.5, training=True):
                if not training or p == 0.0:
                    gone = torch.zeros(rows, dtype=torch.bool)
                    return gone
                gone = torch.rand(rows) < p
                return gone

            def dropout_rows(rows, p=0.5, training=True):
                if not training or p == 0.0:
                    row_mask = torch.ones(rows, dtype=torch.bool)
                    return row_mask
                row_mask = torch.rand(rows) > p
                return row_mask
            """
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class OwnDropout(nn.Module):
                def __init__(self, p=0.2):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = (torch.rand_like(x) < self.p).float()
                    return x * mask / (1 - self.p)  # DRP104

            model, batch = nn.Sequential(nn.Linear(16, 64), OwnDropout()), torch.randn(64, 16)
            """,
            live=("DRP104",),
        ),
    ),
)


_RATE = re.compile(r"^(1(\.0*)?\s*-\s*)?([\w.]+\.)?(p|\w*(prob|rate|ratio|keep|drop)\w*)$")
_KEEP = re.compile(r"^1(\.0*)?\s*-\s*(?!\w*keep)|^(?!1)\w*(keep|surviv|retain)")


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report masks whose chance to keep contradicts their scale or the name of the rate."""
    for found in dropout_uses(source):
        if found.use.spared or found.masks.words or in_test(source, found.use.node):
            continue
        what = verdict(found.use.coins)
        if what == "drop" and not means_keep(source, found):
            yield Report(
                found.use.node,
                _message(found, "scaled as if it was dropped with it"),
                turned(source, found),
                title="Keep what is dropped",
            )
        elif what in ("right", "unscaled") and keeps_with_drop_rate(source, found):
            yield Report(found.use.node, _message(found, "called the rate to drop"))


@rule.in_source(cst.If)
def check_evaluation(node: cst.If, source: Source) -> Iterator[Report]:
    """Report `mask = zeros(dtype=bool)` in the evaluation branch of a dropout."""
    function = source.function_of(node)
    if function is None or not re.search(r"drop", function.name.value, re.IGNORECASE):
        return
    block = evaluation_block(node)
    if block is None or in_test(source, node):
        return
    keeping = {
        source.text(t.target)
        for n in descend(function.body)
        if isinstance(n, cst.Assign) and _keeps(source, n.value)
        for t in n.targets
    }
    for inner in descend(block):
        match inner:
            case cst.Assign(targets=[target], value=cst.Call(func=func) as call):
                text = source.text(target.target)
                dtype = source.argument(call, "dtype")
                boolean = dtype is not None and source.text(dtype.value).endswith("bool")
                if text in keeping and boolean and re.search(r"zeros(_like)?$", source.text(func)):
                    yield Report(
                        inner,
                        f"in evaluation `{text}` is all False: everything is dropped instead of "
                        "nothing",
                        _ones(func),
                        title="Keep everything in evaluation",
                    )


def _keeps(source: Source, value: cst.BaseExpression) -> bool:
    """Whether a comparison is true where something is kept: `draw > p` or `draw < keep`."""
    match value:
        case cst.Comparison(
            left=left,
            comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)],
        ):
            above = isinstance(operator, (cst.GreaterThan, cst.GreaterThanEqual))
            if not above and not isinstance(operator, (cst.LessThan, cst.LessThanEqual)):
                return False
            one, other = source.text(left), source.text(right)
            if _RATE.search(one) and not _RATE.search(other):
                above, other = not above, one
            return above != bool(_KEEP.search(other))
    return False


def _ones(func: cst.BaseExpression) -> tuple[Change, ...]:
    name = func.attr if isinstance(func, cst.Attribute) else func
    if not isinstance(name, cst.Name):
        return ()
    return (Change(name, "replace", name.value.replace("zeros", "ones")),)


def _message(found: DropoutUse, why: str) -> str:
    rate = found.use.keep_text.strip("()") or "the probability"
    known = found.use.keep_known
    number = "" if known is None else f" ({known:.0%} are kept)"
    return f"the mask keeps with probability `{rate}`, which is {why}{number}"


@rule.in_trace
def keep_rate_that_is_p(trace: Trace) -> Iterator[Observation]:
    """The share that is kept is the one that ought to be dropped."""
    for site in evidence(trace):
        if site.forward_code == "DRP104":
            forward, rate = site.site.training, site.drop_rate or 0.0
            yield site.observe(
                f"{site.name} keeps what it should drop: {forward.drops:,} of {forward.draws:,} "
                f"draws were dropped, {rate:.1%}, and what is kept is multiplied by "
                f"{forward.scale or 0:.6g}",
                scale=forward.scale,
                drop_rate=rate,
                declared_p=site.site.p,
                draws=forward.draws,
                log_e=site.rate_evidence,
                bound=site.limit,
            )
