"""
A dropout mask that comes from Python or NumPy.

## What it does

Reports, in an audit, calls that dropped elements although no random generator of torch moved.

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
`random.random()`, which is LayerDrop.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP108",
    "host-mask",
    __doc__,
    severity=Severity.WARNING,
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
