"""
A dropout mask that ranks share although each sees other data.

## What it does

Reports, in an audit of a program on many ranks, a site whose masks were equal on ranks that work on
other data (data parallel, sharded), by parts of the masks of the same steps. With
`ranks={"tp": "identical"}` it reports the reverse: masks that differ on ranks that must share them.

## Why is this bad

The gradients of ranks are averaged, and so is the noise of their masks: with one mask for all it
stays as large as on one rank, and each step trains one thinned network in place of many.

## Example

```python
torch.manual_seed(args.seed)  # the same on every rank, and never again
model = DistributedDataParallel(Net())
```

## Use instead

Seed each rank differently once the model is built, for example with the seed plus the rank.

```python
torch.manual_seed(args.seed)
model = DistributedDataParallel(Net())
torch.manual_seed(args.seed + dist.get_rank())
```

## Fix safety

There is no fix.

## Not seen

Equal seeds as such are fine, and not reported: masks are compared. Tensor-parallel ranks are not
judged unless a policy, or the placement of a DTensor, says what their masks must be. Of more than
65 ranks each is compared with the next 64. Only the first call of a step is compared, in the first
steps and then in ever fewer. Gaussian noise and masks of a few draws are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.runtime.acrossranks import clusters
from dropaudit.runtime.evidence import Evidence, evidence
from dropaudit.runtime.repeats import log_chance
from dropaudit.runtime.trace import Trace
from dropaudit.runtime.world import Across, ranks_text

rule = Rule(
    "DRP305",
    "mask-shared-across-ranks",
    __doc__,
)


@rule.in_trace
def same_mask_on_other_ranks(trace: Trace) -> Iterator[Observation]:
    """Equal masks of ranks that need their own."""
    for site in evidence(trace):
        equal = [
            (pair, chance)
            for pair in trace.across
            if pair.site == site.index and pair.policy == "distinct" and pair.equal
            if (chance := _log_chance(pair, site, trace.world)) <= math.log(site.alpha)
        ]
        ranks = {rank for pair, _ in equal for rank in (pair.first, pair.second)}
        joined = [(pair.first, pair.second) for pair, _ in equal]
        for together in clusters(joined, sorted(ranks)):
            pairs = [(pair, chance) for pair, chance in equal if pair.first in together]
            worst, chance = min(pairs, key=lambda item: (item[1], item[0].first))
            compared = worst.equal + worst.differing
            same = "began from the same random state" if worst.by_state else "used the same mask"
            yield site.observe(
                f"{site.name} {same} on {ranks_text(together)} in {worst.equal:,} of "
                f"{compared:,} steps that were compared, first in step {worst.first_equal}; the "
                f"ranks of {worst.group} must have masks of their own",
                ranks=len(together),
                equal=worst.equal,
                compared=compared,
                draws=worst.joint,
                log_chance=chance if math.isfinite(chance) else None,
            )


@rule.in_trace
def other_mask_on_a_replica(trace: Trace) -> Iterator[Observation]:
    """Masks that differ although ranks must share them."""
    for site in evidence(trace):
        apart = [
            pair
            for pair in trace.across
            if pair.site == site.index and pair.policy == "identical" and pair.differing
        ]
        ranks = {rank for pair in apart for rank in (pair.first, pair.second)}
        if apart:
            worst = max(apart, key=lambda pair: pair.differing)
            yield site.observe(
                f"{site.name} used other masks on each of {ranks_text(tuple(ranks))} in "
                f"{worst.differing:,} of {worst.equal + worst.differing:,} steps that were "
                f"compared, first in step {worst.first_differing}; the ranks of {worst.group} must "
                f"share one",
                ranks=len(ranks),
                differing=worst.differing,
                compared=worst.equal + worst.differing,
            )


def _log_chance(pair: Across, site: Evidence, world: int) -> float:
    """Log of a bound on the chance of such a pair among independent masks; random states that are
    equal are no chance at all."""
    if pair.by_state:
        return -math.inf
    if site.drop_rate in (None, 0.0, 1.0):
        return 0.0
    pairs = max(world * (world - 1) // 2, 1)
    compared = pair.equal + pair.differing
    return log_chance(pair.equal, compared, pair.joint, site) + math.log(pairs)
