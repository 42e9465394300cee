"""Evaluation phases: runs of forward passes without gradient, told apart from parts of a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from dropaudit.runtime.places import location, runs_under
from dropaudit.runtime.trace import Evaluation

_SHOWN = 8
_MOST_TENSORS = 64
_LEAST_STEPS = 3
_NEARLY_EVERY = 0.6


@dataclass
class _Phase:
    """A run of outermost calls of one model without gradient."""

    model: str
    root: ref[nn.Module]
    where: tuple[str, int]
    step: int
    root_training: bool
    statistics_update: bool
    after: int
    """How many backward passes came before."""
    forwards: int = 0
    dropping: dict[str, None] = field(default_factory=dict)
    tensors: list[ref[Tensor]] = field(default_factory=list)
    used: bool = False
    """A call that carries gradients took one of its tensors."""

    def holds(self, ids: set[int]) -> bool:
        """Whether one of its tensors, still alive, is among those."""
        return any((tensor := each()) is not None and id(tensor) in ids for each in self.tensors)


class Phases:
    """Follows forward passes without gradient through the steps of a run."""

    def __init__(self) -> None:
        self._phases: list[_Phase] = []
        self._open: _Phase | None = None
        self._backwards = 0
        self._trained: set[int] = set()
        self._steps = 0
        self._dropping: dict[str, None] = {}

    def enter(self, root: nn.Module, inputs: Any, where: tuple[str, int], step: int) -> None:
        """An outermost call begins, in training step `step` (from 0)."""
        self._dropping = {}
        tensors = list(tensors_in(inputs))
        if torch.is_grad_enabled():
            taken = {id(tensor) for tensor in tensors}
            for past in self._phases[-4:]:
                past.used |= past.step == step and past.holds(taken)
            return
        phase = self._open
        if phase is None or phase.root() is not root or phase.step != step:
            lazy = any(
                isinstance(p, nn.parameter.UninitializedParameter) for p in root.parameters()
            )
            update = runs_under(frozenset({"update_bn"}), "swa_utils")
            phase = _Phase(
                *(type(root).__name__, ref(root), where, step, root.training),
                statistics_update=lazy or update,
                after=self._backwards,
            )
            self._phases.append(phase)
            self._open = phase
            self._forget_silent()
        phase.forwards += 1
        self._keep(phase, tensors)

    def leave(self, root: nn.Module, output: Any) -> None:
        """The outermost call has ended."""
        phase = self._open
        if torch.is_grad_enabled() or phase is None or phase.root() is not root:
            return
        phase.dropping.update(self._dropping)
        self._keep(phase, tensors_in(output))

    def dropped(self, path: str) -> None:
        """A site dropped, in training mode, within the outermost call that runs."""
        self._dropping[path] = None

    def backward(self, root: nn.Module | None) -> None:
        """A backward pass reached the output of a model."""
        self._open = None
        self._backwards += 1
        if root is not None:
            self._trained.add(id(root))

    def stepped(self, roots: Iterable[nn.Module]) -> None:
        """An optimizer stepped the parameters of these models."""
        self._open = None
        self._steps += 1
        self._trained.update(id(root) for root in roots)

    def records(self) -> tuple[Evaluation, ...]:
        """What is known at the end: like phases together."""
        merged: dict[tuple[Any, ...], Evaluation] = {}
        usual = self._usual()
        for phase in self._phases:
            root = phase.root()
            trailing = phase.after == self._backwards
            inside = phase.used or (not trailing and phase.where in usual)
            shown = tuple(phase.dropping)[:_SHOWN]
            key = (phase.model, phase.where, bool(shown), phase.root_training, trailing, inside)
            old = merged.get(key)
            merged[key] = Evaluation(
                model=phase.model,
                where=location(*phase.where),
                step=phase.step if old is None else old.step,
                forwards=phase.forwards + (0 if old is None else old.forwards),
                dropping=shown,
                sites=len(phase.dropping),
                root_training=phase.root_training,
                trained=root is not None and id(root) in self._trained,
                trailing=trailing,
                inside_step=inside,
                statistics_update=phase.statistics_update,
                times=1 if old is None else old.times + 1,
            )
        return tuple(merged.values())

    def _usual(self) -> set[tuple[str, int]]:
        """Where phases begin that stand before nearly every training step: parts of the step."""
        steps: Mapping[tuple[str, int], set[int]] = {}
        found: dict[tuple[str, int], set[int]] = dict(steps)
        for phase in self._phases:
            if phase.after < self._backwards:
                found.setdefault(phase.where, set()).add(phase.step)
        total = max(self._steps, 1)
        return {
            where
            for where, seen in found.items()
            if len(seen) >= _LEAST_STEPS and len(seen) >= _NEARLY_EVERY * total
        }

    def _forget_silent(self) -> None:
        """Keep the list short in a long run: what dropped nothing says nothing."""
        if len(self._phases) > 4096:
            self._phases = [p for p in self._phases[:-64] if p.dropping] + self._phases[-64:]

    @staticmethod
    def _keep(phase: _Phase, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if len(phase.tensors) < _MOST_TENSORS:
                phase.tensors.append(ref(tensor))


def tensors_in(value: Any, depth: int = 3) -> Iterable[Tensor]:
    """The tensors in nested tuples, lists and mappings (to a depth of 3)."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item, depth - 1)
    elif depth and isinstance(value, (tuple, list)):
        for item in value[:16]:
            yield from tensors_in(item, depth - 1)
