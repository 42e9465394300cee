"""One site on many ranks: their records, added up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from math import sqrt
from typing import Any

from dropaudit.runtime.recompute import Recompute
from dropaudit.runtime.trace import Backward, Forward, Freshness, Site

_SCALE_APART = 1e-3


def agree(one: Site, other: Site) -> bool:
    """Whether two records can be of one site that is built alike on both ranks."""
    built = ("p", "p_least", "p_most", "dtype", "is_module", "registered", "complemented")
    if any(getattr(one, name) != getattr(other, name) for name in built):
        return False
    for mine, theirs in ((one.training, other.training), (one.eval, other.eval)):
        spread = max(mine.spread or 0.0, theirs.spread or 0.0)
        if mine.scale and theirs.scale and spread < _SCALE_APART and _is_steady(mine, theirs):
            slack = max(_SCALE_APART, 4 * one.tolerance)
            if abs(mine.scale / theirs.scale - 1) > slack:
                return False
    return True


def _is_steady(*forwards: Forward) -> bool:
    """Whether the scale is one constant, not computed from each mask."""
    return all(
        f.scale_low is not None
        and f.scale_high is not None
        and f.scale_high - f.scale_low <= _SCALE_APART * abs(f.scale_high)
        for f in forwards
    )


def union(
    sites: Sequence[Site], counted: Sequence[bool], *, ranks: tuple[int, ...], choice: float
) -> Site:
    """The record of a site on all its ranks.

    Args:
        sites: its records, one a rank.
        counted: which of them have masks of their own: what is tested as a sample is theirs.
        ranks, choice: as in `Site`.
    """
    first = sites[0]
    own = [site for site, its_own in zip(sites, counted, strict=True) if its_own]
    return replace(
        first,
        training=_forward([s.training for s in sites], [s.training for s in own]),
        eval=_forward([s.eval for s in sites], [s.eval for s in own]),
        probed_eval=next((s.probed_eval for s in sites if s.probed_eval is not None), None),
        backward=_backward([s.backward for s in sites]),
        freshness=_freshness([s.freshness for s in own]),
        follows=all(s.follows for s in sites),
        inside=next((s.inside for s in sites if s.inside), ""),
        no_gradient=sum(s.no_gradient for s in sites),
        unlinked=sum(s.unlinked for s in sites),
        corrupted=sum(s.corrupted for s in sites),
        host_mask=sum(s.host_mask for s in sites),
        repeated_on_result=sum(s.repeated_on_result for s in sites),
        memory=max(s.memory for s in sites),
        fingerprints=(),
        ranks=ranks,
        choice=choice,
        p_changed_inside=any(s.p_changed_inside for s in sites),
        built_in_forward=any(s.built_in_forward for s in sites),
        switched=any(s.switched for s in sites),
        always_on=any(s.always_on for s in sites),
        recompute=_recompute([s.recompute for s in sites]),
    )


def _forward(every: Sequence[Forward], own: Sequence[Forward]) -> Forward:
    """Calls are all ranks' calls; what is a sample comes from those with masks of their own."""
    weights = [float(f.elements) for f in own]
    scale = _mean([f.scale for f in own], weights)
    mean = _mean([f.mean for f in own], weights)
    return Forward(
        calls=sum(f.calls for f in every),
        acted=sum(f.acted for f in every),
        asked=sum(f.asked for f in every),
        told_off=sum(f.told_off for f in every),
        told_on=sum(f.told_on for f in every),
        first_step=min((f.first_step for f in every if f.first_step is not None), default=None),
        elements=sum(f.elements for f in own),
        draws=sum(f.draws for f in own),
        drops=sum(f.drops for f in own),
        scale=scale,
        scale_low=min((f.scale_low for f in every if f.scale_low is not None), default=None),
        scale_high=max((f.scale_high for f in every if f.scale_high is not None), default=None),
        spread=_mean([f.spread for f in own], weights),
        mean=mean,
        mean_error=_error([f.mean_error for f in own], weights),
        mixed=sum(f.mixed for f in every),
        units=sum(f.units for f in every),
    )


def _backward(every: Sequence[Backward]) -> Backward:
    return Backward(
        calls=sum(b.calls for b in every),
        faulty=sum(b.faulty for b in every),
        first_fault=min((b.first_fault for b in every if b.first_fault is not None), default=None),
        elements=sum(b.elements for b in every),
        broken=sum(b.broken for b in every),
        revived=sum(b.revived for b in every),
        lost=sum(b.lost for b in every),
        dropped=sum(b.dropped for b in every),
        scale=_mean([b.scale for b in every], [float(b.elements) for b in every]),
        worst=max(b.worst for b in every),
        products=sum(b.products for b in every),
        broken_products=sum(b.broken_products for b in every),
        worst_product=max(b.worst_product for b in every),
        recomputed=any(b.recomputed for b in every),
    )


def _freshness(own: Sequence[Freshness]) -> Freshness:
    return Freshness(
        compared=sum(f.compared for f in own),
        repeats=sum(f.repeats for f in own),
        joint=min((f.joint for f in own if f.repeats), default=0),
        reseeded=sum(f.reseeded for f in own),
        first_step=min((f.first_step for f in own if f.first_step is not None), default=None),
    )


def _recompute(every: Sequence[Recompute]) -> Recompute:
    worst = max(every, key=lambda r: r.redrawn)
    counts = {
        each.name: sum(getattr(r, each.name) for r in every)
        for each in fields(Recompute)
        if each.type == "int"
    }
    first = min((r.first_step for r in every if r.first_step is not None), default=None)
    values: dict[str, Any] = {**counts, "first_step": first}
    return replace(worst, **values)


def _mean(values: Iterable[float | None], weights: Iterable[float]) -> float | None:
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None and w]
    total = sum(w for _, w in known)
    return sum(v * w for v, w in known) / total if known else None


def _error(values: Iterable[float | None], weights: Iterable[float]) -> float | None:
    """Standard error of a weighted mean of independent means."""
    known = [(v, w) for v, w in zip(values, weights, strict=True) if v is not None and w]
    total = sum(w for _, w in known)
    return sqrt(sum((v * w) ** 2 for v, w in known)) / total if known else None
