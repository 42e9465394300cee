"""
A dropout whose outputs in training and in evaluation differ on average.

## What it does

Reports, in an audit, a site whose mean output in training is not its output in evaluation, where
neither its keep rate nor its scale explains that.

## Why is this bad

The layers behind a dropout are trained on one magnitude and used on another. Every later layer
sees a shift that it was never trained for.

## Example

```python
noise = torch.randn_like(x) * self.sigma + 0.9
return x * noise if self.training else x
```

## Use instead

Give the noise a mean of one, or multiply by its mean in evaluation.

```python
noise = torch.randn_like(x) * self.sigma + 1.0
return x * noise if self.training else x
```

## Fix safety

There is no fix.

## Not seen

A network as a whole: since it is not linear, its mean in training differs from its evaluation even
if every dropout is right. `dropaudit.compare_modes` shows by how much.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP111",
    "train-eval-expectation-gap",
    __doc__,
)


@rule.in_trace
def other_mean_in_training(trace: Trace) -> Iterator[Observation]:
    """The mean of y / x in training, against its factor in evaluation."""
    for site in evidence(trace):
        if site.forward_code == "DRP111":
            forward = site.site.training
            yield site.observe(
                f"{site.name} multiplies its input by {forward.mean:.4g} on average in training "
                f"and by {site.expected_mean:.4g} in evaluation; chance and rounding explain "
                f"{site.bound_of_mean:.2g}",
                mean=forward.mean,
                expected=site.expected_mean,
                bound=site.bound_of_mean,
                error=forward.mean_error,
                elements=forward.elements,
            )
