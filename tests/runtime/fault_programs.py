"""Small training programs around a layer: forward, loss, backward, SGD step, and an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropaudit.findings import Finding
from dropaudit.runtime.auditor import audit

SHAPES = {
    "rows": (64, 64),
    "sequences": (16, 12, 32),
    "images": (8, 16, 8, 8),
    "volumes": (4, 16, 4, 4, 8),
}
"""Of a batch. What is dropped has this shape too."""


@dataclass(frozen=True)
class Setting:
    """In which precision and shape a program runs."""

    dtype: torch.dtype = torch.float32
    shape: str = "rows"

    @property
    def sizes(self) -> tuple[int, ...]:
        return SHAPES[self.shape]

    @property
    def dim(self) -> int:
        return self.sizes[-1]

    def batch(self) -> Tensor:
        return torch.randn(self.sizes, dtype=self.dtype)


@dataclass(frozen=True)
class Program:
    """The models to audit, and what runs meanwhile."""

    models: tuple[nn.Module, ...]
    run: Callable[[], Any]
    elements: int | Literal["all"] = 4096


Build = Callable[[Setting], Program]
"""Makes a fresh program; all of its random numbers come from torch's default generator."""
Layer = Callable[[Setting], nn.Module]


class Net(nn.Module):
    """Layers to be tried, each behind a linear one and an activation."""

    def __init__(self, dim: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.linear = nn.ModuleList(nn.Linear(dim, dim) for _ in range(len(layers) + 1))
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        for linear, layer in zip(self.linear, self.layers, strict=False):
            x = layer(self.activation(linear(x)))
        return self.linear[-1](x)


def loss_of(y: Any) -> Tensor:
    y = y[0] if isinstance(y, tuple) else y
    return y.float().square().sum() / 16


def optimizer_of(*models: nn.Module) -> torch.optim.Optimizer:
    parameters = [p for m in models for p in m.parameters() if p.requires_grad]
    return torch.optim.SGD(parameters, lr=1e-4)


def train(model: nn.Module, batch: Callable[[], Any], steps: int = 5) -> None:
    optimizer = optimizer_of(model)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model(batch())).backward()
        optimizer.step()


def evaluate(model: nn.Module, batch: Callable[[], Any], batches: int = 2) -> None:
    with torch.no_grad():
        for _ in range(batches):
            model(batch())


def train_and_evaluate(model: nn.Module, batch: Callable[[], Any], steps: int = 5) -> None:
    model.train()
    train(model, batch, steps)
    model.eval()
    evaluate(model, batch)
    model.train()


Drill = Callable[[nn.Module, Callable[[], Any]], None]


def program(*layers: Layer, drill: Drill = train_and_evaluate, elements: Any = 4096) -> Build:
    """The layers in a `Net`, put through a drill."""
    return whole(lambda s: Net(s.dim, *(layer(s) for layer in layers)), drill, elements)


def whole(model: Layer, drill: Drill = train_and_evaluate, elements: Any = 4096) -> Build:
    """A model of its own, put through a drill."""

    def build(setting: Setting) -> Program:
        made = model(setting).to(setting.dtype)
        return Program((made,), lambda: drill(made, setting.batch), elements)

    return build


def codes_of(build: Build, setting: Setting, seed: int) -> list[str]:
    """The codes of severity error and warning that an audit of the program gives."""
    return sorted({finding.code for finding in findings_of(build, setting, seed)})


def findings_of(build: Build, setting: Setting, seed: int) -> list[Finding]:
    """Those findings. That in-place dropout breaks a backward pass is torch's to say."""
    torch.manual_seed(seed)
    program = build(setting)
    with audit(*program.models, elements=program.elements, on_finding="collect") as watched:
        try:
            program.run()
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
    return [finding for finding in watched.report.findings if finding.severity != "info"]
