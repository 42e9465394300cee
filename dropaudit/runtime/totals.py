"""The sums of many calls, on the host, and the records that they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from dropaudit.runtime.measure import BACKWARD, FORWARD
from dropaudit.runtime.trace import Backward, Forward


@dataclass
class ForwardTotal:
    """The forward sums of many calls, on the host."""

    sums: dict[str, float] | None = None
    low: float | None = None
    high: float | None = None
    spread_squares: float = 0.0
    spread_kept: float = 0.0

    def add(self, row: list[float]) -> tuple[bool, bool]:
        """Add a row of `forward_sums`; whether the call changed anything, and whether at random:
        not all elements by the same factor."""
        now = dict(zip(FORWARD, row, strict=True))
        uneven = False
        if self.sums is None:
            self.sums = dict.fromkeys(FORWARD, 0.0)
        for name, value in now.items():
            self.sums[name] += value
        if now["kept_in"] > 0:
            scale = now["kept_out"] / now["kept_in"]
            self.low = scale if self.low is None else min(self.low, scale)
            self.high = scale if self.high is None else max(self.high, scale)
            center = now["ratio"] / now["kept"]
            apart = now["ratio_squares"] - now["kept"] * center * center
            self.spread_squares += max(apart, 0.0)
            self.spread_kept += now["kept"]
            uneven = apart > 1e-3 * now["kept"] * center * center
        return now["changed"] > 0, bool(uneven or now["drops"] > 0)

    def record(self, forward: Forward) -> Forward:
        """`forward` with the figures filled in."""
        if self.sums is None:
            return forward
        s = self.sums
        scale = s["kept_out"] / s["kept_in"] if s["kept_in"] else None
        spread = None
        if scale and self.spread_kept:
            spread = sqrt(self.spread_squares / self.spread_kept) / abs(scale)
        mean = error = None
        if s["total_in"]:
            mean = s["total_out"] / s["total_in"]
            rest = s["out_squares"] - 2 * mean * s["products"] + mean * mean * s["in_squares"]
            error = sqrt(max(rest, 0.0)) / s["total_in"]
            # A few inputs far larger than the rest decide the mean, and show no variation of it.
            rate = s["drops"] / s["draws"] if s["draws"] else 0.0
            by_chance = abs(scale or 0.0) * sqrt(rate * (1 - rate) * s["in_squares"])
            error = max(error, by_chance / s["total_in"])
        return replace(
            forward,
            elements=int(s["elements"]),
            draws=int(s["draws"]),
            drops=int(s["drops"]),
            mixed=int(s["mixed"]),
            units=int(s["units"]),
            scale=scale,
            scale_low=self.low,
            scale_high=self.high,
            spread=spread,
            mean=mean,
            mean_error=error,
        )


@dataclass
class BackwardTotal:
    """The backward sums of many backward passes, on the host."""

    calls: int = 0
    faulty: int = 0
    first_fault: int | None = None
    sums: dict[str, float] | None = None
    worst: float = 0.0
    products: int = 0
    broken_products: int = 0
    worst_product: float = 0.0
    recomputed: bool = False

    def add(self, row: list[float], step: int, *, recomputed: bool = False) -> None:
        """Add a row of `backward_sums`, measured in `step`."""
        now = dict(zip(BACKWARD, row, strict=True))
        if self.sums is None:
            self.sums = dict.fromkeys(BACKWARD, 0.0)
        for name, value in now.items():
            self.sums[name] += value
        self.worst = max(self.worst, now["worst"])
        self._count(now["broken"] > 0, step, recomputed)

    def add_products(
        self, gaps: list[float], bound: float, step: int, *, recomputed: bool = False
    ) -> None:
        """Add the normalized gaps of one call's inner products."""
        broken = sum(gap > bound for gap in gaps)
        self.products += len(gaps)
        self.broken_products += broken
        self.worst_product = max([self.worst_product, *gaps])
        self._count(broken > 0, step, recomputed)

    def mark(self, step: int, recomputed: bool) -> None:
        """A backward pass that the samples may have missed was faulty."""
        self.faulty = min(self.faulty + 1, max(self.calls, 1)) if self.calls else 1
        self.recomputed |= recomputed
        self.first_fault = step if self.first_fault is None else min(self.first_fault, step)

    def _count(self, faulty: bool, step: int, recomputed: bool) -> None:
        self.calls += 1
        if faulty:
            self.faulty += 1
            self.recomputed |= recomputed
            if self.first_fault is None:
                self.first_fault = step

    def record(self) -> Backward:
        """The totals, as they are judged."""
        s = self.sums or dict.fromkeys(BACKWARD, 0.0)
        return Backward(
            calls=self.calls,
            faulty=self.faulty,
            first_fault=self.first_fault,
            elements=int(s["elements"]),
            broken=int(s["broken"]),
            revived=int(s["revived"]),
            lost=int(s["lost"]),
            dropped=int(s["dropped"]),
            scale=s["gradient_out"] / s["gradient_in"] if s["gradient_in"] else None,
            worst=self.worst,
            products=self.products,
            broken_products=self.broken_products,
            worst_product=self.worst_product,
            recomputed=self.recomputed,
        )
