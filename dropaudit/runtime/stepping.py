"""In what mode the dropout of a model was when an optimizer updated its parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dropaudit.runtime.places import location
from dropaudit.runtime.trace import Switched
from dropaudit.runtime.tree import Tree

_SHOWN = 8


@dataclass
class _Pass:
    """The calls with gradient of one model since its last optimizer step."""

    where: tuple[str, int]
    training: bool
    on: dict[nn.Module, None] = field(default_factory=dict)
    off: dict[nn.Module, None] = field(default_factory=dict)


class Stepping:
    """Which dropout modules ran in which mode, from one optimizer step to the next."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._passes: dict[nn.Module, _Pass] = {}
        self._trained_before: set[int] = set()
        self._records: dict[tuple[Any, ...], Switched] = {}

    def enter(self, root: nn.Module, where: tuple[str, int]) -> None:
        """An outermost call begins."""
        if torch.is_grad_enabled():
            self._passes[root] = _Pass(where, root.training)

    def called(self, root: nn.Module | None, module: nn.Module) -> None:
        """A dropout module with p > 0 was called within an outermost call."""
        entry = None if root is None else self._passes.get(root)
        if entry is not None and torch.is_grad_enabled():
            (entry.on if module.training else entry.off)[module] = None

    def stepped(self, optimizer: torch.optim.Optimizer, step: int) -> list[nn.Module]:
        """An optimizer has updated its parameters; the models it holds."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        chosen = [
            (root, entry)
            for root, entry in self._passes.items()
            if any(id(p) in held for p in root.parameters())
        ]
        for root, entry in chosen:
            del self._passes[root]
            if entry.on or entry.off:
                self._record(root, entry, [other for other in chosen if other[0] is not root], step)
        return [root for root, _ in chosen]

    def records(self) -> tuple[Switched, ...]:
        """What was seen, like steps together."""
        return tuple(self._records.values())

    def _record(
        self, root: nn.Module, entry: _Pass, others: list[tuple[nn.Module, _Pass]], step: int
    ) -> None:
        serial = self._tree.serial(root)
        partners = tuple(
            type(other).__name__ for other, theirs in others if theirs.on and not theirs.off
        )
        alone = bool(entry.training and not entry.on) and not any(
            module.training for module in root.modules() if module is not root
        )
        key = (
            *(serial, entry.where, entry.training, len(entry.on), len(entry.off)),
            *(bool(serial in self._trained_before), partners, alone),
        )
        old = self._records.get(key)
        self._records[key] = (
            replace(old, steps=old.steps + 1)
            if old is not None
            else Switched(
                model=type(root).__name__,
                where=location(*entry.where),
                root_training=entry.training,
                dropouts=len(entry.on) + len(entry.off),
                in_eval=len(entry.off),
                examples=tuple(
                    self._tree.name(module) or type(module).__name__
                    for module in list(entry.off)[:_SHOWN]
                ),
                first_step=step + 1,
                steps=1,
                trained_before=serial in self._trained_before,
                partners=partners,
                root_alone=alone,
            )
        )
        if entry.on:
            self._trained_before.add(serial)
