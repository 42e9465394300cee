"""E[train] against eval, layer by layer: what dropout is said to keep equal."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropaudit.findings import Finding, Location
from dropaudit.runtime import sites
from dropaudit.runtime.evaldraws import finding
from dropaudit.runtime.failure import settle
from dropaudit.runtime.gaps import ALPHA, LayerGap, ModeComparison, half_width, unseen
from dropaudit.runtime.moments import Moments
from dropaudit.runtime.observer import Layer, Observer
from dropaudit.runtime.passes import Passes, changed
from dropaudit.runtime.places import location
from dropaudit.runtime.preservation import fresh, preserved
from dropaudit.runtime.report import Report
from dropaudit.runtime.trace import Trace

_FEW_DROPS = 30
"""Fewer drops over all passes make a site rare: an interval must pay for what was not seen."""
_BENT = 1e-3


def compare_modes(
    model: nn.Module,
    inputs: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any],
    *,
    samples: int = 256,
    on_finding: Literal["raise", "warn", "collect"] = "collect",
) -> ModeComparison:
    """Compare the average over `samples` passes in training mode with eval mode, by layer.

    Args:
        model: on any device. A model that is handed over in training mode runs its training passes
            with the modes it has (frozen parts stay frozen); any other after `model.train()`. So
            a batch norm uses the statistics of the batch where it would in training; its running
            statistics are put back after every pass, and each pass starts from the same state.
        inputs: what one call takes: a tensor, a tuple of positional or a mapping of keyword
            arguments. Each pass gets a copy.
        samples: passes in training mode, at least 2. Half the width of an interval falls with
            the root of it, and below some 30 the price of few samples (1 / samples) dominates.
        on_finding: "collect" returns findings, "warn" also warns, "raise" raises
            `DropoutAuditError` when one has severity error.

    Returns:
        A record for each layer that ran, and findings: dropout that is on in eval, a dropout
        module whose E[y] is not what it does in eval, and a gap where the map from the inputs is
        affine. Behind a nonlinearity a gap is no defect, and only reported.

    Nothing of the model changes, nor do random states; the result depends on the arguments alone.
    At most 65,536 elements of each output are compared, chosen evenly.

    Raises:
        TypeError, ValueError: for arguments that are of no use, in one sentence.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    >>> comparison = compare_modes(net, torch.ones(16, 4), samples=64)
    >>> [layer.name for layer in comparison.layers], comparison.findings
    (['0', '1', ''], ())
    """
    call = _checked(model, inputs, samples, on_finding)
    observer = Observer(model)
    # The hooks come first: the snapshot is put back between passes, and they must outlive that.
    with observer.watching(), preserved(model) as snapshot, torch.no_grad():
        passes = Passes(model, call, snapshot, observer)
        found = passes.all(samples)
    layers = _records(observer, samples, passes.stateful)
    found += _gaps(observer.finished, layers, found)
    name = type(model).__name__
    comparison = ModeComparison(name, samples, tuple(layers), tuple(found))
    settle(Report(Trace(models=(name,)), comparison.findings), on_finding)
    return comparison


def _checked(
    model: nn.Module, inputs: Any, samples: int, on_finding: str
) -> Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Refuse what cannot work; else how the inputs, changed or not, are passed to the model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, and is {_kind(model)}")
    if isinstance(samples, bool) or not isinstance(samples, int):
        raise TypeError(f"samples must be an int, and is {_kind(samples)}")
    if samples < 2:
        raise ValueError(f"samples must be at least 2, and is {samples}")
    if on_finding not in ("raise", "warn", "collect"):
        raise ValueError(f"on_finding must be raise, warn or collect, and is {on_finding!r}")
    if isinstance(inputs, Mapping):
        if not all(isinstance(key, str) for key in inputs):
            raise TypeError("inputs given as a mapping must have the names of arguments as keys")
    elif not isinstance(inputs, (Tensor, tuple, list)):
        raise TypeError(f"inputs must be a tensor, a tuple or a dict, and is {_kind(inputs)}")

    def call(change: Callable[[Tensor], Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        copied = changed(fresh(inputs), change)
        if isinstance(copied, dict):
            return (), copied
        return (copied,) if isinstance(copied, Tensor) else tuple(copied), {}

    return call


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _records(observer: Observer, samples: int, stateful: bool) -> list[LayerGap]:
    """The figures of each layer, fetched from the device."""
    alpha = ALPHA / max(2 * len(observer.finished), 1)
    # Alpha dropout keeps mean and variance of standard normal inputs, not every expectation.
    exact = not stateful and not any(_is_alpha(layer.module) for layer in observer.finished)
    rare = False
    records = []
    for layer in observer.finished:
        rare |= _is_rare(layer, samples)
        records.append(_record(layer, alpha, rare, exact))
    return records


def _record(layer: Layer, alpha: float, rare: bool, exact: bool) -> LayerGap:
    base = LayerGap(
        layer.name,
        type(layer.module).__name__,
        layer.calls,
        layer.elements,
        site=_judged(layer),
        random_in_eval=bool(layer.varies),
        variance_ratio=_variance_ratio(layer),
        note=_note(layer),
    )
    own = _own(layer, alpha)
    if base.site and own is not None:
        gap, half = own
        base = replace(base, own_gap=gap, own_interval=(gap - half, gap + half))
    if base.note:
        return base
    moments = layer.deviation
    size = sum(float(s.reference[s.reference.isfinite()].abs().sum()) for s in layer.slots.values())
    size /= layer.elements
    gap = float(moments.mean)
    half = _half(moments, size, alpha, rare) + _rounding(layer) * size
    bent = None if layer.bent is None else float(layer.bent)
    low, high = gap - half, gap + half
    return replace(
        base,
        mean_gap=gap,
        interval=(low, high),
        relative_gap=gap / size if size else None,
        relative_interval=(low / size, high / size) if size else None,
        linear=exact and bent is not None and bent < _BENT and not base.random_in_eval,
    )


def _judged(layer: Layer) -> bool:
    """Whether a gap between E[y] and c x is a defect: not at p = 1, which drops everything."""
    if not layer.site or _is_alpha(layer.module) or sites.rate(layer.module) == 1:
        return False
    if layer.guessed and not (layer.masks is not None and bool(layer.masks)):
        return False
    return layer.identity is not None and bool(layer.identity)


def _is_alpha(module: nn.Module) -> bool:
    return "alpha" in type(module).__name__.lower()


def _note(layer: Layer) -> str:
    if layer.mismatch:
        return "the outputs differ in number or shape between passes"
    if not layer.slots:
        return "no floating-point output" if layer.skipped else "no output that holds tensors"
    if not layer.deviation.count:
        return "ran in eval mode only"
    if not bool(layer.deviation.mean.isfinite()):
        return "training gave values that are not finite where eval did not"
    return ""


def _half(moments: Moments, size: float, alpha: float, rare: bool) -> float:
    gap, variance = float(moments.mean), float(moments.variance)
    half = half_width(variance, float(moments.span), moments.count, alpha)
    if rare or variance == 0:
        half += unseen(size + abs(gap), moments.count, alpha) if gap else 0.0
    return half


def _rounding(layer: Layer) -> float:
    """Relative error of a value that was computed, and scaled, in the dtype of the outputs."""
    return max(4 * torch.finfo(slot.dtype).eps for slot in layer.slots.values())


def _variance_ratio(layer: Layer) -> float | None:
    mean, square = layer.spread
    if not mean.count:
        return None
    train = square.mean - mean.mean.square()
    if layer.eval_spread is not None:
        useful = layer.eval_spread > 0
        ratio = train[useful] / layer.eval_spread[useful]
        return float(ratio.median()) if ratio.numel() else None
    total = sum(
        float((s.reference - s.center)[s.reference.isfinite()].square().sum())
        for s in layer.slots.values()
    )
    return float(train) / (total / layer.elements) if total > 0 else None


def _gaps(finished: list[Layer], layers: list[LayerGap], found: list[Finding]) -> list[Finding]:
    """DRP111 (DRP216 if it drops in eval) at each dropout module; else at the first affine layer
    that shows a gap.
    """
    explained = {finding.where.module for finding in found}
    gaps = []
    for layer, record in zip(finished, layers, strict=True):
        if record.own_gap is not None and record.own_interval is not None:
            low, high = record.own_interval
            if not low <= 0 <= high:
                gaps.append(_site_gap(layer, record.own_gap, low, high))
        elif _own_mask_in_eval(layer) and layer.name not in explained:
            message = f"{type(layer.module).__name__} drops after model.eval()"
            gaps.append(finding("DRP216", _where(layer), message, ()))
    if gaps or found:
        return gaps
    for layer, record in zip(finished, layers, strict=True):
        if record.linear and record.differs:
            return [_layer_gap(layer, record)]
    return []


def _own_mask_in_eval(layer: Layer) -> bool:
    if not layer.site or layer.drops_in_eval is None or sites.is_torch_dropout(layer.module):
        return False
    if layer.guessed and not (layer.masks is not None and bool(layer.masks)):
        return False
    return bool(layer.drops_in_eval)


def _own(layer: Layer, alpha: float) -> tuple[float, float] | None:
    """Of a dropout: E[y] / x in training less that in eval, and half its interval."""
    if not layer.own_gap.count or layer.factor is None:
        return None
    factor, gap = float(layer.factor), float(layer.own_gap.mean)
    half = _half(layer.own_gap, abs(factor), alpha, _is_rare(layer, layer.own_gap.count))
    return gap, half + _rounding(layer)


def _site_gap(layer: Layer, gap: float, low: float, high: float) -> Finding:
    factor = 0.0 if layer.factor is None else float(layer.factor)
    message = (
        f"{type(layer.module).__name__} multiplies by {factor + gap:.4g} in training, on average,"
        f" and by {factor:.4g} in eval"
    )
    figures = (("mean", factor + gap), ("eval", factor), ("gap", gap), ("low", low), ("high", high))
    return finding("DRP111", _where(layer), message, figures)


def _is_rare(layer: Layer, passes: int) -> bool:
    p = sites.rate(layer.module) if layer.site else None
    return p is not None and 0 < p < 1 and passes * layer.draws * min(p, 1 - p) < _FEW_DROPS


def _layer_gap(layer: Layer, record: LayerGap) -> Finding:
    assert record.relative_gap is not None and record.relative_interval is not None
    low, high = record.relative_interval
    message = (
        f"the output is off by {100 * record.relative_gap:+.3g} % in training, on average, against"
        f" eval, though the map to it is affine: a mask in this layer, or in what feeds it, is not"
        f" scaled as it should be"
    )
    figures = (("gap", record.relative_gap), ("low", low), ("high", high))
    return finding("DRP111", _where(layer), message, figures)


def _where(layer: Layer) -> Location:
    """Where the class of the layer says what it computes."""
    forward = inspect.unwrap(type(layer.module).forward)
    code = getattr(forward, "__code__", None)
    if code is None:
        return location("", 0, layer.name)
    return location(code.co_filename, code.co_firstlineno, layer.name)
