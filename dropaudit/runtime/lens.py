"""How to see the mask in what a subject does: as `y = s m x`, whatever it adds around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dropaudit.runtime import sites
from dropaudit.runtime.ledger import alpha_shift
from dropaudit.runtime.preservation import random_states, replaying
from dropaudit.runtime.subject import Subject
from dropaudit.runtime.trials import values

_AWAY = 4.0
"""Size of the steps between two outputs: the larger, the less their difference is rounded."""


@dataclass
class Sample:
    """One call: input and output, and where asked for the gradients of the two."""

    x: Tensor
    y: Tensor
    moved: bool = True
    """Whether a generator of torch moved."""
    dx: Tensor | None = None
    dy: Tensor | None = None
    again: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    """The same of the backward pass as a function of dy: what double backward gives."""


@dataclass(frozen=True)
class Direct:
    """The subject is the mask: y = s m x, after the shifts of alpha dropout are taken off."""

    shift: tuple[float, float] = (0.0, 0.0)

    def sample(
        self, subject: Subject, tensors: Sequence[Tensor], *, gradient: bool, inplace: bool = False
    ) -> Sample:
        """One call in training mode."""
        x = tensors[0].detach().clone(memory_format=torch.preserve_format)
        x.requires_grad_(gradient)
        off, away = self.shift
        # In-place dropout may not be given a leaf.
        given = x * 1 if gradient else x.detach().clone(memory_format=torch.preserve_format)
        before = random_states()
        y = output(subject.call([given, *tensors[1:]], inplace=inplace))
        moved = random_states() != before
        seen = Sample(x.detach() - off if off else x.detach(), y.detach().clone() - away, moved)
        if off:
            seen.y = torch.where(seen.y.abs() > 1e-2 * seen.x.abs().clamp_min(0.1), seen.y, 0)
        if gradient and y.requires_grad:
            _differentiate(seen, y, x)
        return seen


@dataclass(frozen=True)
class Affine:
    """The subject adds things around a mask: y(x + v) - y(x) = (around + gain s m) v, replayed."""

    index: int
    """Which of the tensors the mask is applied to."""
    around: float = 0.0
    gain: float = 1.0

    @staticmethod
    def error(dtype: torch.dtype) -> float:
        """Relative error of a difference of two outputs.

        >>> Affine.error(torch.float64) < 1e-6 < Affine.error(torch.bfloat16)
        True
        """
        return max(1e-7, 16 * torch.finfo(dtype).eps)

    def sample(
        self, subject: Subject, tensors: Sequence[Tensor], *, gradient: bool, inplace: bool = False
    ) -> Sample:
        """Two calls in training mode that draw the same numbers."""
        like = tensors[self.index]
        v = _AWAY * values(like.shape, like.dtype, like.device)
        with replaying(*subject.modules) as replay:
            leaves = [t.detach().clone() for t in tensors]
            x = leaves[self.index].requires_grad_(gradient)
            if gradient:
                leaves[self.index] = x * 1
            before = random_states()
            y = output(subject.call(leaves, inplace=inplace))
            states = random_states()
            replay()
            moved = [t.detach().clone() for t in tensors]
            moved[self.index] += v
            with torch.no_grad():
                apart = output(subject.call(moved, inplace=inplace)) - y.detach()
        seen = Sample(v, self.strip(apart, v), states != before)
        if gradient and y.requires_grad:
            _differentiate(seen, y, x)
            seen.again = None
            if seen.dx is not None and seen.dy is not None:
                seen.dx = self.strip(seen.dx, seen.dy)
        return seen

    def strip(self, apart: Tensor, v: Tensor) -> Tensor:
        """What the mask alone did."""
        left = (apart - self.around * v) / self.gain
        return torch.where(left.abs() > self.error(v.dtype) * v.abs(), left, 0.0)


def lens_of(subject: Subject, tensors: Sequence[Tensor], kind: str) -> Direct | Affine | None:
    """How to see the mask; None where no element of the output belongs to one of an input."""
    x = tensors[0]
    y = output(subject.call(_copies(tensors)))
    if kind == "alpha" and subject.p is not None:
        return Direct(alpha_shift(subject.p))
    if kind in ("elementwise", sites.FEATURE, "noise") and len(tensors) == 1:
        return Direct()
    if len(tensors) == 1 and y.shape == x.shape and _is_masked(subject, tensors):
        return Direct()
    for index, tensor in enumerate(tensors):
        found = _affine(subject, tensors, index) if tensor.shape == y.shape else None
        if found is not None:
            return found
    return None


def output(result: Any) -> Tensor:
    """The floating tensor that a subject gave back."""
    found = sites.first_tensor(result)
    if found is None:
        raise TypeError(f"it gives back no floating tensor, but {type(result).__name__}")
    return found


def eval_output(subject: Subject, tensors: Sequence[Tensor]) -> Tensor:
    """The output in eval mode."""
    with torch.no_grad():
        return output(subject.call(_copies(tensors), training=False))


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]


def _is_masked(subject: Subject, tensors: Sequence[Tensor]) -> bool:
    """Whether y is 0 or s x, for one s, in every one of a few calls."""
    for _ in range(4):
        y = output(subject.call(_copies(tensors)))
        ratio = (y.detach() / tensors[0]).to(torch.float64)
        kept = ratio[ratio != 0]
        if kept.numel() and not (kept - kept.median()).abs().max() <= 0.02 * kept.median().abs():
            return False
    return True


def _affine(subject: Subject, tensors: Sequence[Tensor], index: int) -> Affine | None:
    """Whether the subject is elementwise affine in one tensor, with a slope of two values."""
    plain = Affine(index)
    slopes = []
    for _ in range(8):
        moved = _copies(tensors)
        v = _AWAY * values(moved[index].shape, moved[index].dtype, moved[index].device)
        half = torch.rand(v.shape, device=v.device) < 0.5
        moved[index] += torch.where(half, v, 0.0)
        with replaying(*subject.modules) as replay:
            first = output(subject.call(_copies(tensors))).detach()
            replay()
            again = output(subject.call(_copies(tensors))).detach()
            replay()
            apart = output(subject.call(moved)).detach() - first
        if not torch.equal(first, again) or bool(apart[~half].any()):
            return None
        sample = plain.sample(subject, tensors, gradient=False)
        slopes.append((sample.y / sample.x).to(torch.float64))
    slope = torch.stack(slopes)
    low, high = float(slope.min()), float(slope.max())
    error = max(plain.error(tensors[index].dtype), 1e-4)
    if high - low < 2 * error:
        return None  # a residual: what dropout is applied to is another tensor
    near = torch.minimum((slope - low).abs(), (slope - high).abs())
    if float(near.max()) > error:  # Gaussian dropout, or more than one mask
        return plain if abs(float(slope.mean()) - 1) < 0.5 else None
    low = 0.0 if abs(low) < error else round(low) if abs(low - round(low)) < error else low
    return Affine(index, low, _gain(subject, tensors, index, low))


def _gain(subject: Subject, tensors: Sequence[Tensor], index: int, around: float) -> float:
    """What the masked branch contributes in eval mode: the scale is counted from there."""
    if not subject.has_mode or around == 0:
        return 1.0
    like = tensors[index]
    v = _AWAY * values(like.shape, like.dtype, like.device)
    moved = _copies(tensors)
    moved[index] += v
    with torch.no_grad():
        rest = output(subject.call(_copies(tensors), training=False))
        slope = (output(subject.call(moved, training=False)) - rest) / v
    error, mean = max(Affine.error(like.dtype), 1e-6), float(slope.to(torch.float64).mean())
    if float(slope.max() - slope.min()) > 2 * error or abs(mean - around) < error:
        return 1.0
    mean = round(mean) if abs(mean - round(mean)) < error else mean
    return mean - around


def _differentiate(seen: Sample, y: Tensor, x: Tensor) -> None:
    dy = values(y.shape, y.dtype, y.device).requires_grad_(True)
    try:
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True, allow_unused=True)
    except RuntimeError:
        (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True, allow_unused=True)
    if dx is None:
        return
    seen.dx, seen.dy = dx.detach(), dy.detach()
    if not dx.requires_grad:
        return
    u = values(dx.shape, dx.dtype, dx.device)
    try:
        (ddy,) = torch.autograd.grad(dx, dy, u, allow_unused=True)
    except RuntimeError:  # once differentiable: said aloud by torch, no fault of the mask
        return
    if ddy is not None:
        seen.again = (dy.detach(), dx.detach(), ddy.detach(), u)
