"""Ways to run a block again for its gradient, with its random numbers and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

from tests.runtime.fault_layers import Attention, DropPath, HandDropout, Recipe, Recurrent
from tests.runtime.fault_programs import loss_of, optimizer_of, train_and_evaluate

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


class Held(nn.Module):
    """A method of one's own is run again: in the backward pass nothing is around the dropout."""

    def __init__(self, dim: int, keeps: bool, reentrant: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)
        self.keeps, self.reentrant = keeps, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return torch_checkpoint(self.run, x, self.keeps, reentrant=self.reentrant)

    def run(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class InFunction(Held):
    def run(self, x: Tensor) -> Tensor:
        x = F.dropout(torch.tanh(self.linear(x)), P, self.training)
        return self.linear(F.dropout(torch.tanh(x), P, self.training))


class InFunctionAtTheEnd(Held):
    """Early stop ends the second run within the dropout."""

    def run(self, x: Tensor) -> Tensor:
        return F.dropout(torch.tanh(self.linear(x)), P, self.training)


class ByHand(Held):
    def run(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.linear(x))
        if self.training:
            dropped = (torch.rand_like(x) >= P).to(x.dtype)
            x = x * dropped / (1 - P)
        return self.linear(x)


class AttentionInFunction(Held):
    def run(self, x: Tensor) -> Tensor:
        q = self.linear(x)
        return F.scaled_dot_product_attention(q, q, q, dropout_p=P if self.training else 0.0)


class OwnFunction(InFunction):
    def forward(self, x: Tensor) -> Tensor:
        return Again.apply(self.run, self.keeps, 1, x, *self.parameters())  # type: ignore[no-any-return]


class OneForAll(nn.Module):
    """One dropout serves several blocks, each run again by itself."""

    def __init__(self, dim: int, keeps: bool, reentrant: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(4))
        self.drop = nn.Dropout(P)
        self.keeps, self.reentrant = keeps, reentrant

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            run = partial(self.run, layer)
            x = torch_checkpoint(run, x, self.keeps, reentrant=self.reentrant)
        return x

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(self.drop(torch.tanh(layer(x))))  # type: ignore[no-any-return]


class OneInput(OneForAll):
    """All of them get one input."""

    def forward(self, x: Tensor) -> Tensor:
        runs = [partial(self.run, layer) for layer in self.layers]
        each = [torch_checkpoint(run, x, self.keeps, reentrant=self.reentrant) for run in runs]
        return torch.stack(each).sum(0)

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(self.drop(x))  # type: ignore[no-any-return]


class OwnGenerator(Held):
    """A checkpoint restores torch's generators, and none of the user's."""

    def __init__(self, dim: int, keeps: bool, reentrant: bool) -> None:
        super().__init__(dim, keeps, reentrant)
        self.generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))

    def forward(self, x: Tensor) -> Tensor:
        state = self.generator.get_state()
        run = partial(self.dropped, state=state)
        return torch_checkpoint(run, x, True, reentrant=self.reentrant)

    def dropped(self, x: Tensor, state: Tensor) -> Tensor:
        x = torch.tanh(self.linear(x))
        if not self.training:
            return self.linear(x)  # type: ignore[no-any-return]
        before = self.generator.get_state()
        if self.keeps:
            self.generator.set_state(state)
        dropped = (torch.rand(x.shape, generator=self.generator) >= P).to(x.dtype)
        if self.keeps and not torch.equal(before, state):
            self.generator.set_state(before)
        return self.linear(x * dropped / (1 - P))  # type: ignore[no-any-return]


