"""Dropout layers with a defect on demand: one recipe says what is wrong, many forms say how."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropaudit import site


@dataclass(frozen=True)
class Recipe:
    """What a layer does; the defaults are right. `drop` and `scale` of None follow from `p`."""

    p: float = 0.2
    drop: float | None = None
    scale: float | None = None
    when: Literal["training", "always", "never"] = "training"
    source: Literal["fresh", "frozen", "reseeded", "same"] = "fresh"
    """Drawn anew; kept from the first call; the generator seeded in each call; seeded once, with
    the same number in every layer."""
    backward: Literal["right", "resampled", "ignored", "unscaled"] = "right"
    factor: float = 1.0
    """What the result is multiplied by once more, in training."""

    @property
    def keep(self) -> float:
        return 1 - (self.p if self.drop is None else self.drop)

    @property
    def gain(self) -> float:
        return 1 / (1 - self.p) if self.scale is None else self.scale


@dataclass(frozen=True)
class Form:
    """One way to write a mask: how it is drawn, and how it is applied."""

    draw: Callable[[Tensor, tuple[int, ...], float, torch.Generator | None], Tensor]
    drop: Callable[[Tensor, Tensor, float], Tensor]


def _uniform(x: Tensor, shape: tuple[int, ...], g: torch.Generator | None) -> Tensor:
    return torch.rand(shape, dtype=x.dtype, generator=g)


FORMS = {
    "x * (rand < q) * s": Form(
        lambda x, shape, keep, g: _uniform(x, shape, g) < keep,
        lambda x, kept, scale: x * kept * scale,
    ),
    "x * m / q": Form(
        lambda x, shape, keep, g: x.new_empty(shape).bernoulli_(keep, generator=g),
        lambda x, kept, scale: x * kept / (1 / scale),
    ),
    "m.div_(q) * x": Form(
        lambda x, shape, keep, g: (_uniform(x, shape, g) > 1 - keep).to(x.dtype),
        lambda x, kept, scale: kept.clone().div_(1 / scale) * x,
    ),
    "x.div(q) * m.floor()": Form(
        lambda x, shape, keep, g: keep + _uniform(x, shape, g),
        lambda x, kept, scale: x.div(1 / scale) * kept.floor(),
    ),
    "bernoulli_(q).div_(q)": Form(
        lambda x, shape, keep, g: torch.full(shape, keep, dtype=x.dtype).bernoulli_(
            keep, generator=g
        ),
        lambda x, kept, scale: x * kept.div(1 / scale),
    ),
    "where": Form(
        lambda x, shape, keep, g: _uniform(x, shape, g) >= keep,
        lambda x, dropped, scale: torch.where(dropped, 0.0, x * scale),
    ),
    "masked_fill": Form(
        lambda x, shape, keep, g: _uniform(x, shape, g) >= keep,
        lambda x, dropped, scale: x.masked_fill(dropped, 0.0) * scale,
    ),
}


class Sampler:
    """Draws the masks of one layer as its recipe says, and applies them."""

    def __init__(self, recipe: Recipe, form: str) -> None:
        self.recipe, self.form = recipe, FORMS[form]
        self.generator: torch.Generator | None = None
        if recipe.source in ("reseeded", "same"):
            self.generator = torch.Generator().manual_seed(1)
        self.kept: Tensor | None = None

    def mask(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.recipe.source == "frozen" and self.kept is not None:
            return self.kept
        if self.recipe.source == "reseeded" and self.generator is not None:
            self.generator.manual_seed(1)
        self.kept = self.form.draw(x, shape, self.recipe.keep, self.generator)
        return self.kept

    def dropout(self, x: Tensor, training: bool, shape: tuple[int, ...]) -> Tensor:
        when = self.recipe.when
        if when == "never" or (when == "training" and not training):
            return x
        y = self.form.drop(x, self.mask(x, shape), self.recipe.gain)
        return y * self.recipe.factor if self.recipe.factor != 1.0 else y


class HandDropout(nn.Module):
    """A user's own dropout module: a decision an element."""

    def __init__(self, recipe: Recipe, form: str) -> None:
        super().__init__()
        self.p, self.sampler = recipe.p, Sampler(recipe, form)

    def forward(self, x: Tensor) -> Tensor:
        return self.sampler.dropout(x, self.training, tuple(x.shape))


class DropPath(nn.Module):
    """A decision a sample; `axis="element"` is the mistake."""

    def __init__(self, recipe: Recipe, form: str, axis: str = "sample") -> None:
        super().__init__()
        self.drop_prob, self.sampler, self.axis = recipe.p, Sampler(recipe, form), axis

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        whole = tuple(x.shape) if self.axis == "element" else shape
        return self.sampler.dropout(x, self.training, whole)


