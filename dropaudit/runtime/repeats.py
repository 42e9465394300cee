"""What the figures say of masks that came back: from step to step, or at another site."""

from __future__ import annotations

import math
from collections.abc import Iterator

from dropaudit.runtime.evidence import BY_STATE, Evidence
from dropaudit.runtime.trace import Shared, Trace


def repeat_code(seen: Evidence) -> str | None:
    """Which code explains that a mask came back, if chance does not."""
    fresh = seen.site.freshness
    if not fresh.repeats or seen.site.complemented:
        return None
    if seen.site.kind in BY_STATE:  # of random states, which chance does not repeat
        return "DRP304" if fresh.reseeded else "DRP306"
    if seen.drop_rate in (None, 0.0, 1.0):
        return None
    if log_chance(fresh.repeats, fresh.compared, fresh.joint, seen) > math.log(seen.alpha):
        return None
    return "DRP304" if fresh.reseeded else "DRP306"


def log_chance(
    repeats: int, compared: int, joint: int, seen: Evidence, other: Evidence | None = None
) -> float:
    """Log of a bound on the chance of so many repeats among independent masks.

    Two masks agree in one draw with chance p r + (1 - p)(1 - r), and the union over the ways to
    choose the pairs bounds the rest. Of the declared and the measured rates the worst is taken.
    """
    if other is None:
        pairs = [(p, p) for p in _rates(seen)]
    else:
        pairs = [(p, r) for p in _rates(seen) for r in _rates(other)]
    agree = max(p * r + (1 - p) * (1 - r) for p, r in pairs)
    ways = math.lgamma(compared + 1) - math.lgamma(repeats + 1)
    ways -= math.lgamma(max(compared - repeats, 0) + 1)
    return ways + repeats * joint * math.log(agree) if agree > 0 else -math.inf


def shared_masks(trace: Trace) -> Iterator[tuple[Evidence, Evidence, Shared]]:
    """The pairs of sites whose masks were equal, where neither chance nor a seed explains it."""
    for shared in trace.shared:
        first, second = Evidence(trace, shared.first), Evidence(trace, shared.second)
        if "DRP304" in (repeat_code(first), repeat_code(second)):
            continue
        if {first.drop_rate, second.drop_rate} & {None, 0.0, 1.0}:
            continue
        chance = log_chance(shared.times, shared.compared, shared.joint, first, second)
        if chance <= math.log(second.alpha):
            yield first, second, shared


def _rates(seen: Evidence) -> tuple[float, ...]:
    measured = () if seen.drop_rate is None else (seen.drop_rate,)
    return (*(seen.rates or ()), *measured)