class OwnSeed(Held):
    """A seed that is drawn once and handed on, or anew in each run, from another source."""

    def __init__(self, dim: int, keeps: bool, reentrant: bool) -> None:
        super().__init__(dim, keeps, reentrant)
        self.seeds = random.Random(int(torch.randint(2**31, ())))

    def forward(self, x: Tensor) -> Tensor:
        run = partial(self.dropped, seed=self.seeds.randrange(2**31))
        return torch_checkpoint(run, x, True, reentrant=self.reentrant)

    def dropped(self, x: Tensor, seed: int) -> Tensor:
        x = torch.tanh(self.linear(x))
        if self.training:
            seed = seed if self.keeps else self.seeds.randrange(2**31)
            generator = torch.Generator().manual_seed(seed)
            dropped = (torch.rand(x.shape, generator=generator) >= P).to(x.dtype)
            x = x * dropped / (1 - P)
        return self.linear(x)  # type: ignore[no-any-return]


class DrawsOnceMore(Held):
    """The second run draws a number more before its mask."""

    def __init__(self, dim: int, keeps: bool, reentrant: bool) -> None:
        super().__init__(dim, True, reentrant)
        self.even, self.runs = keeps, 0

    def run(self, x: Tensor) -> Tensor:
        self.runs += 1
        if not self.even and self.runs % 2 == 0:
            torch.rand(1)
        return self.linear(F.dropout(torch.tanh(self.linear(x)), P, self.training))  # type: ignore[no-any-return]


class SavedDraw(Held):
    """A policy that saves random numbers: the second run draws fewer, and so draws others."""

    def forward(self, x: Tensor) -> Tensor:
        contexts = partial(create_selective_checkpoint_contexts, self.policy)
        return torch_checkpoint(self.run, x, True, context_fn=contexts)

    def policy(self, context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        saved = torch.ops.aten.addmm.default if self.keeps else torch.ops.aten.rand_like.default
        saves = op is saved
        return CheckpointPolicy.MUST_SAVE if saves else CheckpointPolicy.PREFER_RECOMPUTE

    def run(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.linear(x + 0.1 * torch.rand_like(x)))
        return self.linear(F.dropout(x, P, self.training))  # type: ignore[no-any-return]


HELD: dict[str, Callable[[int, bool, bool], nn.Module]] = {
    "functions": InFunction,
    "function at the end": InFunctionAtTheEnd,
    "mask by hand": ByHand,
    "attention": AttentionInFunction,
    "own Function": OwnFunction,
    "one dropout for all": OneForAll,
    "one input for all": OneInput,
    "own generator": OwnGenerator,
    "own seed": OwnSeed,
    "one draw more": DrawsOnceMore,
    "saved draw": SavedDraw,
}
"""Blocks of their own, made of a width, whether their second run repeats the first, and whether the
checkpoint is reentrant."""


class Stack(nn.Module):
    """Several such blocks: the lines are the same, the modules are not."""

    def __init__(self, dim: int, *blocks: nn.Module) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.first(x)))  # type: ignore[no-any-return]


def without_optimizer(model: nn.Module, batch: Callable[[], Any]) -> None:
    for _ in range(4):
        loss_of(model(batch())).backward()


def accumulating(model: nn.Module, batch: Callable[[], Any]) -> None:
    """Several forward passes, then as many backward passes."""
    optimizer = optimizer_of(model)
    for _ in range(3):
        losses = [loss_of(model(batch())) for _ in range(3)]
        for loss in losses:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def interleaved(model: nn.Module, batch: Callable[[], Any]) -> None:
    """As in a pipeline: one forward pass ahead."""
    optimizer = optimizer_of(model)
    for _ in range(3):
        waiting = loss_of(model(batch()))
        for _ in range(2):
            ahead = loss_of(model(batch()))
            waiting.backward()
            waiting = ahead
        waiting.backward()
        optimizer.step()
        optimizer.zero_grad()


def by_grad(model: nn.Module, batch: Callable[[], Any]) -> None:
    """Gradients of the inputs alone."""
    for _ in range(4):
        x = batch().requires_grad_()
        torch.autograd.grad(loss_of(model(x)), [x])


DRILLS: dict[str, Callable[[nn.Module, Callable[[], Any]], None]] = {
    "training": train_and_evaluate,
    "without optimizer": without_optimizer,
    "accumulating": accumulating,
    "interleaved": interleaved,
    "by grad": by_grad,
}
