"""What one rank holds of a tensor that is spread over several."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T", Tensor, "Tensor | None")


def own_part(tensor: T) -> T:
    """This rank's part of a DTensor, the very tensor that it holds; any other tensor as it is.

    A DTensor whose ranks hold terms of a sum is left as it is: its values are not known here.

    >>> import torch
    >>> x = torch.ones(2)
    >>> own_part(x) is x
    True
    """
    part: Any = tensor
    if type(part).__name__ == "DTensor":
        if any(placement.is_partial() for placement in part.placements):
            return tensor
        part = part._local_tensor
    if type(part).__name__ == "AsyncCollectiveTensor":  # on its way, and used here in any case
        part = part.trigger_wait()
    own: T = part
    return own


def are_alike(one: Any, other: Any) -> bool:
    """Whether two tensors are spread in the same way, as far as they are."""
    return bool(getattr(one, "placements", None) == getattr(other, "placements", None))
