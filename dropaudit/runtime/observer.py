"""Watching every layer of a model pass after pass, in eval mode first, then in training mode."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dropaudit.runtime import sites
from dropaudit.runtime.measure import wide
from dropaudit.runtime.moments import Moments
from dropaudit.runtime.sampling import Sampler, seen_fully

ELEMENTS = 65_536
"""Elements that are compared of each output, spread evenly over it."""
_RATE = re.compile(r"^(p|prob|rate|drop\w*|p_drop\w*)$")
_AUGMENTS = re.compile(r"random|eras|cut|aug|flip|jitter|noise|spec", re.IGNORECASE)
"""Names of modules that hide parts of their input on purpose, and scale nothing."""


@dataclass
class Slot:
    """One output tensor of one call of a layer: its values in eval mode, and those of a probe."""

    shape: torch.Size
    dtype: torch.dtype
    reference: Tensor
    """Values in eval mode, shape (elements,)."""
    current: Tensor
    """Those to compare with: the reference, or the latest eval pass where eval is random."""
    sign: Tensor
    center: Tensor
    probe: Tensor | None = None


@dataclass
class Layer:
    """What is gathered of one module."""

    name: str
    module: nn.Module
    site: bool = False
    guessed: bool = False
    """A site only if it masks: it has a rate, but is not called a dropout."""
    masks: Tensor | None = None
    """For a guessed site: whether y was 0 or s x, with one s, in training."""
    slots: dict[tuple[int, int], Slot] = field(default_factory=dict)
    calls: int = 0
    """Calls in the eval pass."""
    seen: int = 0
    """Calls in the current pass."""
    sums: Tensor | None = None
    """Of the current pass: deviation, shifted value, its square; elements."""
    count: int = 0
    deviation: Moments = field(default_factory=Moments)
    spread: tuple[Moments, Moments] = field(default_factory=lambda: (Moments(), Moments()))
    eval_spread: Tensor | None = None
    channel_center: Tensor | None = None
    inputs: list[Tensor | None] = field(default_factory=list)
    """Samples of the inputs of calls that are running, for a site."""
    own: Tensor | None = None
    """Of the current pass, for a site: deviation from c x, and sum of |x|."""
    own_gap: Moments = field(default_factory=Moments)
    factor: Tensor | None = None
    """For a site: y / x in eval mode."""
    draws: int = 0
    """For a site: decisions a pass."""
    varies: Tensor | None = None
    """Whether a second eval pass differed."""
    identity: Tensor | None = None
    """For a site: whether y = c x in eval mode."""
    drops_in_eval: Tensor | None = None
    """For a site: whether some of y is 0, and some not, where x is not, in eval mode."""
    bent: Tensor | None = None
    """The largest relative departure from an affine map that a probe met."""
    mismatch: bool = False
    skipped: int = 0
    """Outputs whose values cannot be compared."""

    @property
    def elements(self) -> int:
        return sum(slot.reference.numel() for slot in self.slots.values())


class Observer:
    """Hooks on all modules of a model; `phase` says what the running pass is for.

    Phases: "eval" sets the reference, "again" looks whether eval is random, "follow" moves what
    the next training pass is compared with, "train" compares; "middle", "plus", "minus" probe
    whether the map to a layer is affine.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {
            module: Layer(name, module, _is_site(module) or _may_mask(module), _may_mask(module))
            for name, module in model.named_modules()
        }
        self.finished: list[Layer] = []
        """Layers in the order in which they finish in the eval pass."""
        self.phase = "eval"
        self.open: list[str] = []
        """Paths of the modules that are running."""
        self._sampler = Sampler(ELEMENTS)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on, and off again."""
        with ExitStack() as stack:
            for module in self.layers:
                for handle in (
                    module.register_forward_pre_hook(self._enter, with_kwargs=True),
                    module.register_forward_hook(self._leave),
                ):
                    stack.callback(handle.remove)
            yield

    def start(self, phase: str) -> None:
        """A pass begins."""
        self.phase, self.open = phase, []
        for layer in self.layers.values():
            layer.seen, layer.count, layer.sums, layer.own = 0, 0, None, None
            layer.inputs = []

    def finish(self) -> None:
        """The pass ended without an error: its sums are one value each."""
        if self.phase != "train":
            return
        for layer in self.layers.values():
            if layer.sums is not None:
                deviation, shifted, square = layer.sums
                layer.deviation.add(deviation / layer.count)
                if layer.channel_center is None:
                    layer.spread[0].add(shifted / layer.count)
                    layer.spread[1].add(square / layer.count)
            if layer.own is not None:
                off, size = layer.own
                layer.own_gap.add(torch.where(size > 0, off / size, 0.0))

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        layer = self.layers[module]
        self.open.append(layer.name)
        x = sites.first_tensor(args) if args else sites.first_tensor(kwargs)
        if layer.site:
            held = x is not None and seen_fully(x) and x.numel() > 0
            layer.inputs.append(wide(self._sampler.take(x)) if held and x is not None else None)
            if self.phase == "eval" and x is not None:
                layer.draws += _draws(module, x)
        if isinstance(module, _BatchNorm) and x is not None and x.dim() > 1 and x.numel():
            self._channels(layer, wide(x.detach()))

    def _channels(self, layer: Layer, x: Tensor) -> None:
        """The variance of a batch norm's input by channel, over batch and positions."""
        rows = x.transpose(0, 1).flatten(1)
        if self.phase == "eval" and layer.channel_center is None:
            layer.channel_center = rows.mean(1)
            layer.eval_spread = rows.var(1, unbiased=False)
        elif self.phase == "train" and layer.channel_center is not None:
            rows = rows - layer.channel_center[:, None]
            layer.spread[0].add(rows.mean(1))
            layer.spread[1].add(rows.square().mean(1))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        layer = self.layers[module]
        if self.open:
            self.open.pop()
        if layer.site:
            self._own(layer, output)
        call, layer.seen = layer.seen, layer.seen + 1
        if self.phase == "eval":
            layer.calls += 1
            if layer in self.finished:
                self.finished.remove(layer)
            self.finished.append(layer)
        for number, tensor in enumerate(tensors(output)):
            if not seen_fully(tensor) or not tensor.numel():
                layer.skipped += self.phase == "eval"
                continue
            self._take(layer, (call, number), tensor)

    def _take(self, layer: Layer, key: tuple[int, int], tensor: Tensor) -> None:
        # Sampled at once: what runs next may change it in place.
        value = wide(self._sampler.take(tensor))
        slot = layer.slots.get(key)
        if self.phase == "eval":
            self._refer(layer, key, tensor, value)
            return
        if slot is None or slot.shape != tensor.shape:
            layer.mismatch = True
            return
        if self.phase == "train":
            finite = slot.current.isfinite()
            off = torch.where(finite, (value - slot.current) * slot.sign, 0.0)
            shifted = torch.where(finite, value - slot.center, 0.0)
            sums = torch.stack([off.sum(), shifted.sum(), shifted.square().sum()])
            layer.sums = sums if layer.sums is None else layer.sums + sums
            layer.count += value.numel()
        elif self.phase == "again":
            # Kernels that add in any order differ by rounding: that is no randomness.
            apart, size = (value - slot.reference).abs(), slot.reference.abs().nan_to_num(0.0, 0.0)
            rounding = 64 * torch.finfo(slot.dtype).eps * size.amax()
            differs = (apart > rounding).any()
            layer.varies = differs if layer.varies is None else layer.varies | differs
        elif self.phase == "follow":
            slot.current = value
        elif self.phase == "middle":
            slot.probe = -2 * value
        elif self.phase == "plus" and slot.probe is not None:
            slot.probe = slot.probe + value
        elif slot.probe is not None:
            # For an affine map f(x - v) - 2 f(x) + f(x + v) is 0 but for rounding.
            apart = (slot.probe + value).abs().nan_to_num(0.0).mean()
            size = value.abs().nan_to_num(0.0).mean() + (slot.probe.abs()).nan_to_num(0.0).mean()
            bent = torch.where(size > 0, apart / size, 0.0)
            layer.bent = bent if layer.bent is None else torch.maximum(layer.bent, bent)

    def _refer(self, layer: Layer, key: tuple[int, int], tensor: Tensor, value: Tensor) -> None:
        finite = value[value.isfinite()]
        center = finite.mean() if finite.numel() else value.new_zeros(())
        sign = torch.where(value < 0, -1.0, 1.0).to(value.dtype)
        layer.slots[key] = Slot(tensor.shape, tensor.dtype, value, value, sign, center)

    def _own(self, layer: Layer, output: Any) -> None:
        """A dropout, against its own input: E[y] is to be c x, c what it does in eval mode."""
        x = layer.inputs.pop() if layer.inputs else None
        y = sites.first_tensor(output)
        if x is None or y is None or not seen_fully(y):
            return
        y = wide(self._sampler.take(y))
        if y.shape != x.shape:
            layer.site = False
            return
        size, along = x.abs().sum(), (y * x.sgn()).sum()
        if self.phase == "eval":
            factor = torch.where(size > 0, along / size, 1.0)
            same = ((y - factor * x).abs() <= 0.02 * (factor * x).abs() + 1e-7).all()
            zero = (y == 0) & (x != 0)
            layer.drops_in_eval = zero.any() & ((y != 0) & (x != 0)).any()
            first = layer.factor is None
            layer.factor = factor if first else layer.factor
            layer.identity = same if first or layer.identity is None else layer.identity & same
        elif self.phase == "train" and layer.factor is not None:
            if layer.guessed:
                masks = _masks(x, y)
                layer.masks = masks if layer.masks is None else layer.masks & masks
            own = torch.stack([along - layer.factor * size, size])
            layer.own = own if layer.own is None else layer.own + own


def tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of an output: alone, in tuples, lists, mappings (ModelOutput), dataclasses."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from tensors(value)
    elif is_dataclass(output) and not isinstance(output, type):
        for item in fields(output):
            yield from tensors(getattr(output, item.name, None))


def _is_site(module: nn.Module) -> bool:
    return sites.is_torch_dropout(module) or sites.looks_like_dropout(module)


def _may_mask(module: nn.Module) -> bool:
    """Whether a leaf that is not called a dropout may be one: it has a rate, and no weights."""
    if _is_site(module) or type(module).__module__.startswith("torch."):
        return False
    if next(module.parameters(), None) is not None or next(module.children(), None) is not None:
        return False
    named = _AUGMENTS.search(type(module).__name__)
    return not named and any(
        isinstance(value, float) and 0 < value < 1 and _RATE.match(name)
        for name, value in vars(module).items()
    )


def _masks(x: Tensor, y: Tensor) -> Tensor:
    kept = (y != 0) & (x != 0)
    ratio = torch.where(kept, y / x, 0.0)
    scale = ratio.abs().amax()
    same = (ratio - scale).abs() <= 0.02 * scale
    return (same | ~kept).all() & ((y == 0) & (x != 0)).any() & kept.any()


def _draws(module: nn.Module, x: Tensor) -> int:
    """How many decisions a call makes, at the least."""
    if isinstance(module, nn.Dropout):
        return x.numel()
    return x.shape[0] if x.dim() else 1
