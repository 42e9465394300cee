"""The forward passes of a comparison: eval, probes for linearity, training; fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dropaudit.findings import Finding
from dropaudit.runtime.evaldraws import EvalDraws, draws_in_eval
from dropaudit.runtime.observer import Observer
from dropaudit.runtime.preservation import Snapshot, seed

_SEED = 20_120_703
_SPREAD = 3.0
"""Size of the probes for linearity, in units of the root mean square of an input."""


class Passes:
    """The passes of one comparison, each from the same state of the model.

    `call` gives the arguments of one call, each floating tensor of the inputs replaced by what its
    argument makes of it.
    """

    def __init__(
        self, model: nn.Module, call: Callable[[Any], Any], snapshot: Snapshot, observer: Observer
    ) -> None:
        self.model, self.call, self.snapshot, self.observer = model, call, snapshot, observer
        self.as_it_is = model.training
        self.stateful = False
        """Whether a training pass wrote to a parameter or buffer (power iteration, statistics)."""

    def all(self, samples: int) -> list[Finding]:
        draws = EvalDraws(self.observer)
        with draws:
            self.run("eval", 0)
        self.run("again", 1)
        random = any(bool(layer.varies) for layer in self.observer.layers.values())
        self.probe()
        for number in range(samples):
            if random:  # then eval, too, is known by its mean only
                self.run("follow", 2 * number + 2)
            self.run("train", 2 * number + 3)
        return draws_in_eval(draws, self.model)

    def run(
        self, phase: str, number: int, *, train: bool = False, change: Any = lambda x: x
    ) -> None:
        self.observer.start(phase)
        if not (train or phase == "train"):
            self.model.eval()
        elif not self.as_it_is:
            self.model.train()
        seed(_SEED + number)
        args, kwargs = self.call(change)
        self.model(*args, **kwargs)
        self.observer.finish()
        self.stateful |= self.snapshot.restore(random_state=False) and phase == "train"

    def probe(self) -> None:
        """Whether f(x + v) + f(x - v) = 2 f(x) in either mode, for large v and equal seeds."""
        changed: list[Tensor] = []
        self.call(lambda x: changed.append(x) or x)  # type: ignore[func-returns-value]
        if not changed:
            return
        for train in (False, True):
            for phase, side in (("middle", 0.0), ("plus", _SPREAD), ("minus", -_SPREAD)):
                try:
                    self.run(phase, 0, train=train, change=Moved(side))
                except Exception:
                    # An input that the model refuses when moved: the map is not known to be affine.
                    self.snapshot.restore(random_state=False)
                    for layer in self.observer.layers.values():
                        layer.bent = None
                    return


class Moved:
    """Moves each floating input by the same random direction, `side` times its size."""

    def __init__(self, side: float) -> None:
        self._side = side
        self._generator = torch.Generator().manual_seed(_SEED)

    def __call__(self, x: Tensor) -> Tensor:
        direction = torch.randn(x.shape, generator=self._generator, dtype=torch.float32)
        size = x.square().mean().sqrt().nan_to_num(1.0, 1.0, 1.0).clamp_min(1e-3)
        return x + self._side * size * direction.to(x.device, x.dtype)


def changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` made to each floating tensor in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() and value.numel() else value
    if type(value) in (tuple, list):
        return type(value)(changed(item, change) for item in value)
    if type(value) is dict:
        return {key: changed(item, change) for key, item in value.items()}
    return value
