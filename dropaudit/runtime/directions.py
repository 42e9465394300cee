"""Attention, and what shows no mask at all: inner products, and replayed directional derivatives.

For fixed random numbers a forward pass is a function, and its backward pass must be the
derivative: `<dy, (f(x + h v) - f(x - h v)) / 2h> == <dx, v>` for any direction v. Attention is
linear in its values, so that `<dO, O> == <dV, V>` for each batch entry and head without a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dropaudit.runtime.ledger import PRODUCT_BOUND
from dropaudit.runtime.lens import eval_output, output
from dropaudit.runtime.measure import product_gap, verdicts
from dropaudit.runtime.preservation import random_states, replaying
from dropaudit.runtime.subject import Subject
from dropaudit.runtime.trials import values

if TYPE_CHECKING:
    from dropaudit.runtime.examination import Examination

_STEPS = {torch.float64: (1e-7, 1e-4, 1e-3), torch.float32: (1e-2, 2e-2, 5e-2)}
"""By dtype: the step h; the gap of the slopes over h and h / 2 beyond which a direction is left
out, since it meets a kink; the gap of slope and gradient that is no rounding."""
_DIRECTIONS = 4
_KEYS = 64


def kind_of(subject: Subject, tensors: Sequence[Tensor], kind: str) -> str:
    """What a subject without a visible mask is: attention, recurrent, or what its name says."""
    if isinstance(subject.module, nn.RNNBase):
        return "recurrent"
    if is_attention(subject, tensors):
        return "attention"
    return kind if kind in ("attention", "alpha") else "region"


def measure(examination: Examination, kind: str) -> None:
    """Fill in what can be measured without a mask."""
    subject, tensors = examination.subject, examination.tensors
    shown = kind == "attention" and is_attention(subject, tensors)
    if shown:
        _probabilities(examination)
        for _ in range(4):
            _values(examination)
    _modes(examination, attention=shown)
    if examination.dtype not in _STEPS:
        if not shown:
            examination.unseen = "it takes neither float64 nor float32, and shows no mask"
    elif not _replays(subject, tensors):
        if not shown:
            examination.unseen = "its random numbers cannot be replayed, and it shows no mask"
    else:
        _directions(examination)


def is_attention(subject: Subject, tensors: Sequence[Tensor]) -> bool:
    """A function of three tensors of one shape, and linear in the third: no values, no output."""
    if (
        subject.module is not None
        or len(tensors) != 3
        or any(t.shape != tensors[0].shape for t in tensors)
    ):
        return False
    if tensors[0].dim() < 3:
        return False
    q, k, v = (t.detach().clone() for t in tensors)
    nothing = output(subject.call([q, k, torch.zeros_like(v)]))
    whole = output(subject.call([q, k, torch.ones_like(v)]))
    return whole.shape == v.shape and not bool(nothing.any()) and bool(whole.any())


def _probabilities(examination: Examination) -> None:
    """Equal scores and one-hot values: the output is the mask, scaled, over the number of keys.

    What is never kept in any call is masked out (causal attention), and no draw.
    """
    subject, like = examination.subject, examination.tensors[0]
    shape = (2, 4, _KEYS, _KEYS) if like.dim() == 4 else (8, _KEYS, _KEYS)
    zero = like.new_zeros(shape)
    one_hot = torch.eye(_KEYS, dtype=like.dtype, device=like.device).expand(shape).contiguous()
    calls = []
    try:
        for _ in range(examination.wanted // zero.numel() + 8):
            with torch.no_grad():
                calls.append(output(subject.call([zero, zero.clone(), one_hot.clone()])))
    except Exception:
        return  # another layout: its inner products are still compared
    seen = torch.stack(calls)
    allowed = (seen != 0).any(0)
    keys = allowed.sum(-1, keepdim=True).clamp_min(1)
    total = seen.to(torch.float64).sum(-1).mean()
    if not 0.2 < float(total) < 5:
        return  # the values are not where this looked for them
    x = (allowed / keys).to(torch.float64)
    for y in calls:
        mask = torch.where(allowed, y, 0).to(torch.float64)
        call = examination.tally.call(acted=bool((x != mask).any()))
        examination.tally.forward(x, mask, None)
        examination.tally.fresh(verdicts(x, mask), int(allowed.sum()), call)


def _values(examination: Examination) -> None:
    q, k, v = (t.detach().clone().requires_grad_(True) for t in examination.tensors)
    out = output(examination.subject.call([q, k, v * 1]))
    if not out.requires_grad:
        return
    d_out = values(out.shape, out.dtype, out.device)
    (dv,) = torch.autograd.grad(out, v, d_out, allow_unused=True)
    if dv is None:
        return
    rows = out.shape[0] * (out.shape[1] if out.dim() == 4 else 1)
    gaps = product_gap(
        (d_out * out.detach()).reshape(rows, -1), (dv * v.detach()).reshape(rows, -1)
    )
    examination.tally.products(gaps.tolist(), PRODUCT_BOUND[out.dtype])


def _modes(examination: Examination, *, attention: bool) -> None:
    """Whether outputs change from call to call: they must in training, and not in eval."""
    subject, tensors, tally = examination.subject, examination.tensors, examination.tally
    still = eval_output(subject, tensors) if subject.has_mode else None
    for _ in range(3 if still is not None else 0):
        before = random_states()
        same = still is not None and torch.equal(eval_output(subject, tensors), still)
        tally.eval_call(acted=not same or random_states() != before)
    for _ in range(0 if attention else 4):
        before = random_states()
        with torch.no_grad():
            y = output(subject.call([t.detach().clone() for t in tensors]))
        changed = still is not None and not torch.allclose(y, still, rtol=1e-5, atol=1e-6)
        acted = changed or random_states() != before
        # No mask shows, but outputs and directional derivatives are compared.
        call = tally.call(acted=acted, elements=y.numel())
        if acted:
            tally.fresh(y, y.numel(), call)


def _directions(examination: Examination) -> None:
    smooth = 0
    for _ in range(4 * _DIRECTIONS):
        smooth += _direction(examination)
        if smooth == _DIRECTIONS:
            return
    if not smooth:
        examination.unseen = "it has a kink in every direction"


def _replays(subject: Subject, tensors: Sequence[Tensor]) -> bool:
    with replaying(*subject.modules) as replay, torch.no_grad():
        first = output(subject.call([t.clone() for t in tensors]))
        replay()
        return torch.equal(first, output(subject.call([t.clone() for t in tensors])))


def _direction(examination: Examination) -> bool:
    """One direction through all inputs and parameters at once; False if it meets a kink (ReLU)."""
    subject, tensors = examination.subject, examination.tensors
    held: list[Tensor] = []
    if subject.module is not None:
        held = [p for p in subject.module.parameters() if p.requires_grad]
        held = [p for p in held if p.dtype == examination.dtype]
    size, kink, bound = _STEPS[examination.dtype]
    with replaying(*subject.modules) as replay:
        leaves = [t.detach().clone().requires_grad_(True) for t in tensors]
        y = output(subject.call([leaf * 1 for leaf in leaves]))
        if not y.requires_grad:
            return True
        dy = values(y.shape, y.dtype, y.device)
        gradients = torch.autograd.grad(y, [*leaves, *held], dy, allow_unused=True)
        along = [values(t.shape, t.dtype, t.device) for t in (*leaves, *held)]
        slopes = [
            (
                _moved(subject, leaves, held, along, step, replay)
                - _moved(subject, leaves, held, along, -step, replay)
            )
            / (2 * step)
            for step in (size, size / 2)
        ]
    left, half = ((dy * slope).reshape(1, -1) for slope in slopes)
    if float(product_gap(left, half)) > kink:
        return False
    right = torch.cat(
        [(g * v).reshape(1, -1) for g, v in zip(gradients, along, strict=True) if g is not None], 1
    )
    examination.tally.products(product_gap(left, right).tolist(), bound)
    return True


def _moved(
    subject: Subject,
    leaves: Sequence[Tensor],
    held: Sequence[Tensor],
    along: Sequence[Tensor],
    step: float,
    replay: Callable[[], None],
) -> Tensor:
    """The output a step away, with the same random numbers; parameters are put back."""
    kept = [parameter.detach().clone() for parameter in held]
    with torch.no_grad():
        try:
            replay()  # first: it puts parameters back as well
            for parameter, v in zip(held, along[len(leaves) :], strict=True):
                parameter.add_(v, alpha=step)
            moved = [leaf + step * v for leaf, v in zip(leaves, along, strict=False)]
            return output(subject.call(moved))
        finally:
            for parameter, values_before in zip(held, kept, strict=True):
                parameter.copy_(values_before)
