"""A dropout mask that is scaled by the wrong factor.

## What it does
Finds hand-written dropout whose mask keeps with the right probability but is divided by the drop
probability, multiplied by the keep or the drop probability in training, or scaled twice, also
after a dropout of torch that has scaled already, or once in training and again in evaluation.

## Why is this bad
The expected activation in training is not the activation in evaluation. For a drop probability of
0.2, dividing by it instead of by 0.8 makes activations four times too large in training; every
layer behind sees other inputs when the network is evaluated.

## Example
```python
def dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask / p
```

## Use instead
Divide by the keep probability, once, and only what torch has not scaled already.

```python
def dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask / (1 - p)
```

## Fix safety
The fix divides by the keep probability where it is written in the same function, or takes the
second division away. It changes what the network computes, so it is unsafe.

## Not seen
Scales that are computed from the mask, or in a function of another file.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.rules.unscaled_mask import DRAWS
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.maskbranches import scales_again
from dropaudit.static.maskevidence import dropout_uses, in_test
from dropaudit.static.maskrepairs import rescaled
from dropaudit.static.maskuses import DropoutUse
from dropaudit.static.maskverdicts import means_keep, verdict
from dropaudit.static.scalars import close
from dropaudit.static.source import Report, Source

rule = Rule(
    "DRP102",
    "wrong-scale",
    __doc__,
    triggers=(*DRAWS, r"dropout\s*\("),
    examples=(
        Example(
            """
            import torch

            def dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / p  # DRP102
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
            import torch.nn.functional as F

            def drop_path(x, keep_prob, training):
                if training:
                    mask = x.new_empty(x.shape[0], 1).bernoulli_(keep_prob)
                    x = x * mask * keep_prob  # DRP102
                return x

            def drop_connect(weight, rate):
                keep = 1 - rate
                scale = 1 / rate
                mask = torch.floor(keep + torch.rand_like(weight))
                return weight * mask * scale  # DRP102

            def dropout_again(x, p, training):
                x = F.dropout(x, p, training)
                return x / (1 - p)  # DRP102

            def make_mask(x, p):
                keep = 1 - p
                return torch.empty_like(x).bernoulli_(keep), 1 / keep

            def dropout_by_parts(x, p):
                mask, scale = make_mask(x, p)
                return x * mask * scale * scale  # DRP102

            def dropout_both_ways(x, p, training):
                keep = 1 - p
                if not training:
                    return x * keep  # DRP102
                return x * (torch.rand_like(x) < keep) / keep
            """
        ),
        Example(
            """
            import math

            import torch
            import torch.nn.functional as F

            def dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / (1 - p)

            def survival_dropout(x, p):
                mask = torch.rand_like(x) < p
                return x * mask / p

            def classic_dropout(x, p, training):
                if not training:
                    return x * (1 - p)
                return x * (torch.rand_like(x) > p)

            def dropout_bits(x, p):
                bits = F.dropout(torch.ones_like(x), p) * (1 - p)
                return bits.bool()

            def dropout_of_scores(x, p, training):
                return F.dropout(x, p, training) / math.sqrt(x.size(-1))
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
                    mask = torch.rand_like(x) > self.p
                    return x * mask / self.p  # DRP102

            model, batch = nn.Sequential(nn.Linear(16, 64), OwnDropout()), torch.randn(64, 16)
            """,
            live=("DRP102",),
        ),
    ),
)

_SAID = {
    "drop": "the mask is divided by the drop probability instead of the keep probability",
    "twice": "the result is divided by the keep probability twice",
    "keep": "the mask is multiplied by the keep probability in training instead of divided by it",
    "dropped": "the mask is multiplied by the drop probability instead of divided by the keep one",
}


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report products whose scale contradicts their mask in a known way."""
    for found in dropout_uses(source):
        what = verdict(found.use.coins)
        if what == "right" and not in_test(source, found.use.node):
            for node in scales_again(source, found):
                yield Report(node, _AGAIN)
        if found.use.spared or found.masks.words or what not in _SAID:
            continue
        if in_test(source, found.use.node) or (what == "drop" and not means_keep(source, found)):
            continue
        where = _where(found, what)
        yield Report(
            where,
            _message(what, found.use.keep_known),
            rescaled(source, found.use, what, where),
            title="Scale by the keep probability once",
        )


_AGAIN = (
    "evaluation multiplies by the keep probability, which training has divided by already: "
    "activations are smaller in evaluation than in training"
)


def _where(found: DropoutUse, what: str) -> cst.CSTNode:
    """The multiplication or division that is wrong, else the product with the mask."""
    keep = found.use.coins[-1].keep
    wrong = {"drop": 1 / (1 - keep), "twice": 1 / keep, "keep": keep, "dropped": 1 - keep}[what]
    nodes = [node for factor, node in found.masks.factors if close(factor, wrong)]
    return nodes[-1] if nodes else found.use.node


def _message(what: str, known: float | None) -> str:
    if known is None or (what == "drop" and close(known, 0.5)):
        return f"{_SAID[what]}: training and evaluation disagree on average"
    gain = {
        "drop": known / (1 - known),
        "twice": 1 / known,
        "keep": known * known,
        "dropped": known * (1 - known),
    }[what]
    return f"{_SAID[what]}: activations in training are {gain:.3g} times those in evaluation"


@rule.in_trace
def scale_that_is_off(trace: Trace) -> Iterator[Observation]:
    """The share that is kept is right, the factor is neither one nor the right one."""
    for site in evidence(trace):
        if site.forward_code == "DRP102":
            forward, factor = site.site.training, site.eval_factor
            twice = factor is not None and abs(factor - 1) > site.scale_bound
            again = f", and evaluation multiplies by {factor:.4g} again" if twice else ""
            yield site.observe(
                f"{site.name} multiplies what it keeps by {forward.scale:.6g}; with this p it "
                f"should be {site.wanted_scale}{again}",
                scale=forward.scale,
                expected_scale=site.right_scale,
                bound=site.scale_bound,
                eval_factor=factor,
                draws=forward.draws,
            )
