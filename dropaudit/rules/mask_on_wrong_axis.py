"""
A dropout of whole samples or sequences whose mask lies along the wrong axes.

## What it does

Reports a drop path or stochastic depth, by the name of its function or class, that draws a number
for every element of its input, or one for the whole batch though it is documented as per sample;
and a locked or variational dropout whose mask is shared by the samples instead of the time steps,
where its documentation says which axis is which. In an audit it reports a DropPath,
StochasticDepth or locked dropout in which elements that should share one decision do not.

## Why is this bad

These dropouts remove a whole residual branch for a sample, or the same features in every time
step. With a mask of the full shape they are plain dropout under another name: the depth of the
network never varies, and published drop rates mean something else.

## Example

```python
def drop_path(x, keep):
    mask = torch.rand_like(x) < keep
    return x * mask / keep
```

## Use instead

Draw one number a sample, and let it broadcast.

```python
def drop_path(x, keep):
    mask = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) < keep
    return x * mask / keep
```

## Fix safety

There is no fix.

## Not seen

Modules whose name does not say which axis shares a decision, locked dropout whose documentation
does not say which axis is the batch, and draws that an option of the function chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.masklayout import wrong_layouts
from dropaudit.static.source import Report, Source

rule = Rule(
    "DRP107",
    "mask-on-wrong-axis",
    __doc__,
    severity=Severity.WARNING,
    triggers=(
        r"[dD]rop_?[pP]ath|[sS]tochastic_?[dD]epth",
        r"([lL]ock(ed)?|[vV]ariational|[rR][nN][nN]|[sS]hared|[tT]ime)_?[dD]rop",
    ),
    examples=(
        Example(
            """
            import torch
            from torch import nn

            class DropPath(nn.Module):
                def __init__(self, drop_prob):
                    super().__init__()
                    self.drop_prob = drop_prob

                def forward(self, x):
                    if not self.training:
                        return x
                    keep_prob = 1 - self.drop_prob
                    mask = (torch.rand_like(x) < keep_prob).to(x.dtype)  # DRP107
                    return x * mask / keep_prob

            model, batch = nn.Sequential(nn.Linear(256, 256), DropPath(0.5)), torch.randn(64, 256)
            """,
            live=("DRP107",),
        ),
        Example(
            """
            import random
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            def drop_path(x, drop_prob=0.0, training=False):
                if drop_prob == 0.0 or not training:
                    return x
                keep_prob = 1 - drop_prob
                mask = (torch.rand_like(x) < keep_prob).to(x.dtype)  # DRP107
                return x * mask / keep_prob

            class DropPath(nn.Module):
                \'\'\'Drop paths (stochastic depth) per sample.\'\'\'

                def __init__(self, drop_prob):
                    super().__init__()
                    self.drop_prob = drop_prob

                def forward(self, x):
                    if not self.training:
                        return x
                    if random.random() < self.drop_prob:  # DRP107
                        return torch.zeros_like(x)
                    return x / (1 - self.drop_prob)

            class StochasticDepth(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, branch):
                    return F.dropout(branch, self.rate, self.training)  # DRP107

            class LockedDropout(nn.Module):
                \'\'\'The same mask in every time step; x is (batch, seq_len, dim).\'\'\'

                def forward(self, x, rate):
                    if not self.training:
                        return x
                    mask = x.new_empty(1, x.size(1), x.size(2)).bernoulli_(1 - rate)  # DRP107
                    return x * mask / (1 - rate)
            """
        ),
        Example(
            """
            import random
            import torch
            import torch.nn as nn

            def drop_path(x, drop_prob=0.0, training=False):
                if drop_prob == 0.0 or not training:
                    return x
                keep_prob = 1 - drop_prob
                shape = (x.shape[0],) + (1,) * (x.ndim - 1)
                mask = x.new_empty(shape).bernoulli_(keep_prob)
                return x * mask / keep_prob

            class StochasticDepth(nn.Module):
                \'\'\'Skips the branch, for the whole batch or for each sample.\'\'\'

                def __init__(self, rate, mode):
                    super().__init__()
                    self.rate, self.mode = rate, mode

                def forward(self, x):
                    if not self.training:
                        return x
                    if self.mode == "batch":
                        return x / (1 - self.rate) if torch.rand(1) > self.rate else x * 0
                    size = [x.shape[0]] + [1] * (x.ndim - 1)
                    return x * torch.rand(size).gt(self.rate) / (1 - self.rate)

            class DropPath(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    if self.training and random.random() < self.rate:
                        return torch.zeros_like(x)
                    return x

            class LockedDropout(nn.Module):
                def forward(self, x, rate):
                    if not self.training:
                        return x
                    mask = x.new_empty(1, x.size(1), x.size(2)).bernoulli_(1 - rate)
                    return x * mask / (1 - rate)

            class VariationalDropout(nn.Module):
                \'\'\'x is (batch, seq_len, dim).\'\'\'

                def forward(self, x, rate):
                    if not self.training:
                        return x
                    mask = x.new_empty(x.size(0), 1, x.size(2)).bernoulli_(1 - rate)
                    return x * mask / (1 - rate)

            def dropout(x, rate):
                return x * (torch.rand_like(x) > rate) / (1 - rate)
            """
        ),
    ),
)


@rule.in_source(cst.FunctionDef)
def drawn_along_another_axis(function: cst.FunctionDef, source: Source) -> Iterator[Report]:
    """Draws that contradict what the name or the documentation of a dropout says."""
    if source.modes.in_test(function.body):
        return
    for found in wrong_layouts(source, function):
        facts = source.class_of(function)
        name = function.name.value if facts is None else facts.name
        yield Report(found.node, f"`{name}` draws {found.what}")


@rule.in_trace
def decision_not_shared(trace: Trace) -> Iterator[Observation]:
    """Units of the axis that the kind declares, dropped in part."""
    for site in evidence(trace):
        if site.forward_code == "DRP107":
            forward = site.site.training
            unit = "samples" if site.site.kind == "path" else "units"
            yield site.observe(
                f"{site.name} dropped {forward.mixed:,} of {forward.units:,} {unit} in part: its "
                f"mask should be the same throughout each of them",
                mixed=forward.mixed,
                units=forward.units,
                calls=forward.calls,
            )
