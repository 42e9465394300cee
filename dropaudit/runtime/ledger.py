"""What was sampled, by site: from rows of samples on a device to the records of a trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from dropaudit.findings import Location
from dropaudit.runtime.measure import (
    BACKWARD,
    FORWARD,
    BackwardTotal,
    ForwardTotal,
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
from dropaudit.runtime.sampling import Sampler
from dropaudit.runtime.sites import alpha_constants
from dropaudit.runtime.trace import Backward, Forward, Freshness, Shared, Site

PRODUCT_BOUND = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 1e-1,
}
"""Normalized gap of two inner products that rounding explains, by dtype."""
SHAPED_BY_DATA = ("region", "locked", "mask", "block", "noise", "path")
"""Kinds of site that do not tell by themselves which elements share a decision."""
_SHARED_STEPS = 8
_SPREAD = 0.05


@dataclass(eq=False)
class Call:
    """One call of a site, with the samples of its input and output; small, whatever it saw."""

    log: SiteLog
    step: int
    training: bool
    ordinal: int
    """Which of the step's calls in training it is, from 0."""
    recomputed: bool
    p: float | None
    shape: tuple[int, ...] = ()
    units: tuple[int, ...] | None = None
    shift: tuple[float, float] | None = None
    """Alpha dropout: what to take off input and output to make it a mask times a scale."""
    x: Tensor | None = None
    y: Tensor | None = None
    whole: tuple[Tensor, Tensor] | None = None
    """The whole mask, and where it is hidden, when all elements are compared."""
    state: Tensor | None = None
    """Random state at the start, where it was read."""
    root_state: Tensor | None = None
    """Random state at the start of the outermost module's call."""
    gain: float = 1.0
    """For a hand-written mask, a factor that is applied on another line."""
    draw: int | None = None
    """For a hand-written mask, which draw it came from: two uses of one draw share a mask."""


