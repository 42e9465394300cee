"""Dropout that a model holds and never calls, though what holds it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import ref

from torch import nn

from dropaudit.runtime.places import location
from dropaudit.runtime.sites import is_torch_dropout, looks_like_dropout, rate
from dropaudit.runtime.trace import Idle
from dropaudit.runtime.tree import Tree


@dataclass
class _Watched:
    module: ref[nn.Module]
    owner: ref[nn.Module]
    called: bool = False
    ran: int = 0
    ran_now: bool = False
    lends_p: bool = False
    where: tuple[str, int] = ("", 0)


@dataclass
class IdleWatch:
    """Counts training steps in which a module ran and a dropout it holds did not."""

    tree: Tree
    _watched: dict[int, _Watched] = field(default_factory=dict)
    _by_owner: dict[int, list[_Watched]] = field(default_factory=dict)
    _roots: set[int] = field(default_factory=set)
    _ids: set[int] = field(default_factory=set)
    """Of modules that matter: looked up first, since it is asked for every module that runs."""

    def enter(self, root: nn.Module, where: tuple[str, int]) -> None:
        """An outermost call begins: its dropout is watched from now on."""
        serial = self.tree.serial(root)
        if serial in self._roots:
            return
        self._roots.add(serial)
        for owner in root.modules():
            for child in owner.children():
                if not (is_torch_dropout(child) or looks_like_dropout(child)) or not rate(child):
                    continue
                self._ids.update((id(child), id(owner)))
                key = self.tree.serial(child)
                if key not in self._watched:
                    entry = self._watched[key] = _Watched(ref(child), ref(owner), where=where)
                    self._by_owner.setdefault(self.tree.serial(owner), []).append(entry)

    def called(self, module: nn.Module, with_gradient: bool) -> None:
        """A module runs, in training: as a dropout, or (with gradient) as an owner of one."""
        if id(module) not in self._ids:
            return
        serial = self.tree.serial(module)
        entry = self._watched.get(serial)
        if entry is not None:
            entry.called = True
        if not with_gradient:
            return
        for each in self._by_owner.get(serial, ()):
            child = each.module()
            each.ran_now |= child is not None and child.training

    def lent(self, owner: nn.Module, p: float) -> None:
        """A functional dropout with rate `p` was called in `owner`."""
        for entry in self._by_owner.get(self.tree.serial(owner), ()):
            module = entry.module()
            if module is not None and rate(module) == p:
                entry.lends_p = True

    def stepped(self) -> None:
        """A training step has ended."""
        for entry in self._watched.values():
            entry.ran += entry.ran_now
            entry.ran_now = False

    def records(self) -> tuple[Idle, ...]:
        """The dropout that was never called."""
        found = []
        for entry in self._watched.values():
            module, owner = entry.module(), entry.owner()
            ran = entry.ran + entry.ran_now
            if entry.called or module is None or owner is None or not ran:
                continue
            path = self.tree.name(module) or type(module).__name__
            found.append(
                Idle(
                    module=path,
                    class_name=type(module).__name__,
                    p=rate(module) or 0.0,
                    owner=type(owner).__name__,
                    where=location(*entry.where, module=path),
                    steps=ran,
                    owner_ran=ran,
                    lends_p=entry.lends_p,
                )
            )
        return tuple(found)
