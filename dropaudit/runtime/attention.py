"""A call of `scaled_dot_product_attention` with dropout: what to compare of it.

With P the attention probabilities after dropout, `O = P V` and `dV = P^T dO`: for each batch entry
and head, `<dO, O> == <dV, V>`, whatever the mask is, if both passes used the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from dropaudit.runtime.sites import Application

_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_MOST_HEADS = 8


class AttentionCall:
    """One call: its value tensor, and the heads of it that are compared."""

    def __init__(self, application: Application, value: Tensor) -> None:
        self.application = application
        self.value = value
        self._heads: list[tuple[tuple[int, ...], list[tuple[int, ...]]]] = []

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any], shown: str) -> AttentionCall | None:
        """None for a call without dropout, or one whose arguments are not understood."""
        bound = {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}
        value, p = bound.get("value"), bound.get("dropout_p", 0.0)
        if not isinstance(value, Tensor) or isinstance(p, bool) or not isinstance(p, (int, float)):
            return None
        if not 0 < p <= 1:
            return None
        name = shown or "F.scaled_dot_product_attention"
        return cls(Application("attention", name, float(p), None), value)

    def choose(self, output: Tensor, elements: int | None) -> bool:
        """Choose the heads to compare, as many as `elements` allow; False if none can be."""
        batch, values = tuple(output.shape[:-2]), tuple(self.value.shape[:-2])
        if len(batch) != len(values) or not prod(batch) or not output[(0,) * len(batch)].numel():
            return False
        group = 1
        if batch != values:
            if batch[:-1] != values[:-1] or not values[-1] or batch[-1] % values[-1]:
                return False
            group = batch[-1] // values[-1]
        size = max(prod(output.shape[-2:]) * group, 1)
        total = prod(values)
        many = total if elements is None else min(max(elements // size, 1), _MOST_HEADS, total)
        for flat in range(0, total, max(total // many, 1)):
            at = _unravel(flat, values)
            heads = [at] if group == 1 else [(*at[:-1], at[-1] * group + g) for g in range(group)]
            self._heads.append((at, heads))
        self._heads = self._heads[:many]
        return True

    def of_value(self, tensor: Tensor) -> Tensor:
        """The chosen heads of the value tensor, or of its gradient; shape (heads, terms)."""
        return torch.stack([tensor[at].detach().reshape(-1) for at, _ in self._heads])

    def of_output(self, tensor: Tensor) -> Tensor:
        """The chosen heads of the output, or of its gradient; shape (heads, terms)."""
        return torch.stack(
            [
                torch.cat([tensor[head].detach().reshape(-1) for head in heads])
                for _, heads in self._heads
            ]
        )


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    found = []
    for width in reversed(shape):
        flat, at = divmod(flat, width)
        found.append(at)
    return tuple(reversed(found))


def value_side(node: Node) -> tuple[Node, int] | None:
    """Where the gradient of the value tensor leaves the nodes of an attention call.

    Query, key and value may be one tensor: its gradient would be the sum of three. A fused kernel's
    node has the value third; the plain computation ends in the product of probabilities and values.

    Returns:
        The node, and the place of the value among what follows it; None where it is not understood.
    """
    for _ in range(8):
        following = [each for each, _ in node.next_functions if each is not None]
        if "Attention" in node.name():
            return (node, 2) if len(node.next_functions) > 2 else None
        if len(following) == 1:
            node = following[0]
        elif len(node.next_functions) == 2 and any(n in node.name() for n in ("Bmm", "Matmul")):
            return node, 1
        else:
            break
    return None