@dataclass(eq=False)
class SiteLog:
    """Everything counted at one site so far."""

    index: int
    module: Hashable
    class_name: str
    kind: str
    function: str
    file: str
    line: int
    is_module: bool
    registered: bool = True
    built_in_forward: bool = False
    inside: str = ""
    p: float | None = None
    p_least: float | None = None
    p_most: float | None = None
    quantum: float = 0.0
    dtype: torch.dtype | None = None
    counts: dict[bool, Counter[str]] = field(
        default_factory=lambda: {True: Counter(), False: Counter()}
    )
    """Counts of calls in training (True) and eval mode, by the names of `Forward`."""
    training_total: ForwardTotal = field(default_factory=ForwardTotal)
    eval_total: ForwardTotal = field(default_factory=ForwardTotal)
    backward: BackwardTotal = field(default_factory=BackwardTotal)
    probed_eval: float | None = None
    no_gradient: int = 0
    unlinked: int = 0
    unscaled_on_purpose: bool = False
    compared: int = 0
    repeats: int = 0
    joint: int = 0
    reseeded: int = 0
    first_repeat: int | None = None
    corrupted: int = 0
    host_mask: int = 0
    repeated_on_result: int = 0
    complemented: bool = False
    p_changed_inside: bool = False
    follows: bool = True
    switched: bool = False
    memory: int = 0
    bytes_now: int = 0
    step: int = -1
    ordinal: int = 0
    recompute_step: int = -1
    varying: set[int] = field(default_factory=set)
    """Dimensions along which decisions were seen to differ."""
    probes: int = 0
    probing: list[Tensor] = field(default_factory=list)
    last: tuple[Tensor, int, Call] | None = None
    not_elementwise: int = 0
    whole_forward: Counter[str] = field(default_factory=Counter)
    whole_backward: Counter[str] = field(default_factory=Counter)
    moved_in_eval: int = 0
    """Calls in eval mode that moved the random state."""

    def count(self, training: bool, asked: bool, on: bool | None) -> None:
        """Count a call in one mode: whether it had something to do, and what it was told."""
        counts = self.counts[training]
        counts["calls"] += 1
        counts["asked"] += asked
        if on is not None:
            counts["told_on" if on else "told_off"] += 1

    def acted(self, training: bool, step: int) -> None:
        """Note that a call changed something."""
        counts = self.counts[training]
        counts["acted"] += 1
        counts["first_step"] = min(step, counts.get("first_step", step))

    def rate(self, p: float | None) -> None:
        """Note the drop probability that a call declared."""
        if p is None:
            return
        self.p = p if self.p is None else self.p
        self.p_least = p if self.p_least is None else min(self.p_least, p)
        self.p_most = p if self.p_most is None else max(self.p_most, p)

    def _whole_forward(self, forward: Forward) -> Forward:
        whole = self.whole_forward
        if whole["draws"] <= forward.draws:
            return forward
        return replace(forward, elements=whole["draws"], draws=whole["draws"], drops=whole["drops"])

    def _whole_backward(self, backward: Backward) -> Backward:
        whole = self.whole_backward
        if whole["elements"] <= backward.elements:
            return backward
        wrong = whole["revived"] + whole["lost"]
        return replace(
            backward,
            elements=whole["elements"],
            revived=whole["revived"],
            lost=whole["lost"],
            broken=max(wrong, backward.broken),
        )

    @property
    def is_elementwise(self) -> bool:
        """Whether the output was a multiple of the input at each element, as far as it shows.

        A user's function may add a bias or a residual. Then `y / x` is all over the place, and the
        elementwise identity says nothing. Gaussian noise spreads too, but obeys the identity.
        """
        if self.kind not in ("region", "path", "locked", "block") or self.not_elementwise:
            return not self.not_elementwise
        spread = self.training_total.record(Forward()).spread
        if spread is None or spread < _SPREAD:
            return True
        passed = self.backward.sums
        return passed is not None and passed["broken"] < 0.5 * passed["elements"]

    def forget(self) -> None:
        """Drop figures that mean nothing for a site that is not elementwise."""
        self.training_total, self.eval_total = ForwardTotal(), ForwardTotal()
        self.backward = BackwardTotal()
        self.whole_forward, self.whole_backward = Counter(), Counter()
        self.probed_eval = None
        # By values it acted in every call; by the generator in these.
        self.counts[False]["acted"] = self.moved_in_eval
        self.counts[True]["asked"] = 0
        self.compared = self.repeats = self.reseeded = 0

    def site(self, module: str, where: Location) -> Site:
        """The record of a trace."""
        return Site(
            module=module,
            class_name=self.class_name,
            kind=self.kind,
            function=self.function,
            where=where,
            p=self.p,
            p_least=self.p_least,
            p_most=self.p_most,
            p_changed_inside=self.p_changed_inside,
            quantum=self.quantum,
            dtype=str(self.dtype or torch.float32).removeprefix("torch."),
            tolerance=tolerance(self.dtype or torch.float32),
            is_module=self.is_module,
            registered=self.registered,
            built_in_forward=self.built_in_forward,
            inside=self.inside,
            follows=self.follows,
            switched=self.switched,
            training=self._whole_forward(self.training_total.record(Forward(**self.counts[True]))),
            eval=self.eval_total.record(Forward(**self.counts[False])),
            probed_eval=self.probed_eval,
            backward=self._whole_backward(self.backward.record()),
            no_gradient=self.no_gradient,
            unlinked=self.unlinked,
            unscaled_on_purpose=self.unscaled_on_purpose,
            freshness=Freshness(
                self.compared, self.repeats, self.joint, self.reseeded, self.first_repeat
            ),
            corrupted=self.corrupted,
            host_mask=0 if self.repeats else self.host_mask,  # a mask that is kept is no draw
            repeated_on_result=self.repeated_on_result,
            complemented=self.complemented,
            memory=self.memory,
        )


class Ledger:
    """Rows of samples that wait to be measured, and the sites they belong to."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.logs: list[SiteLog] = []
        self.outbox = Outbox()
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

    def measure(self) -> None:
        """Measure all waiting rows where they are, and let go of them."""
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
        x, y, slack = self._rows(calls)
        if any(call.gain != 1 for call in calls):
            y = wide(y)
            gains = torch.tensor([[call.gain] for call in calls], dtype=y.dtype)
            y = y * gains.to(y.device, non_blocking=True)
        units = calls[0].units
        if units is None:
            rows, unit = forward_sums(x, y, slack), None
        else:
            unit, count = self.sampler.units(calls[0].shape, units, x.device)
            rows = unit_sums(x, y, unit, count, slack)
        self.outbox.add(rows, partial(_receive_forward, [_light(call) for call in calls]))
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
        fresh: list[tuple[Call, int]] = []
        before: list[Tensor] = []
        for row, call in enumerate(calls):
            last = call.log.last
            if last is not None and _same_layout(last[2], call):
                fresh.append((call, row))
                before.append(last[0][last[1]])
        if fresh:
            now = verdict[[row for _, row in fresh]].to(torch.int32)
            then = torch.stack(before).to(torch.int32)
            numbers = torch.stack([(now * then).abs().sum(1), (now * then).sum(1)], dim=1)
            reseeded = [
                (_light(call), call.log.last is not None and _reseeded(call.log.last[2], call))
                for call, _ in fresh
            ]
            self.outbox.add(numbers, partial(_receive_fresh, reseeded))
        for row, call in enumerate(calls):
            call.log.last = (verdict, row, replace(call, x=None, y=None))
        self._steps_compared += 1
        if len(calls) > 1 and (
            self._steps_compared <= _SHARED_STEPS or self._steps_compared % 16 == 0
        ):
            signs = verdict.to(torch.float32)
            seen = signs.abs()
            both = torch.stack([seen @ seen.T, signs @ signs.T])
            self.outbox.add(both, partial(self._receive_shared, [_light(call) for call in calls]))

    def _receive_shared(self, calls: list[Call], numbers: list[float]) -> None:
        many = len(calls)
        for first in range(many):
            for second in range(first + 1, many):
                one, two = calls[first], calls[second]
                if one.log is two.log or (one.draw is not None and one.draw == two.draw):
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
        x, y, slack = self._rows(calls)
        y = torch.where(y.abs() > slack, y, 0) if isinstance(slack, Tensor) else y
        dx = torch.stack([item[1] for item in items])
        dy = torch.stack([item[2] for item in items])
        dtypes = [t.dtype for call in calls[:1] for t in (call.x, call.y) if t is not None]
        lowest = max((*dtypes, dx.dtype, dy.dtype), key=lambda dtype: torch.finfo(dtype).eps)
        floor = torch.finfo(lowest).smallest_normal * torch.finfo(lowest).eps
        rows = backward_sums(x, y, dx, dy, tolerance(lowest), floor, slack)
        facts = [(_light(call), recomputed) for call, _, _, recomputed in items]
        self.outbox.add(rows, partial(_receive_backward, facts))

    def _rows(self, calls: list[Call]) -> tuple[Tensor, Tensor, Tensor | float]:
        x = torch.stack([call.x for call in calls if call.x is not None])
        y = torch.stack([call.y for call in calls if call.y is not None])
        if all(call.shift is None for call in calls):
            return x, y, 0.0
        x, y = wide(x), wide(y)
        shifts = [call.shift or (0.0, 0.0) for call in calls]
        off = torch.tensor(shifts, dtype=x.dtype).to(x.device, non_blocking=True)
        eps = torch.finfo(calls[0].y.dtype).eps if calls[0].y is not None else 0.0
        return x - off[:, :1], y - off[:, 1:], off.abs().amax(1, keepdim=True) * 16 * eps


def alpha_shift(p: float) -> tuple[float, float]:
    """What to take off input and output of alpha dropout: then `y = a m x` with a plain mask."""
    a, alpha, b = alpha_constants(p)
    return alpha, a * alpha + b


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


def _light(call: Call) -> Call:
    """The call without its samples: what waits for numbers must not hold on to memory."""
    return replace(call, x=None, y=None, state=None, root_state=None)


def _is_first(call: Call) -> bool:
    return call.training and call.ordinal == 0 and not call.recomputed


def _receive_forward(calls: list[Call], numbers: list[float]) -> None:
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


def _receive_backward(facts: list[tuple[Call, bool]], numbers: list[float]) -> None:
    width = len(BACKWARD)
    for n, (call, recomputed) in enumerate(facts):
        row = numbers[n * width : (n + 1) * width]
        call.log.backward.add(row, call.step, recomputed=recomputed)


def _receive_fresh(calls: list[tuple[Call, bool]], numbers: list[float]) -> None:
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

    States are compared on the host; they are only read where they live there.
    """
    return _equal(before.state, now.state) and not _equal(before.root_state, now.root_state)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
