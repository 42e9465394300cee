"""Records of an audit on many ranks: parts of masks, who must share them, and who did."""

from __future__ import annotations

from dataclasses import dataclass

POLICIES = ("distinct", "identical", "ignore")
"""What the masks of the ranks of one process group must be."""


@dataclass(frozen=True)
class Fingerprint:
    """Part of the mask of one call, to be compared with that of another rank.

    `kept` and `told` are bits as hexadecimal digits, one for each of at most 512 draws at fixed
    positions: whether it was kept, and whether the input told so. Empty where masks do not show.
    """

    step: int
    """From 1."""
    shape: str
    """Of the call, and along which dimensions decisions differ."""
    kept: str = ""
    told: str = ""
    state: str = ""
    """Digest of the random state that the call began from, where it was read."""


@dataclass(frozen=True)
class Group:
    """Ranks that work together, and what their masks must be at one site: see `POLICIES`."""

    name: str
    """As the user, or a DeviceMesh, calls it: "dp", "tp", "DDP"."""
    ranks: tuple[int, ...]
    policy: str
    given: bool = False
    """Whether the policy is the user's."""


@dataclass(frozen=True)
class Across:
    """The masks of two ranks at one site, compared step by step."""

    site: int
    """Index into `Trace.sites`."""
    first: int
    second: int
    """The ranks."""
    group: str
    policy: str
    equal: int
    """Steps in which they were equal."""
    differing: int
    """Steps in which they were not."""
    joint: int
    """Draws on which both were informative, at the least, in a step in which they were equal."""
    first_equal: int | None
    """The first step in which they were equal."""
    first_differing: int | None
    by_state: bool = False
    """Whether random states were compared, since masks of such sites do not show."""


def ranks_text(ranks: tuple[int, ...]) -> str:
    """Ranks as a sentence names them.

    >>> ranks_text((0, 1, 2, 5)), ranks_text((3,))
    ('ranks 0-2, 5', 'rank 3')
    """
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    shown = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(shown)}"
