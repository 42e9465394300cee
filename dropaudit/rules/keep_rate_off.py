"""
A dropout that drops another share than it declares.

## What it does

Reports, in an audit, a site whose share of dropped elements is not its p, by a test that may be
looked at after every step and still raises a false alarm with a chance below `alpha` in the whole
run. Also a site whose scale is right for another p than the declared one.

## Why is this bad

What the configuration says is not what the network was trained with: comparisons between rates
are wrong, and so is the scale, if it is computed from the declared p.

## Example

```python
keep = torch.rand_like(x) > self.p + 0.05
return x * keep / (1 - self.p)
```

## Use instead

Compare with the declared probability itself.

```python
keep = torch.rand_like(x) >= self.p
return x * keep / (1 - self.p)
```

## Fix safety

There is no fix.

## Not seen

Deviations too small for the number of elements that were seen: from 10 % to 11 % it takes about
45,000. Kernels that round p are judged against the range that they can represent.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP110",
    "keep-rate-off",
    __doc__,
)


@rule.in_trace
def other_share_dropped(trace: Trace) -> Iterator[Observation]:
    """The e-value of the draws against the declared p, or a scale that belongs to another p."""
    for site in evidence(trace):
        if site.forward_code == "DRP110":
            forward, rate = site.site.training, site.drop_rate or 0.0
            because = f"; evidence exp({site.rate_evidence:.1f}), bound exp({site.limit:.1f})"
            if site.rate_evidence < site.limit and site.implied_p is not None:
                because = (
                    f", and what is kept is multiplied by {forward.scale:.6g}, "
                    f"which is right for p = {site.implied_p:.4g}"
                )
            yield site.observe(
                f"{site.name} dropped {forward.drops:,} of {forward.draws:,} draws, {rate:.2%}"
                f"{because}",
                drop_rate=rate,
                declared_p=site.site.p,
                draws=forward.draws,
                log_e=site.rate_evidence,
                bound=site.limit,
                scale=forward.scale,
            )
