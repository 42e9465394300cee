"""Which rank of how many this process is, and which of the others it works with."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from dropaudit.runtime.policies import Policies
from dropaudit.runtime.world import Group

_dist: Any = torch.distributed


class Ranks:
    """What one rank knows of the others. Asks torch; sends nothing."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self.rank, self.world = _launched()
        self._groups: dict[tuple[str, tuple[int, ...]], Group] = {}
        self._seen: set[int] = set()

    @property
    def many(self) -> bool:
        """Whether there are other ranks, and they are of interest."""
        return self.world > 1 and not self._policies.alone

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that were found, and those that were given."""
        return (*self._policies.groups(self.world), *self._groups.values())

    def notice(self) -> None:
        """Look whether a process group has been made since."""
        if self.world == 1 and is_initialized():
            self.rank, self.world = _dist.get_rank(), _dist.get_world_size()

    def enter(self, root: nn.Module, serial: int) -> None:
        """An outermost module is called: note, once, how it is spread over ranks."""
        self.notice()
        if not self.many or serial in self._seen:
            return
        self._seen.add(serial)
        for module in root.modules():
            self._wrapper(module)
        for parameter in root.parameters():
            self._mesh(getattr(parameter, "device_mesh", None))

    def of_tensor(self, x: Tensor) -> tuple[Group, ...]:
        """What a DTensor says: replicas must be treated alike, shards must not."""
        mesh, found = getattr(x, "device_mesh", None), []
        for dim, placement in enumerate(getattr(x, "placements", ())):
            name, ranks = _dimension(mesh, dim)
            if len(ranks) > 1 and not placement.is_partial():
                told = self._policies.of_dimension(name, ranks)
                policy = "identical" if placement.is_replicate() else "distinct"
                found.append(told if told.given else Group(name, ranks, policy))
        return tuple(found)

    def _wrapper(self, module: nn.Module) -> None:
        """Wrappers of torch that spread data: their ranks see other data."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            self._data("DDP", tuple(_dist.get_process_group_ranks(module.process_group)))
        state = getattr(module, "_get_fsdp_state", None)
        if state is None:
            return
        info = getattr(getattr(state(), "_fsdp_param_group", None), "mesh_info", None)
        mesh = getattr(info, "mesh", None)
        if mesh is not None:
            if mesh.ndim > 1:
                self._data("FSDP", tuple(sorted(mesh.mesh.flatten().tolist())))
            for dim in range(mesh.ndim):
                self._data(*_dimension(mesh, dim, "FSDP"))

    def _data(self, name: str, ranks: tuple[int, ...]) -> None:
        group = self._policies.of_dimension(name, ranks)
        group = group if group.given else Group(name, ranks, "distinct")
        known = {ranks for _, ranks in self._groups}
        if len(ranks) > 1 and ranks not in known:
            self._groups[name, ranks] = group

    def _mesh(self, mesh: Any) -> None:
        """The mesh of a DTensor parameter: what no wrapper explains goes by its names."""
        for dim in range(0 if mesh is None else mesh.ndim):
            name, ranks = _dimension(mesh, dim)
            known = {ranks for _, ranks in self._groups}
            if len(ranks) > 1 and ranks not in known:
                self._groups[name, ranks] = self._policies.of_dimension(name, ranks)


def is_initialized() -> bool:
    """Whether there is a process group now."""
    return bool(_dist.is_available() and _dist.is_initialized())


def _launched() -> tuple[int, int]:
    """Rank and world size that torchrun gave this process; else those of the process group."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        try:
            return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        except (KeyError, ValueError):
            pass
    if is_initialized():
        return _dist.get_rank(), _dist.get_world_size()
    return 0, 1


def _dimension(mesh: Any, dim: int, unnamed: str = "") -> tuple[str, tuple[int, ...]]:
    """The name of a dimension of a mesh, and the ranks along it that this one belongs to."""
    names = mesh.mesh_dim_names
    name = names[dim] if names else (unnamed or f"mesh dimension {dim}")
    return name, tuple(sorted(_dist.get_process_group_ranks(mesh.get_group(dim))))
