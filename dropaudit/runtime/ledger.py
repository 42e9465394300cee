"""What was sampled, by site: from rows of samples on a device to the records of a trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from dropaudit.runtime.fingerprints import Fingerprints
from dropaudit.runtime.measure import (
    BACKWARD,
    FORWARD,
    backward_sums,
    forward_sums,
    product_gap,
    tolerance,
    unit_sums,
    unit_verdicts,
    verdicts,
    wide,
)
from dropaudit.runtime.outbox import Outbox
from dropaudit.runtime.pairing import Pairing
from dropaudit.runtime.sitelog import SHAPED_BY_DATA, Call, Facts
from dropaudit.runtime.sites import alpha_constants
from dropaudit.runtime.trace import Shared

PRODUCT_BOUND = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 1e-1,
}
"""Normalized gap of two inner products that rounding explains, by dtype."""
_SHARED_STEPS = 8
_ROWS = 96


class Ledger:
    """Rows of samples that wait to be measured, and the sites they belong to."""

    def __init__(self, every: int = 1) -> None:
        self.outbox = Outbox()
        self.fingerprints = Fingerprints(self.outbox, every)
        self.pairing = Pairing(self.outbox, _rows)
        self._forward: list[Call] = []
        self._backward: list[tuple[Call, Tensor, Tensor, bool]] = []
        self._shared: dict[tuple[int, int], list[int]] = {}
        self._steps_compared = 0

    @property
    def waiting(self) -> int:
        """How many rows wait."""
        return len(self._forward) + len(self._backward)

    def forward(self, call: Call) -> None:
        """Take the samples of a call that has run."""
        self._forward.append(call)

    def backward(self, call: Call, dx: Tensor, dy: Tensor, recomputed: bool) -> None:
        """Take the samples of the gradients that passed a call."""
        self._backward.append((call, dx, dy, recomputed))

    def whole_forward(self, call: Call, numbers: Tensor) -> None:
        """Take how many elements of a whole call told something, and how many were dropped."""
        counts = call.log.whole_forward
        self.outbox.add(numbers, partial(_receive_counts, counts, ("draws", "drops")))

    def whole_backward(self, call: Call, numbers: Tensor, recomputed: bool) -> None:
        """Take what `disagreements` gave for a whole call."""
        log, step = call.log, call.step

        def receive(values: list[float]) -> None:
            _receive_counts(log.whole_backward, ("elements", "revived", "lost"), values)
            if values[1] or values[2]:
                log.backward.mark(step, recomputed)

        self.outbox.add(numbers, receive)

    def products(self, call: Call, left: Tensor, right: Tensor, recomputed: bool) -> None:
        """Take the terms of inner products, shape (products, terms), that ought to be equal."""
        bound = PRODUCT_BOUND.get(call.log.dtype or torch.float32, 1e-1)

        log, step = call.log, call.step

        def receive(gaps: list[float]) -> None:
            log.backward.add_products(gaps, bound, step, recomputed=recomputed)

        self.outbox.add(product_gap(left, right), receive)

    @property
    def full(self) -> bool:
        """Whether enough rows wait: kernels cost the same for one row and for a hundred."""
        return self.waiting >= _ROWS or self.pairing.full

    def measure(self) -> None:
        """Measure all waiting rows where they are, and let go of them."""
        self.pairing.measure()
        forward, self._forward = self._forward, []
        backward, self._backward = self._backward, []
        groups: dict[Hashable, list[Call]] = defaultdict(list)
        for call in forward:
            if call.log.kind in SHAPED_BY_DATA:
                call.units = _learned_units(call)
            groups[_group(call)].append(call)
        for calls in groups.values():
            self._measure_forward(calls)
        pairs: dict[Hashable, list[tuple[Call, Tensor, Tensor, bool]]] = defaultdict(list)
        for item in backward:
            pairs[_group(item[0]), item[1].dtype, item[2].dtype].append(item)
        for items in pairs.values():
            self._measure_backward(items)
        for call in forward:
            call.log.bytes_now = 0
        if self.outbox.full:
            self.outbox.deliver()

    def shared(self) -> tuple[Shared, ...]:
        """The pairs of sites whose masks were equal in the same step."""
        return tuple(
            Shared(first, second, times, joint, compared, step)
            for (first, second), (times, joint, compared, step) in sorted(self._shared.items())
            if times
        )

    def _measure_forward(self, calls: list[Call]) -> None:
        x, y, slack = _rows(calls)
        if any(call.gain != 1 for call in calls):
            y = wide(y)
            gains = torch.tensor([[call.gain] for call in calls], dtype=y.dtype)
            y = y * gains.to(y.device, non_blocking=True)
        units = calls[0].units
        if units is None:
            rows, unit = forward_sums(x, y, slack), None
        else:
            unit, count = calls[0].sampler.units(calls[0].shape, units, x.device)
            rows = unit_sums(x, y, unit, count, slack)
        self.outbox.add(rows, partial(_receive_forward, [call.facts for call in calls]))
        chosen = [n for n, call in enumerate(calls) if _is_first(call)]
        if not chosen:
            return
        verdict = verdicts(x, y, slack)
        if len(chosen) < len(calls):
            verdict = verdict[chosen]
        if unit is not None:
            verdict = unit_verdicts(verdict, unit, count)
        self._compare([calls[n] for n in chosen], verdict)

    def _compare(self, calls: list[Call], verdict: Tensor) -> None:
        """Compare masks with those of the step before, and with those of the other sites."""
        self.fingerprints.take(calls, verdict)
        rows: list[int] = []
        before: list[Tensor] = []
        fresh: list[tuple[Facts, bool]] = []
        for row, call in enumerate(calls):  # in the order in which they ran
            last = call.log.last
            if last is not None and _same_layout(last[2], call):
                rows.append(row)
                before.append(last[0][last[1]])
                fresh.append((call.facts, _reseeded(last[2], call)))
            call.log.last = (verdict, row, replace(call, x=None, y=None, whole=None))
        if fresh:
            now = verdict[rows].to(torch.int32)
            then = torch.stack(before).to(torch.int32)
            numbers = torch.stack([(now * then).abs().sum(1), (now * then).sum(1)], dim=1)
            self.outbox.add(numbers, partial(_receive_fresh, fresh))
        self._steps_compared += 1
        often = self._steps_compared <= _SHARED_STEPS or self._steps_compared % 16 == 0
        if often and len({call.log for call in calls}) > 1:
            signs = verdict.to(torch.float32)
            seen = signs.abs()
            both = torch.stack([seen @ seen.T, signs @ signs.T])
            self.outbox.add(both, partial(self._receive_shared, [call.facts for call in calls]))

    def _receive_shared(self, calls: list[Facts], numbers: list[float]) -> None:
        many = len(calls)
        for first in range(many):
            for second in range(first + 1, many):
                one, two = calls[first], calls[second]
                if one.step != two.step or one.log is two.log:
                    continue
                if one.shape != two.shape or (one.draw is not None and one.draw == two.draw):
                    continue
                joint = int(numbers[first * many + second])
                agreed = int(numbers[many * many + first * many + second])
                if not joint:
                    continue
                key = (one.log.index, two.log.index)
                key = key if key[0] < key[1] else (key[1], key[0])
                entry = self._shared.setdefault(key, [0, joint, 0, one.step])
                entry[2] += 1
                if agreed == joint:
                    entry[0] += 1
                    entry[1] = min(entry[1], joint) if entry[0] > 1 else joint
                    entry[3] = min(entry[3], one.step) if entry[0] > 1 else one.step

    def _measure_backward(self, items: list[tuple[Call, Tensor, Tensor, bool]]) -> None:
        calls = [item[0] for item in items]
        x, y, slack = _rows(calls)
        if isinstance(slack, Tensor):  # an input within the error of the output tells nothing
            x = torch.where(x.abs() > 4 * slack, x, 0)
            y = torch.where(y.abs() > slack, y, 0)
        dx = torch.stack([item[1] for item in items])
        dy = torch.stack([item[2] for item in items])
        dtypes = [t.dtype for call in calls[:1] for t in (call.x, call.y) if t is not None]
        lowest = max((*dtypes, dx.dtype, dy.dtype), key=lambda dtype: torch.finfo(dtype).eps)
        floor = torch.finfo(lowest).smallest_normal * torch.finfo(lowest).eps
        rows = backward_sums(x, y, dx, dy, tolerance(lowest), floor, slack)
        facts = [(call.facts, recomputed) for call, _, _, recomputed in items]
        self.outbox.add(rows, partial(_receive_backward, facts))


def alpha_shift(p: float) -> tuple[float, float]:
    """What to take off input and output of alpha dropout: then `y = a m x` with a plain mask."""
    a, alpha, b = alpha_constants(p)
    return alpha, a * alpha + b


def _rows(calls: list[Call]) -> tuple[Tensor, Tensor, Tensor | float]:
    """Inputs and outputs, shape (calls, elements), and the error of those of alpha dropout."""
    x = torch.stack([call.x for call in calls if call.x is not None])
    y = torch.stack([call.y for call in calls if call.y is not None])
    if all(call.shift is None for call in calls):
        return x, y, 0.0
    x, y = wide(x), wide(y)
    shifts = [call.shift or (0.0, 0.0) for call in calls]
    off = torch.tensor(shifts, dtype=x.dtype).to(x.device, non_blocking=True)
    eps = torch.finfo(calls[0].y.dtype).eps if calls[0].y is not None else 0.0
    return x - off[:, :1], y - off[:, 1:], off.abs().amax(1, keepdim=True) * 16 * eps


def _group(call: Call) -> Hashable:
    assert call.x is not None and call.y is not None
    x, y = call.x, call.y
    shape = call.shape if call.units is not None else None
    return (x.numel(), x.dtype, y.dtype, x.device, shape, call.units, call.shift is None)


def _learned_units(call: Call) -> tuple[int, ...] | None:
    """Along which dimensions decisions differ, as far as the first calls have shown.

    As long as nothing was seen to differ, a call counts as a single draw.
    """
    log = call.log
    for probe in log.probing:
        log.varying.update(n for n, differs in enumerate(probe.tolist()) if differs)
    log.probing.clear()
    if log.kind == "path" and log.varying:
        return (0,)
    if not log.probes or len(log.varying) == len(call.shape):
        return None
    return tuple(sorted(dim for dim in log.varying if dim < len(call.shape)))


def _is_first(call: Call) -> bool:
    return call.training and call.ordinal == 0 and not call.recomputed


def _receive_forward(calls: list[Facts], numbers: list[float]) -> None:
    width = len(FORWARD)
    for n, call in enumerate(calls):
        row = numbers[n * width : (n + 1) * width]
        log = call.log
        total = log.training_total if call.training else log.eval_total
        changed, at_random = total.add(row)
        # Classic dropout multiplies by q in eval: that is no dropping.
        by_user = log.kind in SHAPED_BY_DATA
        if at_random if by_user and not call.training else changed:
            log.acted(call.training, call.step)


def _receive_counts(counts: Counter[str], names: tuple[str, ...], values: list[float]) -> None:
    counts.update({name: int(value) for name, value in zip(names, values, strict=True)})


def _receive_backward(facts: list[tuple[Facts, bool]], numbers: list[float]) -> None:
    width = len(BACKWARD)
    for n, (call, recomputed) in enumerate(facts):
        row = numbers[n * width : (n + 1) * width]
        call.log.backward.add(row, call.step, recomputed=recomputed)


def _receive_fresh(calls: list[tuple[Facts, bool]], numbers: list[float]) -> None:
    for n, (call, reseeded) in enumerate(calls):
        joint, agreed = int(numbers[2 * n]), int(numbers[2 * n + 1])
        if not joint:
            continue
        log = call.log
        log.compared += 1
        if joint == agreed:
            log.repeats += 1
            log.reseeded += reseeded
            log.joint = joint if log.repeats == 1 else min(log.joint, joint)
            log.first_repeat = call.step if log.first_repeat is None else log.first_repeat


def _same_layout(before: Call, now: Call) -> bool:
    return before.shape == now.shape and before.units == now.units


def _reseeded(before: Call, now: Call) -> bool:
    """Whether both calls began from one random state though their steps did not.

    A generator of the user's gives the same numbers twice only if it is seeded again. States are
    compared on the host; they are only read where they live there.
    """
    if before.own_generator and now.own_generator:
        return True
    return _equal(before.state, now.state) and not _equal(before.root_state, now.root_state)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
