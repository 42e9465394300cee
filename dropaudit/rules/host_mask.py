"""
A dropout mask that comes from Python or NumPy.

## What it does

Finds dropout of a module's own whose mask is drawn by NumPy, by `random`, or by a distribution
built from Python floats. In an audit, reports calls that dropped elements although no random
generator of torch moved.

## Why is this bad

`torch.manual_seed` does not reach such a mask, activation checkpointing cannot restore it, data
loader workers and ranks may all draw the same one, and each step copies it to the device.

## Example

```python
mask = torch.from_numpy(np.random.binomial(1, keep, x.shape)).to(x)
return x * mask / keep
```

## Use instead

Draw the mask with torch, on the device of the input.

```python
mask = torch.empty_like(x).bernoulli_(keep)
return x * mask / keep
```

## Fix safety

There is no fix.

## Not seen

Masks that are drawn before the forward pass; layers that are skipped as a whole by
`random.random()`, which is LayerDrop; `torch.rand(shape).to(device)`, which is slow but follows
torch's seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Severity
from dropaudit.rules.unscaled_mask import DRAWS
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.maskhosts import host_masks
from dropaudit.static.source import Report, Source

rule = Rule(
    "DRP108",
    "host-mask",
    __doc__,
    severity=Severity.WARNING,
    triggers=DRAWS,
    examples=(
        Example(
            """
            import numpy as np
            import torch
            from torch import nn

            class NumpyDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = np.random.binomial(1, 1 - self.p, size=x.shape)  # DRP108
                    return x * torch.from_numpy(mask).to(x) / (1 - self.p)

            model = nn.Sequential(nn.Linear(256, 256), NumpyDropout(0.5))
            batch = torch.randn(16, 256)
            """,
            live=("DRP108",),
        ),
        Example(
            """
            import random

            import numpy as np
            import torch
            import torch.nn as nn
            from torch.distributions import Bernoulli

            class NumpyDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = np.random.binomial(1, 1 - self.p, size=x.shape)  # DRP108
                    return x * torch.from_numpy(mask).to(x) / (1 - self.p)

            class FloatDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = Bernoulli(1 - self.p).sample(x.shape).to(x.device)  # DRP108
                    return x * mask / (1 - self.p)

            def drop_units(x, p):
                kept = [random.random() > p for _ in range(x.size(1))]  # DRP108
                return x * torch.tensor(kept, device=x.device) / (1 - p)

            class Net(nn.Module):
                def forward(self, x):
                    if self.training:
                        x = drop_units(x, self.drop_rate)
                    return self.fc(x)
            """
        ),
        Example(
            """
            import random

            import numpy as np
            import torch
            import torch.nn as nn
            from torch.distributions import Bernoulli

            class SlowDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    return x * (torch.rand(x.shape) > self.p).to(x.device) / (1 - self.p)

            class TensorDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = Bernoulli(torch.full_like(x, 1 - self.p)).sample()
                    return x * mask / (1 - self.p)

            class Encoder(nn.Module):
                def forward(self, x):
                    for layer in self.layers:
                        if self.training and random.random() < self.layerdrop:
                            continue
                        x = layer(x)
                    return x

            class RandomErasing(nn.Module):
                def forward(self, image):
                    return image * torch.from_numpy(np.random.rand(*image.shape) > self.p)

            def mask_tokens(tokens, p):
                return tokens * torch.from_numpy(np.random.rand(*tokens.shape) > p)

            class Batches:
                def __iter__(self):
                    mask = np.random.binomial(1, 1 - self.dropout, size=self.x.shape)
                    yield self.x * mask / (1 - self.dropout)
            """
        ),
    ),
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report the draws of masks that torch does not make on the device."""
    for node, home in host_masks(source):
        yield Report(
            node,
            f"the mask is drawn by {home}: torch's seed does not reach it, and each step copies it "
            "to the device"
            if home != "a distribution of Python floats"
            else f"the mask is drawn on the CPU by {home}, and each step copies it to the device",
        )


@rule.in_trace
def drawn_on_the_host(trace: Trace) -> Iterator[Observation]:
    """Elements dropped while every generator of torch stood still."""
    for site in evidence(trace):
        if site.site.host_mask and not site.site.complemented:
            calls = site.site.training.acted + site.site.eval.acted
            yield site.observe(
                f"{site.name} dropped in {site.site.host_mask:,} of {calls:,} calls while no "
                f"generator of torch moved: its mask comes from Python or NumPy",
                calls=calls,
                host_mask=site.site.host_mask,
            )
