"""Right programs that look wrong: nothing may be said of any of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from tests.runtime.fault_layers import (
    Attention,
    ClassicDropout,
    DropPath,
    GaussianDropout,
    HandDropout,
    LockedDropout,
    Multihead,
    Recipe,
    Recurrent,
    StochasticDepth,
)
from tests.runtime.fault_programs import (
    Build,
    Net,
    Program,
    Setting,
    evaluate,
    loss_of,
    optimizer_of,
    program,
    train,
    train_and_evaluate,
    whole,
)

P = 0.2


@dataclass(frozen=True)
class Twin:
    """A healthy program; `spared` are codes that it may get all the same."""

    name: str
    build: Build
    shape: str = "rows"
    spared: tuple[str, ...] = ()


def twins() -> tuple[Twin, ...]:
    few = ("DRP000",)
    return (
        Twin(
            "p lent to attention", program(lambda s: Attention(s.dim, P, lends=True)), "sequences"
        ),
        Twin("multihead attention", program(lambda s: Multihead(s.dim, P)), "sequences"),
        Twin("its weights asked for", program(lambda s: Multihead(s.dim, P, True)), "sequences"),
        Twin(
            "transformer layers",
            program(lambda s: nn.TransformerEncoderLayer(s.dim, 2, 64, P, batch_first=True)),
            "sequences",
        ),
        Twin("LSTM", program(lambda s: Recurrent("LSTM", s.dim, P)), "sequences"),
        Twin("GRU", program(lambda s: Recurrent("GRU", s.dim, P)), "sequences"),
        Twin("stochastic depth by batch", program(lambda s: StochasticDepth(P)), spared=few),
        Twin("classic dropout", program(lambda s: ClassicDropout(P))),
        Twin("Gaussian dropout", program(lambda s: GaussianDropout(P))),
        Twin("heads that take turns", program(lambda s: Turns(s.dim))),
        Twin("LayerDrop", program(lambda s: LayerDrop(s.dim))),
        Twin("variational mask in 32 calls", program(lambda s: Variational()), "sequences"),
        Twin("locked dropout", program(lambda s: LockedDropout(Recipe(P), FORM)), "sequences"),
        Twin("module that wraps nn.Dropout", program(lambda s: WrapperDropout(P))),
        Twin("hooks that change gradients", program(lambda s: nn.Dropout(P), drill=hooked)),
        Twin("changed in place afterwards", program(lambda s: ChangedAfterwards(P))),
        Twin("infinite and NaN gradients", program(lambda s: nn.Dropout(P), drill=overflowing)),
        Twin("a tiny tensor", program(lambda s: nn.Dropout(P), drill=tiny), spared=few),
        Twin("p of 0.0001", program(lambda s: nn.Dropout(1e-4))),
        Twin("p of 0.999", program(lambda s: nn.Dropout(0.999)), spared=few),
        Twin("p of 0.999 by hand", program(lambda s: HandDropout(Recipe(0.999), FORM)), spared=few),
        Twin("p of 0", program(lambda s: nn.Dropout(0.0)), spared=("DRP002",)),
        Twin("p of 1", program(lambda s: nn.Dropout(1.0)), spared=("DRP000", "DRP002")),
        Twin("masked language model", whole(lambda s: MaskedModel(s.dim)), "sequences"),
        Twin("variational autoencoder", whole(lambda s: Autoencoder(s.dim))),
        Twin("Gumbel softmax", program(lambda s: Gumbel(), lambda s: nn.Dropout(P))),
        Twin("zoneout", program(lambda s: Zoneout(P), lambda s: nn.Dropout(P))),
        Twin("generative adversaries", adversaries),
        Twin("mean teacher", mean_teacher),
        Twin("gradient cache", program(lambda s: nn.Dropout(P), drill=gradient_cache)),
        Twin("update_bn", whole(lambda s: Normalized(s.dim), drill=averaging)),
        Twin("lazy modules", whole(lambda s: Lazy())),
        Twin("Monte Carlo dropout", program(lambda s: nn.Dropout(P), drill=monte_carlo)),
        Twin("frozen backbone", frozen_backbone),
        Twin("gradient accumulation", program(lambda s: nn.Dropout(P), drill=accumulating)),
        Twin("double backward", program(lambda s: nn.Dropout(P), drill=penalized)),
        Twin("partial backward", program(lambda s: TwoHeads(s.dim))),
        Twin("several backwards", program(lambda s: nn.Dropout(P), drill=retaining)),
        Twin("a part without gradient", program(lambda s: PartlyFrozen(P))),
        Twin("shared module", shared),
        Twin("one module called thrice", whole(lambda s: Thrice(s.dim))),
        Twin("recursion", whole(lambda s: Recursive(s.dim))),
        Twin("threads", threaded),
        Twin("inference_mode", program(lambda s: nn.Dropout(P), drill=inferring)),
        Twin("in-place dropout", program(lambda s: nn.Dropout(P, inplace=True))),
        Twin("ReLU zeros and padding", program(lambda s: Padded(P)), "sequences"),
        Twin("checkpoint", program(lambda s: Rerun(s.dim, False)), "sequences"),
        Twin("reentrant checkpoint", program(lambda s: Rerun(s.dim, True)), "sequences"),
        Twin("scaled activations, by hand", program(lambda s: ScaledBefore(s.dim))),
        Twin("p by a schedule", program(lambda s: nn.Dropout(P), drill=scheduled)),
        Twin("sum after dropout", program(lambda s: Expanded(P)), "sequences"),
        Twin("autocast", program(lambda s: nn.Dropout(P), drill=autocast)),
        Twin("drop path", program(lambda s: DropPath(Recipe(P), FORM)), "images"),
        Twin("evaluation between epochs", program(lambda s: nn.Dropout(P), drill=epochs)),
    )


FORM = "x * m / q"


class Turns(nn.Module):
    """One of two heads runs in each step."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Dropout(P)) for _ in "ab")
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.heads[self.calls % 2](x)


class LayerDrop(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Dropout(P)) for _ in "abc"
        )
        self.layerdrop = 0.5

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if not self.training or torch.rand(()) >= self.layerdrop:
                x = x + layer(x)
        return x


class Variational(nn.Module):
    """One mask a sequence, applied step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.scale = P, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        if not self.training:
            return x
        mask = torch.empty_like(x[:, 0]).bernoulli_(1 - self.dropout) / (1 - self.dropout)
        steps = [x[:, n % x.shape[1]] * mask for n in range(32)]
        return torch.stack(steps, 1)[:, : x.shape[1]]


class WrapperDropout(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.dropout = p, nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x)


class ChangedAfterwards(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(x * 1)
        y += 1
        return y.mul_(2)


class MaskedModel(nn.Module):
    """Replaces tokens at random, and drops as well."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed, self.drop = nn.Linear(dim, dim), nn.Dropout(P)
        self.token, self.mlm_probability = nn.Parameter(torch.zeros(dim)), 0.15

    def forward(self, x: Tensor) -> Tensor:
        masked = torch.rand(x.shape[:2]) < self.mlm_probability
        x = torch.where(masked[..., None], self.token, x)
        weights = masked.to(x.dtype)[..., None]
        return self.drop(self.embed(x)) * weights


class Autoencoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean, self.log, self.drop = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Dropout(P)

    def forward(self, x: Tensor) -> Tensor:
        mean, log = self.mean(x), self.log(x)
        z = mean + torch.randn_like(mean) * (0.5 * log).exp() if self.training else mean
        return self.drop(z)


class Gumbel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gumbel_softmax(x, hard=True) * x if self.training else x.softmax(-1) * x


class Zoneout(nn.Module):
    """Keeps the old state in place of a zero."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.rate, self.scale = p, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        new = torch.tanh(x * self.scale)
        if not self.training:
            return self.rate * x + (1 - self.rate) * new
        mask = torch.bernoulli(torch.full_like(x, self.rate))
        return mask * x + (1 - mask) * new


class Normalized(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.BatchNorm1d(dim), nn.Dropout(P))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(16), nn.GELU(), nn.Dropout(P), nn.LazyLinear(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TwoHeads(nn.Module):
    """Only one head's result goes into the loss."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(P))
        self.other = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(P))

    def forward(self, x: Tensor) -> Tensor:
        self.other(x)
        return self.one(x)


class PartlyFrozen(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop, self.again = nn.Dropout(p), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.drop(x).mean()
        return self.again(x) - target


class Thrice(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(dim, dim), HandDropout(Recipe(P), FORM)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.drop(torch.tanh(self.fc(x)))
        return x


class Recursive(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc, self.drop = nn.Linear(dim, dim), nn.Dropout(P)

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        x = self.drop(torch.tanh(self.fc(x)))
        return self(x, depth - 1) if depth else x


class Padded(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        x = torch.cat([x[:, :-4], torch.zeros_like(x[:, -4:])], 1)
        return self.drop(x)[:, :-4]


class Rerun(nn.Module):
    def __init__(self, dim: int, reentrant: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(dim, dim),
            nn.Dropout(P),
            Attention(dim, P),
            HandDropout(Recipe(P), FORM),
            Recurrent("LSTM", dim, P),
        )
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.block(x)
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


class ScaledBefore(nn.Module):
    """Other factors stand before and behind a mask."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc, self.dropout = nn.Linear(dim, dim), P

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x) * math.sqrt(x.shape[-1])
        if self.training:
            keep = 1 - self.dropout
            x = x * (torch.rand_like(x) < keep) / keep
        return x * 0.125


class Expanded(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x[:, :1].expand_as(x)) + self.drop(x.transpose(0, 1)).transpose(0, 1)


def hooked(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for _ in range(4):
        optimizer.zero_grad()
        y = model(batch())
        y.register_hook(lambda grad: grad * 2)
        h = model.layers[0](y)
        h.register_hook(lambda grad: grad.clamp(-1e-2, 1e-2))
        y.retain_grad()
        loss_of(h).backward()
        optimizer.step()


def overflowing(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for n in range(5):
        optimizer.zero_grad()
        loss = loss_of(model(batch()))
        (loss * (math.inf if n == 1 else math.nan if n == 3 else 1.0)).backward()
        if n % 2 == 0:
            optimizer.step()


def tiny(model: nn.Module, batch: Callable[[], Any]) -> None:
    train_and_evaluate(model, lambda: batch()[:1, None, :].mean(1).expand(1, -1), 2)


def monte_carlo(model: nn.Module, batch: Callable[[], Any]) -> None:
    train(model, batch)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    evaluate(model, batch, 8)


def accumulating(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(4):
            (loss_of(model(batch())) / 4).backward()
        optimizer.step()


def penalized(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for _ in range(4):
        optimizer.zero_grad()
        x = batch().requires_grad_()
        loss = loss_of(model(x))
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        (loss + grad.float().square().sum()).backward()
        optimizer.step()


def retaining(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for _ in range(4):
        optimizer.zero_grad()
        y = model(batch())
        y.float().sum().backward(retain_graph=True)
        loss_of(y).backward()
        optimizer.step()


def inferring(model: nn.Module, batch: Callable[[], Any]) -> None:
    train(model, batch)
    model.eval()
    with torch.inference_mode():
        model(batch())


def scheduled(model: nn.Module, batch: Callable[[], Any]) -> None:
    for n in range(4):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1 * (n + 1)
        train(model, batch, 2)


def autocast(model: nn.Module, batch: Callable[[], Any]) -> None:
    optimizer = optimizer_of(model)
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model(batch()))
        loss.backward()
        optimizer.step()


def epochs(model: nn.Module, batch: Callable[[], Any]) -> None:
    for _ in range(3):
        train_and_evaluate(model, batch, 3)


def gradient_cache(model: nn.Module, batch: Callable[[], Any]) -> None:
    """Representations without gradient first, then chunk by chunk with the cached gradients."""
    optimizer = optimizer_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        chunks, states, kept = [batch() for _ in range(2)], [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(torch.get_rng_state())
                kept.append(model(chunk))
        leaves = [y.detach().requires_grad_() for y in kept]
        loss_of(torch.cat(leaves)).backward()
        for chunk, state, leaf in zip(chunks, states, leaves, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                y = model(chunk)
            y.backward(leaf.grad)
        optimizer.step()


def averaging(model: nn.Module, batch: Callable[[], Any]) -> None:
    average = AveragedModel(model)
    for _ in range(2):
        train(model, batch, 2)
        average.update_parameters(model)
    update_bn([batch() for _ in range(3)], average)
    update_bn([batch() for _ in range(3)], model)


def adversaries(setting: Setting) -> Program:
    """The discriminator's step runs the generator, in training, without gradient."""
    one, other = (Net(setting.dim, nn.Dropout(P)).to(setting.dtype) for _ in range(2))

    def run() -> None:
        first, second = optimizer_of(one), optimizer_of(other)
        for _ in range(4):
            second.zero_grad()
            with torch.no_grad():
                fake = one(setting.batch())
            loss_of(other(fake) - other(setting.batch())).backward()
            second.step()
            first.zero_grad()
            loss_of(other(one(setting.batch()))).backward()
            first.step()

    return Program((one, other), run)


def mean_teacher(setting: Setting) -> Program:
    """The teacher is in training mode on purpose, and only follows."""
    student = Net(setting.dim, nn.Dropout(P)).to(setting.dtype)
    teacher = copy.deepcopy(student)

    def run() -> None:
        optimizer = optimizer_of(student)
        for _ in range(4):
            optimizer.zero_grad()
            x = setting.batch()
            with torch.no_grad():
                target = teacher(x)
            loss_of(student(x) - target).backward()
            optimizer.step()
            with torch.no_grad():
                for p, q in zip(teacher.parameters(), student.parameters(), strict=True):
                    p.mul_(0.9).add_(q, alpha=0.1)

    return Program((student, teacher), run)


def frozen_backbone(setting: Setting) -> Program:
    """A backbone in eval mode under a head that learns."""
    backbone = Net(setting.dim, nn.Dropout(P)).requires_grad_(False).eval()
    head = Net(setting.dim, nn.Dropout(P))
    model = nn.Sequential(backbone, head).to(setting.dtype)

    def run() -> None:
        for _ in range(2):
            model.train()
            backbone.eval()
            train(model, setting.batch, 3)
            model.eval()
            evaluate(model, setting.batch)

    return Program((model,), run)


def shared(setting: Setting) -> Program:
    """The same dropout object at three places."""
    drop = nn.Dropout(P)
    model = Net(setting.dim, drop, drop, drop).to(setting.dtype)
    return Program((model,), lambda: train_and_evaluate(model, setting.batch))


def threaded(setting: Setting) -> Program:
    """Replicas run in threads, as in DataParallel."""
    model = Net(setting.dim, nn.Dropout(P)).to(setting.dtype)

    def run() -> None:
        optimizer = optimizer_of(model)
        for _ in range(3):
            optimizer.zero_grad()
            with ThreadPoolExecutor(2) as pool:
                results = list(pool.map(model, [setting.batch() for _ in range(2)]))
            loss_of(torch.cat(results)).backward()
            optimizer.step()

    return Program((model,), run)


TWINS = twins()
