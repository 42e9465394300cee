"""Ways to run a block again for its gradient, with its random numbers and without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from tests.runtime.fault_layers import Attention, DropPath, HandDropout, Recipe, Recurrent

P = 0.2
FORM = "x * m / q"

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "nn.Dropout": lambda dim: nn.Dropout(P),
    "nn.Dropout1d": lambda dim: nn.Dropout1d(P),
    "nn.AlphaDropout": lambda dim: nn.AlphaDropout(P),
    "F.dropout": lambda dim: Functional(P),
    "module": lambda dim: HandDropout(Recipe(P), FORM),
    "DropPath": lambda dim: DropPath(Recipe(P), FORM),
    "SDPA": lambda dim: Attention(dim, P),
    "LSTM": lambda dim: Recurrent("LSTM", dim, P),
}


class Functional(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


Rerun = Callable[[nn.Module, Tensor, bool], Tensor]
"""Runs a block on an input, and again in the backward pass; with the same random numbers or not."""


def torch_checkpoint(
    block: Callable[[Tensor], Tensor],
    x: Tensor,
    keeps: bool,
    *,
    reentrant: bool = False,
    **more: Any,
) -> Tensor:
    return checkpoint(block, x, use_reentrant=reentrant, preserve_rng_state=keeps, **more)


def nested(block: nn.Module, x: Tensor, keeps: bool, *, outer: bool, inner: bool) -> Tensor:
    """Checkpoints in a checkpoint: the inner ones are run twice again."""

    def run(x: Tensor) -> Tensor:
        for layer in block:  # type: ignore[attr-defined]
            x = torch_checkpoint(layer, x, keeps, reentrant=inner)
        return x

    return torch_checkpoint(run, x, keeps, reentrant=outer)


def selective(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    """The products of matrices are kept, all else is run again."""
    kept = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]
    contexts = partial(create_selective_checkpoint_contexts, kept)
    return torch_checkpoint(block, x, keeps, context_fn=contexts)


def sequential(block: nn.Module, x: Tensor, keeps: bool, *, reentrant: bool) -> Tensor:
    return checkpoint_sequential(
        [*block, *block[:2]],  # type: ignore[misc]
        *(2, x),
        use_reentrant=reentrant,
        preserve_rng_state=keeps,
    )


def to_the_end(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    """Without early stop."""
    with set_checkpoint_early_stop(False):
        return torch_checkpoint(block, x, keeps)


def closed(block: nn.Module, x: Tensor, keeps: bool, *, reentrant: bool) -> Tensor:
    """A function around the block."""
    return torch_checkpoint(lambda value: block(value) * 1, x, keeps, reentrant=reentrant)


def saved_on_host(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    """Other hooks lie on those of the checkpoint."""

    def run(x: Tensor) -> Tensor:
        with torch.autograd.graph.save_on_cpu():
            return block(x)

    return torch_checkpoint(run, x, keeps)


class Again(torch.autograd.Function):
    """A checkpoint of one's own, as many projects have it."""

    @staticmethod
    def forward(ctx: Any, run: Any, keeps: bool, count: int, *values: Tensor) -> Tensor:
        ctx.run, ctx.state = run, torch.get_rng_state() if keeps else None
        ctx.inputs, ctx.weights = values[:count], values[count:]
        with torch.no_grad():
            return run(*ctx.inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = [value.detach().requires_grad_() for value in ctx.inputs]
        with torch.random.fork_rng(enabled=ctx.state is not None), torch.enable_grad():
            if ctx.state is not None:
                torch.set_rng_state(ctx.state)
            outputs = ctx.run(*inputs)
        found = torch.autograd.grad(outputs, [*inputs, *ctx.weights], gradients, allow_unused=True)
        return None, None, None, *found


class AgainByBackward(torch.autograd.Function):
    """Another: gradients of weights are added to them directly, the block runs with gradient."""

    @staticmethod
    def forward(ctx: Any, run: Any, keeps: bool, x: Tensor, *_: Tensor) -> Tensor:
        ctx.run, ctx.state = run, torch.get_rng_state() if keeps else None
        ctx.save_for_backward(x)
        return run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        before = torch.get_rng_state()
        if ctx.state is not None:
            torch.set_rng_state(ctx.state)
        with torch.enable_grad():
            output = ctx.run(x)
        if ctx.state is not None:
            torch.set_rng_state(before)
        torch.autograd.backward(output, gradient)
        return None, None, x.grad


def own(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    weights = [each for each in block.parameters() if each.requires_grad]
    return Again.apply(block, keeps, 1, x, *weights)  # type: ignore[no-any-return]


def own_closed(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    weights = [each for each in block.parameters() if each.requires_grad]
    run = lambda value: block(value) * 1  # noqa: E731
    return Again.apply(run, keeps, 1, x, *weights)  # type: ignore[no-any-return]


def own_by_backward(block: nn.Module, x: Tensor, keeps: bool) -> Tensor:
    return AgainByBackward.apply(block, keeps, x)  # type: ignore[no-any-return]


RERUNS: dict[str, Rerun] = {
    "non-reentrant": torch_checkpoint,
    "reentrant": partial(torch_checkpoint, reentrant=True),
    "nested": partial(nested, outer=False, inner=False),
    "nested reentrant": partial(nested, outer=True, inner=True),
    "reentrant outside": partial(nested, outer=True, inner=False),
    "selective": selective,
    "sequential": partial(sequential, reentrant=False),
    "sequential reentrant": partial(sequential, reentrant=True),
    "no early stop": to_the_end,
    "function": partial(closed, reentrant=False),
    "reentrant function": partial(closed, reentrant=True),
    "own Function": own,
    "own Function of a function": own_closed,
    "own Function by backward": own_by_backward,
}


class Checkpointed(nn.Module):
    """A block that is run again, between layers that are not."""

    def __init__(self, dim: int, layer: nn.Module, rerun: Rerun, keeps: bool) -> None:
        super().__init__()
        self.first = nn.Linear(dim, dim)
        self.block = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), layer, nn.Linear(dim, dim))
        self.last = nn.Linear(dim, dim)
        self.rerun, self.keeps = rerun, keeps

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.rerun(self.block, x, self.keeps) if self.training else self.block(x)
        return self.last(x)
