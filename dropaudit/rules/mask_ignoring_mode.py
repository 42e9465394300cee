"""A hand-written dropout mask that is applied in evaluation too.

## What it does
Finds random masks over activations in the forward of a Module, and calls of helpers that draw
them, that no test of the mode reaches: not in the function, not around the call, and not in the
callers that the file shows. Random subsets of edges or layers count where they are dropped.

## Why is this bad
`model.eval()` switches off `nn.Dropout`; it cannot switch off a mask that the code draws itself.
Evaluation is then random: two passes over the same input differ, and predictions are worse.

## Example
```python
class EmbeddingDropout(nn.Module):
    def forward(self, x):
        mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p) / (1 - self.p)
        return mask * x
```

## Use instead
Test `self.training` before the mask is drawn, or let `nn.Dropout` or `F.dropout` draw it.

```python
class EmbeddingDropout(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p) / (1 - self.p)
        return mask * x
```

## Fix safety
There is no fix.

## Not seen
Helpers and modules whose callers are in another file are taken to be gated there, unless the mask
stands in a forward. Classes named for Monte-Carlo dropout and the like drop on purpose; add others
to `always-on`.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.rules import unscaled_mask
from dropaudit.static.maskmodes import masks_in_every_mode
from dropaudit.static.source import Report, Source

rule = Rule(
    "DRP216",
    "mask-ignoring-mode",
    __doc__,
    triggers=unscaled_mask.rule.triggers,
    examples=(
        Example(
            """
            import torch
            from torch import nn

            class EmbeddingDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p)  # DRP216
                    return mask.expand_as(x) / (1 - self.p) * x
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            class EmbeddingDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p)
                    return mask.expand_as(x) / (1 - self.p) * x
            """
        ),
    ),
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report each draw, or call of a helper that draws, that runs in every mode."""
    for node, what in masks_in_every_mode(source):
        yield Report(node, f"{what} in every mode: evaluation is random, eval() cannot stop it")
