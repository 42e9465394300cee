"""The gradients of one call alone: what came in at its output, what went out at its input.

A hook on a tensor would see the sum over all its uses, and what other hooks made of it. A hook on
the call's own nodes sees exactly what this call was handed and what it returned, and the graph
stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

Arrived = Callable[[Tensor, Tensor | None], None]
_MOST_NODES = 512


def edge_of(x: Tensor) -> GradientEdge | None:
    """Where the gradient of `x` goes; None if it needs none, or none is recorded."""
    if not (x.requires_grad and torch.is_grad_enabled()):
        return None
    return get_gradient_edge(x)


def next_number() -> int:
    """The number that the next node of this thread's graph will bear."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number


def follow(
    y: Tensor,
    edge: GradientEdge,
    since: int,
    arrived: Arrived,
    only: tuple[Node, int] | None = None,
) -> list[RemovableHandle]:
    """Call `arrived(dy, dx)` in each backward pass through the nodes between `edge` and `y`.

    Args:
        y: the call's output; it must have a `grad_fn`.
        edge: where the gradient of the call's input goes, taken before the call.
        since: `next_number()` before the call: older nodes are not the call's own.
        arrived: gets the gradient of the output, and of the input as far as this call is
            concerned (None when it is undefined, that is zero).
        only: a node of the call and one of its places: gradients that leave by others do not
            count.

    Returns:
        The hooks set; empty if `y` does not depend on the input by this graph.
    """
    node = y.grad_fn
    if node is None:
        return []
    consumers = _consumers(node, edge, since, only)
    if not consumers:
        return []
    passage = _Passage(arrived, y.output_nr, len(consumers))
    first = consumers.pop(node, None)
    handles = [node.register_hook(partial(passage.enter, first))]
    handles += [n.register_hook(partial(passage.leave, slots)) for n, slots in consumers.items()]
    return handles


@dataclass
class _Passage:
    arrived: Arrived
    number: int
    expected: int
    left: int = 0
    dy: Tensor | None = None
    dx: Tensor | None = field(default=None)

    def enter(
        self, slots: list[int] | None, inputs: tuple[Any, ...], outputs: tuple[Any, ...]
    ) -> None:
        self.left, self.dx = self.expected, None
        self.dy = outputs[self.number] if self.number < len(outputs) else None
        if slots is not None:
            self.leave(slots, inputs, outputs)

    def leave(self, slots: list[int], inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        for slot in slots:
            part = inputs[slot] if slot < len(inputs) else None
            if part is not None:
                part = part.detach()
                self.dx = part if self.dx is None else self.dx + part
        self.left -= 1
        if self.left == 0 and self.dy is not None:
            dy, dx = self.dy, self.dx
            self.dy = self.dx = None
            self.arrived(dy, dx)


def _consumers(
    start: Node, edge: GradientEdge, since: int, only: tuple[Node, int] | None
) -> dict[Node, list[int]]:
    """The call's own nodes that hand a gradient to `edge`, and in which places they do."""
    found: dict[Node, list[int]] = {}
    start = start if only is None else only[0]
    seen, stack = {start}, [start]
    while stack:
        node = stack.pop()
        for slot, (following, number) in enumerate(node.next_functions):
            if following is None or (only is not None and node is start and slot != only[1]):
                continue
            if following is edge.node and number == edge.output_nr:
                found.setdefault(node, []).append(slot)
            elif following not in seen and since <= following._sequence_nr() < 2**63:
                if len(seen) >= _MOST_NODES:
                    return {}
                seen.add(following)
                stack.append(following)
    return found
