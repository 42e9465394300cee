"""What the figures of a site say of its calls in training: the one code that explains them.

The checks ask here, and in `modes`, `gradients` and `repeats`, so that one cause gets one code
whichever rules look at it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dropaudit.catalogue import Observation
from dropaudit.findings import Location
from dropaudit.runtime.statistics import (
    alpha_scale,
    chance_of_none,
    log_e,
    log_likelihood,
    mean_bound,
    scale_slack,
    site_alpha,
    student_factor,
    unit_roundoff,
)
from dropaudit.runtime.trace import Site, Trace
from dropaudit.runtime.world import ranks_text

AUDIT = Location("<audit>", 1, 1, 1, 1)
"""Where something is said about an audit as a whole."""
FEW = 64
"""Informative elements over a whole audit, below which a site counts as not checked."""
TESTS = 4
"""Statistical tests a site: keep rate, expectation, never dropping, repeated masks."""
_BY_MEAN = ("noise", "block")
BY_STATE = ("attention", "recurrent")
"""Kinds whose draws cannot be seen one by one."""


@dataclass(frozen=True)
class Evidence:
    """One site of a trace, and what its figures say."""

    trace: Trace
    index: int

    @property
    def site(self) -> Site:
        return self.trace.sites[self.index]

    @property
    def where(self) -> Location:
        """The line of the call, and the path of the module if it has one."""
        site = self.site
        return replace(site.where, module=None if site.module in ("-", "?") else site.module)

    @property
    def alpha(self) -> float:
        """The share of the audit's alpha for one test at this site."""
        return site_alpha(self.trace.settings.alpha, self.index + 1, TESTS)

    @property
    def rates(self) -> tuple[float, float] | None:
        """The least and the greatest drop probability that was declared; None if none was."""
        site = self.site
        known = [p for p in (site.p, site.p_least, site.p_most) if p is not None]
        return (min(known), max(known)) if known else None

    @property
    def declared(self) -> str:
        """The drop probability as a message gives it: "p = 0.1", "p from 0 to 0.1"."""
        if self.rates is None:
            return "an undeclared p"
        low, high = self.rates
        return f"p = {low:g}" if low == high else f"p from {low:g} to {high:g}"

    @property
    def name(self) -> str:
        """For example "`F.dropout` (p = 0.1)"."""
        ranks = self.site.ranks
        on = f" on {ranks_text(ranks)}" if ranks else ""
        return f"`{self.site.function}` ({self.declared}){on}"

    def observe(self, message: str, **figures: float | None) -> Observation:
        """A report at this site; figures that are None are left out."""
        known = tuple((name, float(value)) for name, value in figures.items() if value is not None)
        return Observation(self.where, message, known)

    # In training

    @property
    def drop_rate(self) -> float | None:
        """Measured share of draws that dropped, in training."""
        forward = self.site.training
        return forward.drops / forward.draws if forward.draws else None

    @property
    def rate_evidence(self) -> float:
        """Log of the e-value against the declared p (its range, where it changed)."""
        if self.rates is None or not self.site.training.draws:
            return 0.0
        low, high = self.rates
        return log_e(*self._counts, (low + high) / 2, self._half_width) - self.site.choice

    @property
    def _half_width(self) -> float:
        """Half the range of drop probabilities that are as declared, rounding included."""
        site, (low, high) = self.site, self.rates or (0.0, 1.0)
        by_hand = site.kind == "mask" or site.inside == "mask"
        # `rand` in half precision has steps of a unit in the last place: 1/256 in bfloat16.
        steps = 1.5 * unit_roundoff(site.dtype) if by_hand else 0.0
        return (high - low) / 2 + site.quantum + steps

    @property
    def _counts(self) -> tuple[int, int]:
        """Drops and draws; a mask that came back is counted once."""
        forward, times = self.site.training, 1 + self.site.freshness.repeats
        return forward.drops // times, forward.draws // times

    @property
    def limit(self) -> float:
        """What the log of an e-value has to reach."""
        return -math.log(self.alpha)

    @property
    def right_scale(self) -> float | None:
        """The scale that the declared p asks for: 1/q; another constant for alpha dropout."""
        if self.rates is None or self.rates[1] >= 1:
            return None
        p = self.rates[1] if self.rates[0] == self.rates[1] else (self.site.p or self.rates[1])
        if self.site.kind == "alpha":
            return alpha_scale(p)
        return 1 / (1 - p)

    @property
    def scale_bound(self) -> float:
        """How far `scale / right_scale` may be from 1."""
        site, rates = self.site, self.rates
        if rates is None:
            return math.inf
        slack = max(scale_slack(p, site.dtype) for p in rates)
        spread = site.training.spread or 0.0
        slack += spread if spread > max(site.tolerance, 1e-6) else 0.0
        slack += site.quantum / (1 - rates[1]) if rates[1] < 1 else 0.0
        return slack * (8 if site.kind == "alpha" else 1)

    @property
    def classic(self) -> bool:
        """Unscaled in training and times q in evaluation: right, in the old way."""
        rates, seen = self.rates, self.eval_factor
        return rates is not None and seen is not None and self._fits(1.0) and self._is_q(seen)

    @property
    def eval_factor(self) -> float | None:
        """`y / x` in evaluation, as it was measured there, or tried; None where it drops then."""
        forward = self.site.eval
        if forward.drops:
            return None
        if forward.elements >= FEW:
            return forward.mean
        return self.site.probed_eval

    @property
    def forward_code(self) -> str | None:
        """Which code explains what the site did in training."""
        site, forward = self.site, self.site.training
        if site.complemented:
            return None
        if self.dead:
            return "DRP217" if "alpha_dropout" in site.function else "DRP218"
        if not forward.draws:
            return None
        if site.kind in _BY_MEAN:
            return "DRP111" if self._mean_is_off else None
        if site.kind in ("path", "locked") and forward.mixed > 0.05 * max(forward.units, 1):
            return "DRP107"
        code = self._rate_code or self._scale_code
        if code is None and self._mean_is_off and not self._chance_of_drops:
            code = "DRP111"
        return code

    @property
    def dead(self) -> bool:
        """Whether it was on, had something to drop, and never did: not by chance."""
        site, forward = self.site, self.site.training
        rates = self.rates
        if rates is None or not 0 < rates[1] < 1 or forward.acted or not forward.asked:
            return False
        if forward.told_off:
            return not forward.told_on
        if site.kind in BY_STATE:
            return True
        least = min(p for p in rates if p > 0)
        return not forward.drops and chance_of_none(least, forward.draws) < self.alpha

    @property
    def implied_p(self) -> float | None:
        """The drop probability that the measured scale would be right for."""
        scale = self.site.training.scale
        return 1 - 1 / scale if scale and scale > 1 else None

    @property
    def _rate_code(self) -> str | None:
        if self.rate_evidence < self.limit or self.rates is None:
            return None
        low, high = self.rates
        swapped = log_e(*self._counts, 1 - (low + high) / 2, self._half_width)
        return "DRP104" if swapped < self.limit else "DRP110"

    @property
    def _scale_code(self) -> str | None:
        forward, rates = self.site.training, self.rates
        if forward.scale is None or not forward.drops:
            return None
        if rates is None:
            off = abs(forward.scale - 1) <= scale_slack(0.0, self.site.dtype)
            return "DRP101" if off and not self._is_kept_rate(self.eval_factor) else None
        wrong = self._is_wrong_scale(forward.scale)
        if self.eval_factor is not None and self._is_q(self.eval_factor) and not self.classic:
            return "DRP102"
        if not wrong or self.classic or self._follows_its_mask:
            return None
        if self._fits(1.0):
            return "DRP101"
        if self.site.kind == "mask" and rates[0] > 0.5 and self._fits(1 / rates[0]):
            return "DRP104"  # a rate above a half, read off the mask, is one that should be kept
        implied = self.implied_p
        if implied is None or self.site.kind == "alpha" or rates[0] != rates[1]:
            return "DRP102"
        # Keep rate and scale may agree with each other, and not with p.
        other = log_likelihood(*self._counts, implied) > log_likelihood(*self._counts, rates[0])
        return "DRP110" if other else "DRP102"

    def _is_wrong_scale(self, scale: float) -> bool:
        low, high, bound = *(self.rates or (0.0, 1.0)), self.scale_bound
        if high >= 1:
            return False
        if self.site.kind == "alpha":
            return low == high and abs(scale / alpha_scale(high) - 1) > bound
        return scale * (1 - low) < 1 - bound or scale * (1 - high) > 1 + bound

    @property
    def _follows_its_mask(self) -> bool:
        """The scale varies from call to call around the right one: computed from the mask."""
        forward, right = self.site.training, self.right_scale
        low, high = forward.scale_low, forward.scale_high
        if low is None or high is None or right is None:
            return False
        return low <= right <= high and high - low > 2 * self.scale_bound * right

    def _fits(self, expected: float) -> bool:
        scale = self.site.training.scale
        return scale is not None and abs(scale / expected - 1) <= self.scale_bound

    def _is_q(self, factor: float) -> bool:
        low, high = self.rates or (0.0, 0.0)
        if low != high or not 0 < high < 1:
            return False
        return abs(factor / (1 - high) - 1) <= self.scale_bound < high

    def _is_kept_rate(self, factor: float | None) -> bool:
        rate, forward = self.drop_rate, self.site.training
        if rate is None or factor is None:
            return False
        return abs(factor - (1 - rate)) <= mean_bound(
            math.sqrt(rate * (1 - rate) / forward.draws), self.alpha, 1 / forward.draws
        )

    @property
    def wanted_scale(self) -> str:
        """The right scale as a message gives it: "1/(1 - p) = 1.11111"."""
        right = self.right_scale
        if right is None or self.rates is None or self.rates[0] != self.rates[1]:
            return "1/(1 - p)"
        return f"{right:.6g}" if self.site.kind == "alpha" else f"1/(1 - p) = {right:.6g}"

    # On average

    @property
    def expected_mean(self) -> float:
        """The factor in evaluation that the mean in training has to agree with."""
        return 1.0 if self.eval_factor is None else self.eval_factor

    @property
    def bound_of_mean(self) -> float:
        """How far the mean in training may be from the expected one."""
        site, forward = self.site, self.site.training
        error = forward.mean_error or 0.0
        p = self.rates[1] if self.rates else (self.drop_rate or 0.0)
        slack = scale_slack(p, site.dtype) + (forward.spread or 0.0) * site.tolerance
        if forward.draws and 0 < p < 1 and site.kind != "noise":
            # A run without a single drop has no measured variation: take at least that of the p.
            error = max(error, math.sqrt(p / (1 - p) / forward.draws))
            error *= math.sqrt(1 + site.freshness.repeats)
        jump = error * error / p if p > 0 else 0.0
        bound = mean_bound(error, self.alpha, jump) * student_factor(forward.draws, self.alpha)
        return bound * (10 if site.kind == "block" else 1) + slack

    @property
    def _mean_is_off(self) -> bool:
        forward, site = self.site.training, self.site
        if forward.mean is None or forward.mean_error is None or forward.elements < FEW:
            return False
        if site.kind == "alpha":
            return False  # its mean is that of an affine map: rate and scale say all
        if self.classic or (self.rates is not None and self.rates[1] >= 1):
            return False
        return abs(forward.mean - self.expected_mean) > self.bound_of_mean

    @property
    def _chance_of_drops(self) -> bool:
        """Keep rate times scale is the whole story, and both were found right already."""
        scale, mean, rate = self.site.training.scale, self.site.training.mean, self.drop_rate
        if self.rates is None or scale is None or mean is None or rate is None:
            return False
        as_trained = abs(self.expected_mean - 1) <= self.scale_bound
        return as_trained and abs((1 - rate) * scale - mean) <= self.bound_of_mean


def evidence(trace: Trace) -> Iterator[Evidence]:
    """Every site of a trace, in order."""
    return (Evidence(trace, index) for index in range(len(trace.sites)))
