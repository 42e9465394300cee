"""Which elements of a tensor are looked at, and a copy of just those."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """Fixed positions in tensors of one shape: all, or evenly spread ones.

    The step between them shares no factor with the last dimension, so that no channel is left out.

    >>> Positions((8, 16), 4096).count
    128
    >>> Positions((100, 64), 10).step % 2
    1
    """

    shape: tuple[int, ...]
    limit: int | None

    @cached_property
    def total(self) -> int:
        return prod(self.shape)

    @cached_property
    def step(self) -> int:
        if self.limit is None or self.total <= self.limit:
            return 1
        step = self.total // self.limit
        widths = [width for width in self.shape if width > 1]
        while step > 1 and any(gcd(step, width) > 1 for width in widths[-2:]):
            step -= 1
        return max(step, 1)

    @cached_property
    def count(self) -> int:
        return self.total if self.limit is None else min(self.total, self.limit)

    def flat(self, device: torch.device | None = None) -> Tensor:
        """The positions in row-major order, shape (count,), int64."""
        return torch.arange(self.count, device=device) * self.step


class Sampler:
    """Copies the elements at fixed positions. Index tensors are kept per shape and device."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._flat: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}
        self._indices: dict[tuple[tuple[int, ...], torch.device], tuple[Tensor, ...]] = {}
        self._units: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[Tensor, int]] = {}

    def positions(self, shape: torch.Size) -> Positions:
        """The positions for tensors of this shape."""
        return Positions(tuple(shape), self._limit)

    def take(self, tensor: Tensor) -> Tensor:
        """A copy of the elements of `tensor` at its positions, shape (count,), detached."""
        tensor = tensor.detach()
        at = self.positions(tensor.shape)
        if at.count == at.total:
            return tensor.reshape(-1).clone() if tensor.is_contiguous() else tensor.reshape(-1)
        key = (at.shape, tensor.device)
        if tensor.is_contiguous():
            flat = self._flat.get(key)
            if flat is None:
                flat = self._flat[key] = at.flat(tensor.device)
            return tensor.view(-1).index_select(0, flat)
        indices = self._indices.get(key)
        if indices is None:
            indices = self._indices[key] = torch.unravel_index(at.flat(tensor.device), at.shape)
        return tensor[indices]

    def units(
        self, shape: tuple[int, ...], dims: tuple[int, ...], device: torch.device
    ) -> tuple[Tensor, int]:
        """Which draw each position belongs to when decisions differ along `dims` only.

        Returns:
            The number of the draw, shape (count,), and how many draws there are.
        """
        key = (shape, dims)
        known = self._units.get(key)
        if known is None:
            at = Positions(shape, self._limit)
            indices = torch.unravel_index(at.flat(), shape)
            number = torch.zeros(at.count, dtype=torch.int64)
            for dim in dims:
                number = number * shape[dim] + indices[dim]
            values, inverse = torch.unique(number, return_inverse=True)
            known = self._units[key] = (inverse, len(values))
        return known[0].to(device), known[1]


def seen_fully(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read here: real, strided, and no stand-in.

    Fake, meta, nested, quantized, sparse, batched (`vmap`) and wrapped tensors cannot.
    """
    return (
        type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
        and tensor.is_floating_point()
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )
