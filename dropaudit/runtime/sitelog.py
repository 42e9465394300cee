"""What is counted at one site, and one call of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dropaudit.findings import Location
from dropaudit.runtime.measure import tolerance
from dropaudit.runtime.recompute import Recompute
from dropaudit.runtime.sampling import Sampler
from dropaudit.runtime.totals import BackwardTotal, ForwardTotal
from dropaudit.runtime.trace import Backward, Forward, Freshness, Site
from dropaudit.runtime.world import Group

SHAPED_BY_DATA = ("region", "locked", "mask", "block", "noise", "path")
"""Kinds of site that do not tell by themselves which elements share a decision."""
_SPREAD = 0.05


class Facts(NamedTuple):
    """What is remembered of a call until its numbers have arrived: no sample, no tensor."""

    log: SiteLog
    step: int
    training: bool
    shape: tuple[int, ...]
    draw: int | None


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
    sampler: Sampler
    """Which elements are looked at."""
    by_mask: bool = True
    """Whether zeros alone tell the mask; else all elements means a copy of each."""
    shape: tuple[int, ...] = ()
    units: tuple[int, ...] | None = None
    shift: tuple[float, float] | None = None
    """Alpha dropout: what to take off input and output to make it a mask times a scale."""
    x: Tensor | None = None
    y: Tensor | None = None
    whole: tuple[Tensor, Tensor] | None = None
    """The whole mask, and where it shows, when all elements are compared."""
    state: Tensor | None = None
    """Random state at the start, where it was read."""
    root_state: Tensor | None = None
    """Random state at the start of the outermost module's call."""
    gain: float = 1.0
    """For a hand-written mask, a factor that is applied on another line."""
    draw: int | None = None
    """For a hand-written mask, which draw it came from: two uses of one draw share a mask."""
    own_generator: bool = False
    """Whether its mask was drawn from a generator of the user's, in this pass."""
    checkpointed: bool = False
    """Whether it will be run again for its gradient."""

    @property
    def facts(self) -> Facts:
        """The call without its samples: what waits for numbers must not hold on to memory."""
        return Facts(self.log, self.step, self.training, self.shape, self.draw)


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
    always_on: bool = False
    memory: int = 0
    bytes_now: int = 0
    step: int = -1
    ordinal: int = 0
    recompute_step: int = -1
    drawn: tuple[int, int] | None = None
    """Step and draw of the last hand-written mask."""
    first_state: tuple[Tensor, Tensor | None] | None = None
    """Random states at the first call of the last step, and of its outermost module: of kinds whose
    masks cannot be seen."""
    varying: set[int] = field(default_factory=set)
    """Dimensions along which decisions were seen to differ."""
    probes: int = 0
    probing: list[Tensor] = field(default_factory=list)
    last: tuple[Tensor, int, Call] | None = None
    not_elementwise: int = 0
    whole_forward: Counter[str] = field(default_factory=Counter)
    whole_backward: Counter[str] = field(default_factory=Counter)
    groups: tuple[Group, ...] = ()
    """What a DTensor input says of ranks."""
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

    def site(self, module: str, where: Location, recompute: Recompute) -> Site:
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
            always_on=self.always_on,
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
            recompute=recompute,
            corrupted=self.corrupted,
            host_mask=0 if self.repeats else self.host_mask,  # a mask that is kept is no draw
            repeated_on_result=self.repeated_on_result,
            complemented=self.complemented,
            memory=self.memory,
        )
