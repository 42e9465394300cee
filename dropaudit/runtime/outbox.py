"""Numbers on their way from the device to the host: many at once, so that no step waits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import torch
from torch import Tensor

Receive = Callable[[list[float]], None]
_MOST_WAITING = 2048


class Outbox:
    """Keeps small tensors where they are until `deliver`, then fetches all in one transfer each
    device.

    >>> box = Outbox()
    >>> box.add(torch.ones(2), print)
    >>> box.deliver()
    [1.0, 1.0]
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Receive]] = []

    def add(self, numbers: Tensor, receive: Receive) -> None:
        """Hand the numbers, flattened in row-major order, to `receive` when they are delivered."""
        self._waiting.append((numbers.detach().reshape(-1), receive))

    @property
    def full(self) -> bool:
        """Whether so much is waiting that it should be delivered."""
        return len(self._waiting) >= _MOST_WAITING

    def deliver(self) -> None:
        """Fetch what is waiting. Waits for the device."""
        waiting, self._waiting = self._waiting, []
        for device, group in groupby(waiting, key=lambda item: item[0].device):
            items = list(group)
            wide = torch.float32 if device.type == "mps" else torch.float64
            numbers = torch.cat([tensor.to(wide) for tensor, _ in items]).tolist()
            at = 0
            for tensor, receive in items:
                receive(numbers[at : at + tensor.numel()])
                at += tensor.numel()
