"""Inputs for a check that was given none: shapes, memory layouts and sizes by what is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor, nn

SHAPES = ((16, 32), (4, 8, 6, 5), (4, 6, 8), (64,), (2, 3, 4, 5, 6))
"""Shapes that a dropout of its own may take, tried in this order."""
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DRAWS = 1 << 18
"""Decisions that are drawn in all: 0.10 is told from 0.11 in a fifth of them."""
_DRAWS_A_CALL = 1 << 14


ATTENTION_SHAPES = ((2, 4, 16, 8), (4, 6, 8))
"""Shapes for three tensors, which may be queries, keys and values."""


def values(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Random numbers of both signs, none near 0: every element shows what was done to it.

    >>> values((2, 3), torch.float16, torch.device("cpu")).abs().min() >= 0.5
    tensor(True)
    """
    size = torch.rand(tuple(shape), dtype=torch.float32) + 0.5
    sign = torch.randint(0, 2, tuple(shape)) * 2 - 1
    return (size * sign).to(device, dtype)


def layouts(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
    """The same shape in other layouts: transposed, every second element, expanded, and empty."""
    if len(shape) > 1:
        other = [*shape]
        other[0], other[-1] = other[-1], other[0]
        yield values(other, dtype, device).transpose(0, -1)
        yield values([*shape[:-1], 2 * shape[-1]], dtype, device)[..., ::2]
        yield values([0, *shape[1:]], dtype, device)


def power_shape(shape: Sequence[int], units: Sequence[int] | None) -> tuple[int, ...]:
    """A shape of the same rank with many decisions, if they differ along `units` (None: all).

    >>> power_shape((4, 8, 6), (0,)), power_shape((4, 8), None)
    ((16384, 1, 2), (128, 128))
    """
    dims = [*range(len(shape))] if units is None else [*units]
    if not dims:
        return tuple(shape)
    side = max(round(_DRAWS_A_CALL ** (1 / len(dims))), 2)
    last = max((dim for dim in range(len(shape)) if dim not in dims), default=-1)
    return tuple(side if dim in dims else 1 + (dim == last) for dim in range(len(shape)))


def draws_of(shape: Sequence[int], units: Sequence[int] | None) -> int:
    """Decisions in one call."""
    return prod(shape) if units is None else prod(shape[dim] for dim in units)


def module_shapes(module: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes that a module with parameters may take, from the layers that it is made of."""
    for layer in module.modules():
        if isinstance(layer, nn.MultiheadAttention):
            yield (4, 8, layer.embed_dim)
        elif isinstance(layer, nn.RNNBase):
            yield (4, 6, layer.input_size)
        elif isinstance(layer, nn.Linear):
            yield from ((8, layer.in_features), (4, 8, layer.in_features))
        elif isinstance(layer, nn.LayerNorm):
            yield (4, 8, *layer.normalized_shape)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            rank = len(layer.kernel_size)
            yield (4, layer.in_channels, *[8 + layer.kernel_size[0]] * rank)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            yield from ((16, layer.num_features), (4, layer.num_features, 6, 6))
