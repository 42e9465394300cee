"""What a user's dropout does in evaluation, tried on a copy: classic dropout multiplies by q there.

The copy is run once, on the input of the first call, without gradient and with the random state put
back. A module that cannot be copied or run again is left alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropaudit.runtime.handmade import factor_of, function_name
from dropaudit.runtime.sites import first_tensor
from dropaudit.runtime.threads import THREAD

_MOST_PARAMETERS = 2_000_000


@dataclass
class Evaluated:
    """What the copy did in evaluation."""

    ratio: Tensor | None = None
    """`sum(y sign(x)) / sum|x|`, a number on the device; None if the shapes differ."""
    factors: list[float] = field(default_factory=list)
    """The numbers by which tensors were multiplied."""


def evaluate(module: nn.Module, args: Any, kwargs: Any) -> Evaluated | None:
    """Run a copy of `module` in eval mode; None where that cannot be done."""
    if sum(p.numel() for p in module.parameters()) > _MOST_PARAMETERS:
        return None
    x = first_tensor(args)
    if x is None or not x.numel():
        return None
    watch = _Factors()
    devices = [x.device] if x.device.type == "cuda" else []
    THREAD.quiet += 1
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            twin = copy.deepcopy(module).eval()
            again = tuple(a.detach().clone() if a is x else a for a in args)
            with watch:
                y = first_tensor(twin(*again, **kwargs))
            found = Evaluated(factors=watch.factors)
            if y is not None and y.shape == x.shape:
                with torch._C.DisableTorchFunction():
                    wide = x.detach().float()
                    found.ratio = (y.float() * wide.sgn()).sum() / wide.abs().sum()
            return found
    except Exception:  # the user's own code, which need not bear being copied
        return None
    finally:
        THREAD.quiet -= 1


class _Factors(TorchFunctionMode):
    """Notes the numbers that activations are multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factor = factor_of(function_name(func), args)
        if factor is not None:
            self.factors.append(factor)
        return func(*args, **(kwargs or {}))
