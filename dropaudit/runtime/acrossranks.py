"""The masks of ranks, compared from their fingerprints: which were equal, and which had to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dropaudit.runtime.world import Across, Fingerprint, Group

_WINDOW = 64
"""Each rank is compared with so many after it."""
BY_STATE = ("attention", "recurrent")


@dataclass(frozen=True)
class Pair:
    """What the fingerprints of two ranks at one site say."""

    equal: int = 0
    differing: int = 0
    joint: int = 0
    first_equal: int | None = None
    first_differing: int | None = None
    by_state: bool = False

    @property
    def compared(self) -> int:
        return self.equal + self.differing


def compare(first: Sequence[Fingerprint], second: Sequence[Fingerprint], by_state: bool) -> Pair:
    """Two ranks at one site, in the steps that both kept something of.

    Masks are compared on the draws that both inputs showed. Where shapes differ, equal random
    states mean equal masks as far as they go; different ones mean nothing, unless the site has no
    mask to be seen (`by_state`).
    """
    others = {each.step: each for each in second}
    equal: list[tuple[int, int]] = []
    differing: list[int] = []
    states = by_state
    for one in first:
        two = others.get(one.step)
        if two is None:
            continue
        joint, apart = _bits(one, two)
        same_state = bool(one.state) and one.state == two.state
        if joint:
            differing += [one.step] if apart else []
            equal += [] if apart else [(one.step, joint)]
        elif same_state and (by_state or one.shape != two.shape):
            equal.append((one.step, 0))
            states = True
        elif by_state and one.state and two.state:
            differing.append(one.step)
    return Pair(
        equal=len(equal),
        differing=len(differing),
        joint=min((joint for _, joint in equal if joint), default=0),
        first_equal=min((step for step, _ in equal), default=None),
        first_differing=min(differing, default=None),
        by_state=states,
    )


def compare_all(
    fingerprints: Mapping[int, Sequence[Fingerprint]], by_state: bool
) -> dict[tuple[int, int], Pair]:
    """All pairs of ranks, the lower one first; of very many, only neighbors."""
    ranks = sorted(fingerprints)
    return {
        (one, two): compare(fingerprints[one], fingerprints[two], by_state)
        for at, one in enumerate(ranks)
        for two in ranks[at + 1 : at + 1 + _WINDOW]
    }


def group_of(groups: Sequence[Group], one: int, two: int, world: int) -> Group | None:
    """The group whose policy holds for two ranks; None if none says anything about them.

    What the user gave comes first, then the smallest group. Without any group at all, every rank
    is taken to see other data.
    """
    both = [group for group in groups if one in group.ranks and two in group.ranks]
    if both:
        return min(both, key=lambda group: (not group.given, len(group.ranks), group.name))
    return None if groups else Group("all ranks", tuple(range(world)), "distinct")


def verdicts(
    site: int, pairs: Mapping[tuple[int, int], Pair], groups: Sequence[Group], world: int
) -> list[Across]:
    """The pairs that a policy speaks of: each rank with the next one of a kind.

    Of many equal ranks a chain says as much as all pairs, in less space.
    """
    best: dict[tuple[int, str, bool], tuple[tuple[int, int], Group, int]] = {}
    for (one, two), pair in sorted(pairs.items()):
        group = group_of(groups, one, two, world)
        if group is None or group.policy == "ignore" or not pair.compared:
            continue
        against = pair.equal if group.policy == "distinct" else pair.differing
        key, weight = (one, group.policy, against > 0), against * max(pair.joint, 1)
        if key not in best or weight > best[key][2]:
            best[key] = ((one, two), group, weight)
    return [
        Across(
            *(site, *ranks, group.name, group.policy, pairs[ranks].equal, pairs[ranks].differing),
            *(pairs[ranks].joint, pairs[ranks].first_equal, pairs[ranks].first_differing),
            pairs[ranks].by_state,
        )
        for ranks, group, _ in best.values()
    ]


def clusters(pairs: Sequence[tuple[int, int]], ranks: Sequence[int]) -> list[tuple[int, ...]]:
    """The ranks, those that `pairs` connect together, sorted.

    >>> clusters([(0, 2)], [0, 1, 2])
    [(0, 2), (1,)]
    """
    leader = {rank: rank for rank in ranks}
    for one, two in pairs:
        low, high = sorted((leader[one], leader[two]))
        leader = {rank: low if lead == high else lead for rank, lead in leader.items()}
    heads = sorted(set(leader.values()))
    return [tuple(r for r in sorted(ranks) if leader[r] == head) for head in heads]


def _bits(one: Fingerprint, two: Fingerprint) -> tuple[int, int]:
    """Draws that both tell of, and those of them in which the masks differ."""
    if not one.told or one.shape != two.shape or len(one.told) != len(two.told):
        return 0, 0
    joint = int(one.told, 16) & int(two.told, 16)
    apart = (int(one.kept, 16) ^ int(two.kept, 16)) & joint
    return joint.bit_count(), apart.bit_count()
