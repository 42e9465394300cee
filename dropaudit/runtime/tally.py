"""What the calls of one subject add up to, in the words of a trace."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dropaudit.runtime.measure import backward_sums, forward_sums, unit_sums
from dropaudit.runtime.sampling import Sampler
from dropaudit.runtime.totals import BackwardTotal, ForwardTotal
from dropaudit.runtime.trace import Backward, Forward, Freshness


@dataclass
class Tally:
    """Counts and sums over the calls of a subject with the declared drop probability `p`."""

    p: float | None
    training: Forward = field(default_factory=Forward)
    eval: Forward = field(default_factory=Forward)
    freshness: Freshness = field(default_factory=Freshness)
    no_gradient: int = 0
    host_mask: int = 0
    _sums: ForwardTotal = field(default_factory=ForwardTotal)
    _eval_sums: ForwardTotal = field(default_factory=ForwardTotal)
    _backward: BackwardTotal = field(default_factory=BackwardTotal)
    _sampler: Sampler = field(default_factory=lambda: Sampler(None))
    _last: Tensor | None = None

    @property
    def asked(self) -> bool:
        """Whether there is something to drop and something to keep."""
        return self.p is None or 0 < self.p < 1

    def call(self, *, acted: bool, filled: bool = True, elements: int = 0) -> int:
        """Count a call in training mode; its number, from 1. `elements` are seen without a mask."""
        old = self.training
        number = old.calls + 1
        self.training = replace(
            old,
            calls=number,
            acted=old.acted + acted,
            asked=old.asked + (filled and self.asked),
            first_step=number if acted and old.first_step is None else old.first_step,
            elements=old.elements + elements,
        )
        return number

    def eval_call(self, *, acted: bool) -> None:
        """Count a call in eval mode."""
        old = self.eval
        self.eval = replace(
            old,
            calls=old.calls + 1,
            acted=old.acted + acted,
            asked=old.asked + self.asked,
            first_step=1 if acted else old.first_step,
        )

    def forward(self, x: Tensor, y: Tensor, units: tuple[int, ...] | None) -> None:
        """Add input and output of a call; decisions differ along `units` (None: everywhere)."""
        rows = x.reshape(1, -1), y.reshape(1, -1)
        if units is None or x.dim() <= max(units, default=0):
            self._sums.add(_first(forward_sums(*rows)))
        else:
            unit, count = self._sampler.units(tuple(x.shape), units, x.device)
            self._sums.add(_first(unit_sums(*rows, unit, count)))

    def eval_forward(self, x: Tensor, y: Tensor) -> None:
        """Add input and output of a call in eval mode."""
        self._eval_sums.add(_first(forward_sums(x.reshape(1, -1), y.reshape(1, -1))))

    def backward(self, sides: tuple[Tensor, ...], bound: float, call: int) -> None:
        """Add a backward pass: x, y, dx and dy, equal in `x * dx == y * dy` up to `bound`."""
        kind = torch.finfo(sides[1].dtype)
        x, y, dx, dy = (side.reshape(1, -1) for side in sides)
        tiny = kind.smallest_normal * kind.eps
        self._backward.add(_first(backward_sums(x, y, dx, dy, bound, tiny)), call)

    def products(self, gaps: list[float], bound: float) -> None:
        """Add the normalized gaps of the inner products of one backward pass."""
        self._backward.add_products(gaps, bound, max(self.training.calls, 1))

    def forget(self) -> None:
        """The next call is not compared with the last: it is given another input."""
        self._last = None

    def fresh(self, shown: Tensor, joint: int, call: int) -> None:
        """Compare what shows a mask with that of the call before; `joint` decisions are behind."""
        last, self._last = self._last, shown
        if last is None or last.shape != shown.shape or not bool((shown > 0).any()):
            return
        old, same = self.freshness, bool(torch.equal(last, shown))
        self.freshness = replace(
            old,
            compared=old.compared + 1,
            repeats=old.repeats + same,
            joint=(min(old.joint, joint) if old.repeats else joint) if same else old.joint,
            first_step=call if same and old.first_step is None else old.first_step,
        )

    def records(self) -> tuple[Forward, Forward, Backward]:
        """Training, eval and the backward passes, all figures filled in."""
        return (
            self._sums.record(self.training),
            self._eval_sums.record(self.eval),
            self._backward.record(),
        )


def _first(rows: Tensor) -> list[float]:
    found: list[float] = rows[0].tolist()
    return found
