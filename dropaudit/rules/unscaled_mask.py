"""A hand-written dropout mask that is never divided by the keep probability.

## What it does
Finds random masks that are multiplied with activations in code that is dropout (a method of a
Module, or a function or class that calls itself dropout), where no path scales the result by one
over the probability of being kept.

## Why is this bad
With the mask alone the expected activation in training is the keep probability times the
activation in evaluation: the network is trained on values that are too small, and every layer
behind the dropout sees other inputs when it is evaluated. Nothing fails; accuracy is lost.

## Example
```python
def naive_dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask
```

## Use instead
Divide by the keep probability during training, or call `F.dropout(x, p, training=...)`.

```python
def naive_dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask / (1 - p)
```

## Fix safety
The fix divides by the keep probability where an expression for it is in reach. It changes what the
network computes in training, so it is unsafe.

## Not seen
Masks that pass through functions of other files or through more than two calls, or are scaled by a
value that is computed from the mask; classic dropout, which multiplies by the keep probability in
evaluation, is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.maskbranches import calls_without_scale
from dropaudit.static.maskevidence import dropout_uses, in_test
from dropaudit.static.maskrepairs import divided
from dropaudit.static.maskuses import DropoutUse
from dropaudit.static.maskverdicts import keeps_with_drop_rate, scaled_elsewhere, verdict
from dropaudit.static.source import Report, Source

# Each begins with plain letters: such patterns are searched for many times faster.
DRAWS = (
    "bernoulli",
    r"Bernoulli\s*\(",
    r"inomial\s*\(",
    r"rand\s*\(",
    r"rand_like\s*\(",
    r"uniform_?\s*\(",
    r"random(?:_sample)?\s*\(",
)

rule = Rule(
    "DRP101",
    "unscaled-mask",
    __doc__,
    triggers=DRAWS,
    examples=(
        Example(
            """
            import torch

            def naive_dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask  # DRP101
            """,
            fixed="""
            import torch

            def naive_dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / (1 - p)
            """,
        ),
        Example(
            """
            import torch
            from torch import nn

            class MyDropout(nn.Module):
                def __init__(self, p=0.2):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.bernoulli(torch.full_like(x, 1 - self.p))
                    x *= mask  # DRP101
                    return x
            """,
            fixed="""
            import torch
            from torch import nn

            class MyDropout(nn.Module):
                def __init__(self, p=0.2):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.bernoulli(torch.full_like(x, 1 - self.p))
                    x *= mask / (1 - self.p)
                    return x
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class DropConnect(nn.Linear):
                def __init__(self, inputs, outputs, keep_prob):
                    super().__init__(inputs, outputs)
                    self.keep_prob = keep_prob

                def forward(self, x):
                    weight = self.weight
                    if self.training:
                        noise = torch.rand(weight.shape, device=x.device) + self.keep_prob
                        weight = torch.mul(weight, noise.floor())  # DRP101
                    return F.linear(x, weight, self.bias)

            def drop_path(x, drop_prob: float = 0.1, training: bool = False):
                if drop_prob == 0.0 or not training:
                    return x
                keep_prob = 1 - drop_prob
                shape = (x.shape[0],) + (1,) * (x.ndim - 1)
                mask = x.new_empty(shape).bernoulli_(keep_prob)
                return x.mul_(mask)  # DRP101
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class DropConnect(nn.Linear):
                def __init__(self, inputs, outputs, keep_prob):
                    super().__init__(inputs, outputs)
                    self.keep_prob = keep_prob

                def forward(self, x):
                    weight = self.weight
                    if self.training:
                        noise = torch.rand(weight.shape, device=x.device) + self.keep_prob
                        weight = torch.mul(weight, noise.floor()) / self.keep_prob
                    return F.linear(x, weight, self.bias)

            def drop_path(x, drop_prob: float = 0.1, training: bool = False):
                if drop_prob == 0.0 or not training:
                    return x
                keep_prob = 1 - drop_prob
                shape = (x.shape[0],) + (1,) * (x.ndim - 1)
                mask = x.new_empty(shape).bernoulli_(keep_prob)
                return x.mul_(mask).div_(keep_prob)
            """,
        ),
        Example(
            """
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.p = p

                def forward(self, x):
                    h = torch.relu(self.fc(x))
                    if self.training:
                        h = h.masked_fill(torch.rand_like(h) < self.p, 0)  # DRP101
                    return h
            """,
            fixed="""
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.p = p

                def forward(self, x):
                    h = torch.relu(self.fc(x))
                    if self.training:
                        h = h.masked_fill(torch.rand_like(h) < self.p, 0) / (1 - self.p)
                    return h
            """,
        ),
        Example(
            """
            import torch

            def depth_drop(x, rate, is_training):
                keep = 1 - rate
                if not is_training:
                    return x * keep
                mask = torch.floor(keep + torch.rand(x.shape[0], 1, 1, 1))
                return x * mask

            class Block(torch.nn.Module):
                def forward(self, x):
                    if self.training and self.rate:
                        x = depth_drop(x, self.rate, self.training)  # DRP101
                    return x
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            def before(x, drop_prob):
                keep = 1.0 - drop_prob
                mask = x.new_empty(x.shape[0], 1).bernoulli_(keep)
                return x.div(keep) * mask

            def dropout_in_place(x, p):
                return x.mul_(torch.empty_like(x).bernoulli_(1 - p).div_(1 - p))

            def drop_path(x, drop_prob, training, scale_by_keep=True):
                if not training:
                    return x
                keep_prob = 1 - drop_prob
                mask = x.new_empty((x.shape[0], 1)).bernoulli_(keep_prob)
                if keep_prob > 0.0 and scale_by_keep:
                    mask.div_(keep_prob)
                return x * mask

            def classic_dropout(x, p, training):
                if training:
                    return x * (torch.rand_like(x) > p)
                return x * (1 - p)

            def ratio_dropout(x, p):
                mask = (torch.rand_like(x) > p).float()
                return x * mask * mask.numel() / mask.sum()

            def gaussian_dropout(x, p):
                return x * (1 + torch.randn_like(x) * (p / (1 - p)) ** 0.5)

            def dropout_mask(x, p):
                return torch.empty_like(x).bernoulli_(1 - p)

            class Scaled(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p
                    self.scale = 1 / (1 - p)

                def forward(self, x):
                    if not self.training:
                        return x
                    return torch.where(torch.rand_like(x) < self.p, 0.0, x * self.scale)

            class JointDropout(nn.Module):
                def forward(self, x, y):
                    if self.training:
                        one = torch.bernoulli(torch.full_like(x, 1 - self.dropout))
                        two = torch.bernoulli(torch.full_like(x, 1 - self.dropout))
                        scale = 3 / (2 * one + two + 1e-12)
                        x, y = x * one * scale, y * two * scale
                    return x, y
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            def word_dropout(words, p):
                keep = torch.rand(words.shape) > p
                return words * keep

            def random_erase(image, p):
                return image * (torch.rand_like(image) > p)

            class LabelDropout(nn.Module):
                def forward(self, labels):
                    drop = torch.rand(labels.shape) < self.drop_prob
                    return torch.where(drop, 0, labels)

            class Attention(nn.Module):
                def forward(self, scores, keep):
                    causal = torch.rand_like(scores) < keep
                    return scores.masked_fill(~causal, float("-inf"))

            def dropout_edge(edge_index, p):
                return edge_index[:, torch.rand(edge_index.size(1)) > p]
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
                    mask = torch.rand_like(x) >= self.p
                    return x * mask  # DRP101

            model, batch = nn.Sequential(nn.Linear(16, 64), OwnDropout()), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn

            class OwnDropout(nn.Module):
                def __init__(self, p=0.2):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.rand_like(x) >= self.p
                    return x * mask / (1 - self.p)

            model, batch = nn.Sequential(nn.Linear(16, 64), OwnDropout()), torch.randn(64, 16)
            """,
            live=("DRP101",),
        ),
    ),
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report products with a mask that stay unscaled on every path."""
    for found in dropout_uses(source):
        if found.use.spared or verdict(found.use.coins) != "unscaled":
            continue
        if in_test(source, found.use.node):
            continue
        for call in calls_without_scale(source, found):
            yield Report(call, _DEAD)
        if scaled_elsewhere(source, found):
            continue
        if keeps_with_drop_rate(source, found):
            continue
        yield Report(
            found.use.node,
            _message(found),
            divided(source, found.use),
            title="Divide by the keep probability",
        )


_DEAD = (
    "the dropout called here scales in its evaluation branch, which this guard never lets run: "
    "activations are larger in evaluation than in training"
)


def _message(found: DropoutUse) -> str:
    known = found.use.keep_known
    if known is not None:
        size = f"{round(100 * (1 - known), 1):g} % smaller in training than in eval"
        when = " at the default rate" if re.search("[a-zA-Z_]", found.use.keep_text) else ""
        return f"the mask is never divided by the keep probability: activations are {size}{when}"
    keep = found.use.keep_text.strip("()") or "the keep probability"
    return (
        f"the mask is never divided by the keep probability: activations in training are "
        f"`{keep}` times those in eval on average"
    )


@rule.in_trace
def scale_of_one(trace: Trace) -> Iterator[Observation]:
    """Kept elements go on as they are, and evaluation does not shrink them."""
    for site in evidence(trace):
        if site.forward_code == "DRP101":
            forward = site.site.training
            severity = Severity.INFO if site.site.unscaled_on_purpose else None
            seen = site.observe(
                f"{site.name} does not scale what it keeps: on average its output is "
                f"{forward.mean or 1 - (site.drop_rate or 0):.1%} of its input in training and "
                f"{site.expected_mean:.1%} in evaluation; what is kept should be multiplied by "
                f"{site.wanted_scale}",
                scale=forward.scale,
                expected_scale=site.right_scale,
                bound=site.scale_bound,
                keep_rate=None if site.drop_rate is None else 1 - site.drop_rate,
                draws=forward.draws,
            )
            yield replace(seen, severity=severity)
