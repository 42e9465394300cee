"""How far the training mode of a model is from its eval mode on average, as plain numbers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Any

from dropaudit.findings import Finding

ALPHA = 1e-6
"""The chance, over a whole comparison, that any interval misses."""


@dataclass(frozen=True)
class LayerGap:
    """One layer in both modes; gaps are `E[train] - eval`, counted toward larger magnitude.

    The gap of a layer is the mean over its output elements of `sign(eval) * (train - eval)`, so
    that values of both signs do not cancel: 10 % of the activations dropped and not scaled up
    make a relative gap of -0.1. Figures are None where there was nothing to compare (`note` says
    why).
    """

    name: str
    """Path of the module; "" for the model itself."""
    class_name: str
    calls: int
    """Calls in a pass in eval mode."""
    elements: int
    """Output elements compared in each pass, over its calls."""
    mean_gap: float | None = None
    """In units of the output."""
    interval: tuple[float, float] | None = None
    """Around `mean_gap`; all layers' intervals hold together, but for a chance of `ALPHA`."""
    relative_gap: float | None = None
    """`mean_gap` over the mean magnitude in eval."""
    relative_interval: tuple[float, float] | None = None
    variance_ratio: float | None = None
    """Variance in training over variance in eval. Of all output elements together, over masks and
    data in training and over data in eval: 1 / (1 - p) behind a dropout of values centered on 0.
    For a batch norm, of its *input*, by channel, the median over channels: how far its running
    variance, learned in training, is from what it sees in eval (Li et al., CVPR 2019)."""
    linear: bool = False
    """Whether the map from the inputs of the model to this layer was tried and found affine for
    fixed random numbers, so that a gap is a defect. Elsewhere a gap is only reported."""
    site: bool = False
    """Whether the module is a dropout: judged on its own input (`own_gap`), a gap is a defect."""
    own_gap: float | None = None
    """For a dropout: E[y] over its own input, less what eval mode multiplies by."""
    own_interval: tuple[float, float] | None = None
    random_in_eval: bool = False
    """Whether two eval passes over the same inputs differed."""
    note: str = ""

    @property
    def asserted(self) -> bool:
        """Whether a gap here is a finding."""
        return self.linear or self.site

    @property
    def differs(self) -> bool:
        """Whether the interval excludes a gap of 0."""
        return self.interval is not None and not self.interval[0] <= 0.0 <= self.interval[1]


@dataclass(frozen=True)
class ModeComparison:
    """E[train] against eval: a record for each layer, in the order in which they finish."""

    model: str
    """Class of the model."""
    samples: int
    """Passes in training mode."""
    layers: tuple[LayerGap, ...]
    findings: tuple[Finding, ...]
    alpha: float = ALPHA

    def to_json(self) -> str:
        """The comparison as JSON text."""
        return json.dumps(_finite(asdict(self)), indent=2)

    def __str__(self) -> str:
        """A table of at most 100 columns, the findings below it."""
        head = (
            f"{self.model}: E[train] against eval, {self.samples} passes; gaps relative to eval\n"
            f"{'layer':<28} {'class':<16} {'gap':>9} {'interval':>21} {'variance':>8}  note"
        )
        rows = [_row(layer) for layer in self.layers]
        foot = [f"intervals hold together at 1 - {self.alpha:g}; {_legend(self.layers)}"]
        lines = [head, *rows, *foot]
        for finding in self.findings:
            lines += wrap(str(finding), 100, subsequent_indent="    ", break_long_words=False)
        return "\n".join(lines if self.findings else [*lines, "no findings"])


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(layer: LayerGap) -> str:
    gap, span, ratio = "-", "-", "-"
    if layer.relative_gap is not None and layer.relative_interval is not None:
        low, high = layer.relative_interval
        gap, span = f"{layer.relative_gap:+.4f}", f"{low:+.4f} .. {high:+.4f}"
    if layer.variance_ratio is not None:
        ratio = f"{layer.variance_ratio:.3f}"
    marks = "".join(
        mark
        for mark, holds in (
            ("d", layer.site),
            ("l", layer.linear),
            ("r", layer.random_in_eval),
            ("!", layer.differs),
            ("?", bool(layer.note)),
        )
        if holds
    )
    if layer.own_gap is not None:
        marks += f" {layer.own_gap:+.3f}"
    name, kind = _short(layer.name or "(model)", 28), _short(layer.class_name, 16)
    return f"{name:<28} {kind:<16} {gap:>9} {span:>21} {ratio:>8}  {marks}".rstrip()


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def _legend(layers: tuple[LayerGap, ...]) -> str:
    marks = ["d dropout and its own gap", "l affine", "! differs"]
    if any(layer.random_in_eval for layer in layers):
        marks.append("r random eval")
    if any(layer.note for layer in layers):
        marks.append("? note")
    return ", ".join(marks)


def half_width(variance: float, span: float, samples: int, alpha: float) -> float:
    """Half the interval around a mean of `samples` values, wrong with a chance of `alpha`.

    The empirical Bernstein bound of Maurer and Pontil (COLT 2009, theorem 4), two-sided:
    `sqrt(2 V L / n) + 7 R L / (3 (n - 1))`, `L = ln(4 / alpha)`. Student's t would trust the
    variance of a few values, and fails where drops are rare; this pays for the range as well. The
    range R is the observed one: what never happened in all passes is not covered by it (`unseen`).

    >>> round(half_width(1.0, 6.0, 1000, 1e-6), 3)
    0.387
    """
    if samples < 2:
        return math.inf
    log = math.log(4 / alpha)
    return math.sqrt(2 * variance * log / samples) + 7 * span * log / (3 * (samples - 1))


def unseen(size: float, samples: int, alpha: float) -> float:
    """What an event worth `size` that no pass showed can move a mean by.

    Such an event has a probability of at most `ln(1 / alpha) / samples`: the rule of three
    (Hanley and Lippman-Hand, JAMA 249, 1983) at another level.

    >>> round(unseen(1.0, 1000, 0.05), 4)
    0.003
    """
    return size * min(1.0, math.log(1 / alpha) / samples)
