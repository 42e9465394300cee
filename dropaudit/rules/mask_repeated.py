"""
A dropout mask that comes back, in another step or at another site.

## What it does

Reports, in an audit, masks that were equal in two consecutive steps, or at two sites in one step,
where chance does not explain it.

## Why is this bad

Dropout trains many thinned networks because each step draws another one. With a frozen mask the
same units are missing in every step, and never learn; with one mask at two sites the noise of the
two adds up instead of averaging out.

## Example

```python
self.mask = torch.rand(dim) > p  # in __init__
return x * self.mask / (1 - p)
```

## Use instead

Draw the mask in each forward pass.

```python
mask = torch.rand_like(x) > p
return x * mask / (1 - p)
```

## Fix safety

There is no fix.

## Not seen

Masks that are equal for one sequence on purpose, as in locked dropout: only the first call of a
step is compared. Masks that are so small that they repeat by chance are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.repeats import log_chance, repeat_code, shared_masks
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP306",
    "mask-repeated",
    __doc__,
)


@rule.in_trace
def same_mask_in_the_next_step(trace: Trace) -> Iterator[Observation]:
    """Masks of one site that were equal in consecutive steps."""
    for site in evidence(trace):
        fresh = site.site.freshness
        if repeat_code(site) == "DRP306":
            yield site.observe(
                f"{site.name} used the same mask in {fresh.repeats:,} of {fresh.compared:,} pairs "
                f"of steps that were compared, first in step {fresh.first_step}",
                repeats=fresh.repeats,
                compared=fresh.compared,
                draws=fresh.joint,
                log_chance=log_chance(fresh.repeats, fresh.compared, fresh.joint, site),
            )


@rule.in_trace
def same_mask_at_another_site(trace: Trace) -> Iterator[Observation]:
    """Masks of two sites that were equal in one step."""
    for first, second, shared in shared_masks(trace):
        yield second.observe(
            f"{second.name} used the mask of {first.name} at {first.where} in {shared.times:,} of "
            f"{shared.compared:,} steps that were compared, first in step {shared.first_step}",
            repeats=shared.times,
            compared=shared.compared,
            draws=shared.joint,
            log_chance=log_chance(shared.times, shared.compared, shared.joint, first, second),
        )