class StochasticDepth(nn.Module):
    """One decision a batch, as torchvision's in mode "batch"."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.mode = p, "batch"

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.empty([1] * x.dim(), dtype=x.dtype).bernoulli_(1 - self.p).div_(1 - self.p)
        return x * noise


class LockedDropout(nn.Module):
    """One mask for all places of a sequence."""

    def __init__(self, recipe: Recipe, form: str) -> None:
        super().__init__()
        self.p, self.sampler = recipe.p, Sampler(recipe, form)

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], 1, *x.shape[2:]) if x.dim() > 2 else tuple(x.shape)
        return self.sampler.dropout(x, self.training, shape)


class Block(nn.Module):
    """A mask written by hand in the forward of a layer that has parameters."""

    def __init__(self, recipe: Recipe, form: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.sampler = Sampler(recipe, form)

    def forward(self, x: Tensor) -> Tensor:
        return self.sampler.dropout(x * self.scale, self.training, tuple(x.shape))


class DropFunction(torch.autograd.Function):
    """Dropout with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recipe: Recipe) -> Tensor:
        kept = torch.rand_like(x) < recipe.keep
        ctx.save_for_backward(kept)
        ctx.recipe = recipe
        return x * kept * recipe.gain

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (kept,), (dy,), recipe = ctx.saved_tensors, grads, ctx.recipe
        if recipe.backward == "ignored":
            return dy * recipe.gain, None
        if recipe.backward == "resampled":
            kept = torch.rand_like(dy) < recipe.keep
        return dy * kept * (1.0 if recipe.backward == "unscaled" else recipe.gain), None


class FunctionDropout(nn.Module):
    """The module around `DropFunction`."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.p, self.recipe = recipe.p, recipe

    def forward(self, x: Tensor) -> Tensor:
        if self.recipe.when == "training" and not self.training:
            return x
        return DropFunction.apply(x, self.recipe)


class DropBlock(nn.Module):
    """The same function, called in a layer with parameters: nothing declares p."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.scale, self.recipe = nn.Parameter(torch.ones(())), recipe

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if self.recipe.when == "training" and not self.training:
            return x
        return DropFunction.apply(x, self.recipe)


@site(p="p", training="training")
def fused_dropout(x: Tensor, p: float, training: bool, recipe: Recipe) -> Tensor:
    """A kernel's wrapper, declared a site."""
    if recipe.when == "training" and not training:
        return x
    return DropFunction.apply(x, recipe)


class Fused(nn.Module):
    """A layer with parameters that calls it."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.scale, self.recipe = nn.Parameter(torch.ones(())), recipe

    def forward(self, x: Tensor) -> Tensor:
        return fused_dropout(x * self.scale, self.recipe.p, self.training, self.recipe)


class ClassicDropout(nn.Module):
    """Unscaled in training, times q in evaluation: as in the first paper."""

    def __init__(self, p: float, by_hand: bool = False) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * (torch.rand_like(x) < 1 - self.p)
        return x * (1 - self.p)


class GaussianDropout(nn.Module):
    """Multiplies by noise of a mean that should be 1."""

    def __init__(self, p: float, mean: float = 1.0) -> None:
        super().__init__()
        self.p, self.mean = p, mean

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (self.mean + math.sqrt(self.p / (1 - self.p)) * torch.randn_like(x))


class Functional(nn.Module):
    """A dropout function of torch, by name; `training` of None passes the mode."""

    def __init__(self, name: str, p: float, training: Any = None, gain: float = 1.0) -> None:
        super().__init__()
        space, bare = name.split(".")
        self.function = getattr(F if space == "F" else torch, bare)
        self.rate, self.always, self.gain = p, training, gain

    def forward(self, x: Tensor) -> Tensor:
        on = self.training if self.always is None else self.always
        y = self.function(x, self.rate, on)
        return y * self.gain if self.gain != 1.0 and on else y


class Attention(nn.Module):
    """Self-attention by the fused function; `always` leaves its dropout on."""

    def __init__(self, dim: int, p: float, always: bool = False, lends: bool = False) -> None:
        super().__init__()
        self.qkv, self.rate, self.always = nn.Linear(dim, 3 * dim), p, always
        self.attn_drop = nn.Dropout(p) if lends else None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        rate = self.rate if self.attn_drop is None else self.attn_drop.p
        p = rate if self.training or self.always else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        return y.transpose(1, 2).flatten(2)


class Multihead(nn.Module):
    def __init__(self, dim: int, p: float, weights: bool = False) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, 2, dropout=p, batch_first=True)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.weights)[0]


class Recurrent(nn.Module):
    def __init__(self, kind: str, dim: int, p: float) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(dim, dim, 2, dropout=p, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]
