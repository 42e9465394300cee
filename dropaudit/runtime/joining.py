"""The traces of many ranks, as one: each site once, its figures from all of them. Needs no torch.

Sites are the same where module, line and kind are. What says how a site is built (its p, its
scale) must agree: where it does not, the site stays apart, so that an error on one rank is not
averaged away. Draws are added up over ranks whose masks differ; of ranks that share a mask one is
counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from dropaudit.findings import Location
from dropaudit.runtime.acrossranks import BY_STATE, Pair, clusters, compare_all, verdicts
from dropaudit.runtime.siteunion import agree, union
from dropaudit.runtime.trace import Shared, Site, Trace, Unobserved
from dropaudit.runtime.world import Across, Group

_AUDIT = Location("<audit>", 1, 1, 1, 1)
Key = tuple[Any, ...]


def join(
    traces: Sequence[Trace],
    waited: float = 0.0,
    unsaid: str = "",
    unaudited: Sequence[int] = (),
) -> Trace:
    """One trace of all ranks.

    Args:
        traces: of different ranks of one program; the lowest rank says what all have in common.
        waited: seconds for which the others were waited for.
        unsaid: why others may be missing, if it is known.
        unaudited: ranks that never said that an audit runs on them.

    >>> joined = join([Trace(rank=0, world=2, steps=3), Trace(rank=1, world=2, steps=3)])
    >>> joined.steps, joined.world, joined.missing
    (3, 2, ())
    """
    traces = sorted(traces, key=lambda trace: trace.rank)
    first, world = traces[0], traces[0].world
    groups = _groups(traces)
    heard = {trace.rank for trace in traces}
    unaudited = tuple(rank for rank in sorted(unaudited) if rank not in heard)
    missing = tuple(rank for rank in range(world) if rank not in {*heard, *unaudited})
    rows = _rows(traces)
    sites: list[Site] = []
    across: list[Across] = []
    unobserved: list[Unobserved] = []
    places: dict[tuple[int, int], int] = {}
    for row in rows:
        pairs = compare_all({r: s.fingerprints for r, _, s in row}, row[0][2].kind in BY_STATE)
        held = _own_groups(row)
        found = verdicts(len(sites), pairs, held or groups, world)
        across += found
        if not found and _is_blind(row, pairs, held or groups):
            unobserved.append(_not_compared(row[0][2]))
        for part in _parts(row):
            places.update({(rank, index): len(sites) for rank, index, _ in part})
            sites.append(_site(part, pairs, len(traces)))
    unobserved += [_silent(rank, waited, unsaid) for rank in missing]
    unobserved += [_unaudited(rank) for rank in unaudited]
    unobserved += _unused(groups, first)
    return replace(
        first,
        steps=max(trace.steps for trace in traces),
        audited_steps=max(trace.audited_steps for trace in traces),
        forwards=sum(trace.forwards for trace in traces),
        models=_first_of(traces, lambda trace: trace.models),
        devices=_first_of(traces, lambda trace: trace.devices),
        sites=tuple(sites),
        shared=_shared(traces, places),
        idle=_idle(traces, sites),
        evaluations=_first_of(traces, lambda t: t.evaluations, ("step", "forwards", "times")),
        switched=_first_of(traces, lambda t: t.switched, ("first_step", "steps")),
        divided=_first_of(traces, lambda trace: trace.divided, ("calls",)),
        unobserved=(
            *_first_of(traces, lambda trace: trace.unobserved, ("calls",)),
            *unobserved,
        ),
        groups=groups,
        across=tuple(across),
        missing=missing,
        unaudited=unaudited,
        joined=True,
    )


Row = list[tuple[int, int, Site]]
"""One site on several ranks: the rank, the index in its trace, the record."""


def _rows(traces: Sequence[Trace]) -> list[Row]:
    """The records of one site together, in the order of the first rank that has it."""
    rows: dict[Key, Row] = {}
    for trace in traces:
        seen: Counter[Key] = Counter()
        for index, site in enumerate(trace.sites):
            built = (site.module, site.class_name, site.kind, site.function)
            key: Key = (*built, site.where.path, site.where.line)
            seen[key] += 1
            rows.setdefault((*key, seen[key]), []).append((trace.rank, index, site))
    return list(rows.values())


def _parts(row: Row) -> list[Row]:
    """A site whose ranks agree on how it is built, once; else the ranks that agree together."""
    parts: list[Row] = []
    for item in row:
        for part in parts:
            if agree(part[0][2], item[2]):
                part.append(item)
                break
        else:
            parts.append([item])
    return parts


def _site(part: Row, pairs: dict[tuple[int, int], Pair], reported: int) -> Site:
    ranks = [rank for rank, _, _ in part]
    joined = [
        pair
        for pair, seen in pairs.items()
        if set(pair) <= set(ranks) and not seen.differing  # not shown to differ: counted once
    ]
    counted = {cluster[0] for cluster in clusters(joined, ranks)}
    apart = () if len(ranks) == reported else tuple(ranks)
    return union(
        [site for _, _, site in part],
        [rank in counted for rank in ranks],
        ranks=apart,
        choice=_cost(len(counted), len(ranks)),
    )


def _cost(counted: int, ranks: int) -> float:
    """What the choice of ranks costs, in nats: it looks at the masks that are tested then.

    The tests are made on a mixture of e-processes, one for each choice; all of the ranks and one of
    them weigh a third each, the others share the rest.
    """
    if ranks == 1:
        return 0.0
    return math.log(3) + (0.0 if counted in (1, ranks) else (ranks - 1) * math.log(2))


def _groups(traces: Sequence[Trace]) -> tuple[Group, ...]:
    return tuple(dict.fromkeys(group for trace in traces for group in trace.groups))


def _own_groups(row: Row) -> tuple[Group, ...]:
    return tuple(dict.fromkeys(group for _, _, site in row for group in site.groups))


def _is_blind(row: Row, pairs: dict[tuple[int, int], Pair], groups: Sequence[Group]) -> bool:
    """Whether masks that should have been compared were not."""
    asked = sum(site.training.asked > 0 for _, _, site in row) > 1
    of_interest = not groups or any(group.policy != "ignore" for group in groups)
    kinds = row[0][2].kind not in ("noise", "region")
    return asked and of_interest and kinds and not any(p.compared for p in pairs.values())


def _not_compared(site: Site) -> Unobserved:
    return Unobserved(
        module=site.module,
        what=f"whether ranks share the masks of {site.function}",
        reason="no two ranks kept a mask of one step and one shape",
        advice="audit more steps, or give all ranks batches of one shape",
        where=site.where,
    )


def _silent(rank: int, waited: float, unsaid: str) -> Unobserved:
    return Unobserved(
        module="",
        what=f"rank {rank}",
        reason=unsaid or f"it died, or sent no report within {waited:.0f} s",
        advice="look at what it printed; `patience` is how long it is waited for",
        where=_AUDIT,
    )


def _unaudited(rank: int) -> Unobserved:
    return Unobserved(
        module="",
        what=f"rank {rank}",
        reason="no audit ran on it",
        advice='audit on every rank, or say ranks="alone" where one is enough',
        where=_AUDIT,
    )


def _unused(groups: Sequence[Group], first: Trace) -> list[Unobserved]:
    """Policies for ranks that do not exist."""
    return [
        Unobserved(
            module="",
            what=f"the policy {group.policy!r} of {group.name}",
            reason=f"there are {first.world} ranks, counted from 0",
            advice="name ranks that exist",
            where=_AUDIT,
        )
        for group in groups
        if any(rank >= first.world for rank in group.ranks)
    ]


def _shared(traces: Sequence[Trace], places: dict[tuple[int, int], int]) -> tuple[Shared, ...]:
    """Two sites with equal masks: as the rank says that saw it most often."""
    found: dict[tuple[int, int], list[Shared]] = defaultdict(list)
    for trace in traces:
        for shared in trace.shared:
            one, two = places[trace.rank, shared.first], places[trace.rank, shared.second]
            if one != two:
                found[one, two].append(replace(shared, first=one, second=two))
    return tuple(max(all_, key=lambda s: (s.times, -s.compared)) for all_ in found.values())


def _idle(traces: Sequence[Trace], sites: Iterable[Site]) -> tuple[Any, ...]:
    """Modules that no rank called."""
    called = {site.module for site in sites if site.training.calls or site.eval.calls}
    idle = _first_of(traces, lambda trace: trace.idle, ("steps", "owner_ran"))
    return tuple(each for each in idle if each.module not in called)


def _first_of(
    traces: Sequence[Trace], records: Callable[[Trace], Iterable[Any]], but: tuple[str, ...] = ()
) -> tuple[Any, ...]:
    """The records of all ranks, those that differ by counts only (`but`) once."""
    found: dict[Any, Any] = {}
    for trace in traces:
        for record in records(trace):
            key = replace(record, **dict.fromkeys(but, 0)) if but else record
            found.setdefault(key, record)
    return tuple(found.values())
