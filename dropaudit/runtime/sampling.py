"""Which elements of a tensor are looked at, and a copy of just those."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import gcd, prod

import torch
from torch import Tensor

_RUN = 16
"""Neighbors that are taken together: they lie in one line of the cache."""


@dataclass(frozen=True)
class Positions:
    """Fixed positions in tensors of one shape: all, or short runs that are evenly spread.

    The step between runs shares no factor with the last dimensions, so that no channel is left out.

    >>> Positions((8, 16), 4096).count
    128
    >>> at = Positions((100, 64), 32)
    >>> at.count, at.step % 2
    (32, 1)
    >>> at.flat().tolist()[14:18]
    [14, 15, 3199, 3200]
    """

    shape: tuple[int, ...]
    limit: int | None

    @cached_property
    def total(self) -> int:
        return prod(self.shape)

    @cached_property
    def run(self) -> int:
        """Length of a run."""
        if self.limit is None or self.total <= self.limit:
            return self.total
        return min(_RUN, self.limit)

    @cached_property
    def runs(self) -> int:
        """How many runs there are."""
        if self.limit is None or self.total <= self.limit:
            return 1
        return max(self.limit // self.run, 1)

    @cached_property
    def step(self) -> int:
        """From the start of one run to that of the next."""
        step = max(self.total // self.runs, 1)
        widths = [width for width in self.shape if width > 1]
        while step > self.run and any(gcd(step, width) > 1 for width in widths[-2:]):
            step -= 1
        return step

    @cached_property
    def count(self) -> int:
        return self.run * self.runs

    def flat(self, device: torch.device | None = None) -> Tensor:
        """The positions in row-major order, shape (count,), int64."""
        starts = torch.arange(self.runs, device=device) * self.step
        return (starts[:, None] + torch.arange(self.run, device=device)).reshape(-1)


class Sampler:
    """Copies the elements at fixed positions. Index tensors are kept per shape and device."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._positions: dict[torch.Size, Positions] = {}
        self._indices: dict[tuple[tuple[int, ...], torch.device], tuple[Tensor, ...]] = {}
        self._units: dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[Tensor, int]] = {}

    def positions(self, shape: torch.Size) -> Positions:
        """The positions for tensors of this shape."""
        known = self._positions.get(shape)
        if known is None:
            known = self._positions[shape] = Positions(tuple(shape), self._limit)
        return known

    def take(self, tensor: Tensor) -> Tensor:
        """A copy of the elements of `tensor` at its positions, shape (count,), detached."""
        tensor = tensor.detach()
        at = self.positions(tensor.shape)
        if at.count == at.total:
            return tensor.clone(memory_format=torch.contiguous_format).view(-1)
        if tensor.is_contiguous():
            runs = tensor.view(-1).as_strided(
                (at.runs, at.run), (at.step, 1), tensor.storage_offset()
            )
            return runs.clone(memory_format=torch.contiguous_format).view(-1)
        key = (at.shape, tensor.device)
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


def thinned(tensor: Tensor, most: int = 65_536) -> Tensor:
    """A view of every n-th entry along each dimension: at most `most` elements, all dimensions.

    >>> thinned(torch.zeros(4, 1024, 1024)).shape
    torch.Size([4, 128, 128])
    """
    counts = list(tensor.shape)
    while prod(counts) > most:
        largest = max(range(len(counts)), key=counts.__getitem__)
        counts[largest] = -(-counts[largest] // 2)
    steps = (-(-size // max(count, 1)) for size, count in zip(tensor.shape, counts, strict=True))
    return tensor[tuple(slice(None, None, max(step, 1)) for step in steps)]


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
