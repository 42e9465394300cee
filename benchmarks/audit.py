"""Time training steps bare and audited, side by side, in one run.

    python benchmarks/audit.py [--device cpu] [--rounds 12] [--steps 4] [--threads N] [MODEL ...]

The contenders take turns, round after round, so that a busy machine is unfair to all alike; each
round compares neighbors in time. Printed are the median step time, the median over the rounds of
the ratio to the bare step of the same round, and what the audit held in memory at most. On a GPU
with `--device cuda`, a model of the size of GPT-2 is timed in bfloat16 as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import dropaudit

Step = Callable[[], None]


class ConvNet(nn.Module):
    """A small image classifier with feature dropout."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU(), nn.Dropout2d(0.1))
            for a, b in pairwise(widths)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        head: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return head


class Language(nn.Module):
    """An LSTM language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(2000, 256)
        self.lstm = nn.LSTM(256, 256, 2, dropout=0.2, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(256, 2000)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.drop(self.embed(tokens)))
        logits: Tensor = self.head(self.drop(hidden))
        return logits


def transformer(width: int, heads: int, layers: int) -> nn.Module:
    """An encoder with dropout 0.1 everywhere."""
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


@dataclass(frozen=True)
class Model:
    """A model and a batch for it."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    dtype: torch.dtype = torch.float32


MODELS = {
    "transformer": Model(lambda: transformer(256, 4, 6), lambda: torch.randn(16, 128, 256)),
    "lstm": Model(Language, lambda: torch.randint(0, 2000, (16, 64))),
    "convnet": Model(ConvNet, lambda: torch.randn(32, 3, 64, 64)),
}
GPU_MODELS = {
    "gpt2-size": Model(
        lambda: transformer(768, 12, 12), lambda: torch.randn(8, 1024, 768), torch.bfloat16
    ),
}


@dataclass
class Contender:
    """A way to run the steps."""

    name: str
    watch: Callable[[nn.Module], AbstractContextManager[Any]]
    aim: str = ""
    seconds: list[float] = field(default_factory=list)
    held: int = 0


def contenders() -> list[Contender]:
    """Bare first: the others are compared with it."""
    return [
        Contender("bare", lambda model: nullcontext()),
        Contender("audited, 4,096 elements", _audited(), "<= 1.03"),
        Contender("audited, every 100th step", _audited(every=100), "<= 1.005"),
        Contender("audited, all elements", _audited(elements="all"), "<= 1.12"),
    ]


def _audited(**options: Any) -> Callable[[nn.Module], AbstractContextManager[Any]]:
    @contextmanager
    def watch(model: nn.Module) -> Iterator[Any]:
        with dropaudit.audit(model, on_finding="collect", **options) as audit:
            yield audit

    return watch


def main() -> None:
    """Parse the command line, time each model, print a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=4, help="timed steps a round and contender")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    models = {**MODELS, **(GPU_MODELS if device.type == "cuda" else {})}
    for name in arguments.models or models:
        if name not in models:
            parser.error(f"there is no model {name!r}; there are {', '.join(models)}")
        _time(name, models[name], device, arguments.rounds, arguments.steps)


def _time(name: str, spec: Model, device: torch.device, rounds: int, steps: int) -> None:
    torch.manual_seed(0)
    model = spec.build().to(device, spec.dtype)
    batch = spec.batch().to(device)
    batch = batch.to(spec.dtype) if batch.is_floating_point() else batch
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(batch).float().square().mean().backward()
        optimizer.step()

    racing = contenders()
    for _ in range(3):
        step()
    for turn in range(rounds):
        for contender in racing[turn % len(racing) :] + racing[: turn % len(racing)]:
            with contender.watch(model) as audit:
                step()  # an audit's first step finds its sites; the later ones are what is paid
                _wait(device)
                start = time.perf_counter()
                for _ in range(steps):
                    step()
                _wait(device)
                contender.seconds.append((time.perf_counter() - start) / steps)
            if audit is not None:
                held = sum(site.memory for site in audit.report.sites)
                contender.held = max(contender.held, held)
    _print(name, device, racing)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _print(name: str, device: torch.device, racing: list[Contender]) -> None:
    bare = racing[0].seconds
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}"
    print(f"\n{name} on {where}, {torch.get_num_threads()} threads, {len(bare)} rounds")
    print(f"{'':<28}{'median ms':>10}{'x bare':>9}{'aim':>10}{'held KiB':>10}")
    for contender in racing:
        ratios = [mine / theirs for mine, theirs in zip(contender.seconds, bare, strict=True)]
        print(
            f"{contender.name:<28}{median(contender.seconds) * 1e3:>10.2f}{median(ratios):>9.3f}"
            f"{contender.aim:>10}{contender.held / 1024:>10.0f}"
        )


if __name__ == "__main__":
    main()
