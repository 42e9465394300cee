"""What the user says about the masks of ranks: distinct, identical, of no interest, or alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropaudit.runtime.world import POLICIES, Group

ALONE = "alone"
"""No ranks are compared and nothing is gathered: each rank has a report of its own."""
_PARALLEL = ("dp", "ddp", "fsdp", "hsdp", "data", "replicate", "shard", "batch")
"""Words in names of mesh dimensions whose ranks get other data, and need other masks."""


@dataclass(frozen=True)
class Policies:
    """The policies that the user gave, by name of a mesh dimension or by ranks.

    >>> policies = Policies.of({"tp": "identical", (0, 1): "ignore"})
    >>> policies.of_dimension("tp", (0, 1)).policy, policies.of_dimension("dp", (0, 2)).policy
    ('identical', 'distinct')
    """

    alone: bool = False
    every: str | None = None
    """One policy for all ranks."""
    by_name: tuple[tuple[str, str], ...] = ()
    by_ranks: tuple[tuple[tuple[int, ...], str], ...] = ()

    @classmethod
    def of(cls, option: Any) -> Policies:
        """What the option `ranks` of an audit means.

        Args:
            option: None, a policy, "alone", or policies by name of a mesh dimension, by a tuple of
                ranks, or by process group.

        Raises:
            ValueError: for a policy that does not exist.
            TypeError: for a group that is none of those.
        """
        if option is None:
            return cls()
        if option == ALONE:
            return cls(alone=True)
        if isinstance(option, str):
            return cls(every=_policy(option))
        if not isinstance(option, Mapping):
            raise TypeError(f"ranks must be a policy or a mapping to policies, and is {option!r}")
        names: list[tuple[str, str]] = []
        ranks: list[tuple[tuple[int, ...], str]] = []
        for key, value in option.items():
            if isinstance(key, str):
                names.append((key, _policy(value)))
            else:
                ranks.append((_ranks(key), _policy(value)))
        return cls(by_name=tuple(names), by_ranks=tuple(ranks))

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> Policies:
        """What a command line says: "ignore", "tp=identical", "0,1=distinct".

        >>> Policies.parse(("tp=ignore", "0,1=identical")).by_ranks
        (((0, 1), 'identical'),)
        """
        given: dict[Any, str] = {}
        for text in texts:
            name, equals, policy = text.rpartition("=")
            if not equals:
                if len(texts) > 1:
                    raise ValueError(f"{text!r} is meant for all ranks, and cannot be combined")
                return cls.of(text)
            parts = name.split(",")
            numbers = all(part.strip().isdecimal() for part in parts)
            given[tuple(map(int, parts)) if numbers else name] = policy
        return cls.of(given) if given else cls()

    def groups(self, world: int) -> tuple[Group, ...]:
        """The groups that need no mesh to be known."""
        every = () if self.every is None else (tuple(range(world)),)
        return (
            *(Group("all ranks", ranks, self.every or "", True) for ranks in every),
            *(Group(f"ranks {_text(r)}", r, policy, True) for r, policy in self.by_ranks),
        )

    def of_dimension(self, name: str, ranks: tuple[int, ...]) -> Group:
        """A dimension of a mesh: as the user says, else as its name says.

        Dimensions whose names do not speak of data are not judged: the ranks of a tensor-parallel
        group need equal masks where activations are replicated, and others where they are sharded.
        """
        given = dict(self.by_name).get(name)
        parallel = any(word in _PARALLEL for word in name.lower().split("_"))
        policy = given or ("distinct" if parallel else "ignore")
        return Group(name, ranks, policy, given is not None)


def _policy(value: object) -> str:
    if value not in POLICIES:
        known = ", ".join(map(repr, POLICIES))
        raise ValueError(f"a policy of ranks must be one of {known}, and is {value!r}")
    return str(value)


def _ranks(key: Any) -> tuple[int, ...]:
    if isinstance(key, (tuple, frozenset)) and all(type(rank) is int for rank in key):
        return tuple(sorted(key))
    from torch.distributed import ProcessGroup, get_process_group_ranks

    if isinstance(key, ProcessGroup):
        return tuple(sorted(get_process_group_ranks(key)))
    raise TypeError(
        "ranks are grouped by the name of a mesh dimension, by a tuple of ranks or by a process "
        f"group, not by {key!r}"
    )


def _text(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))
