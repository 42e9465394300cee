"""Mean, variance and range of a stream of tensors, kept on their device."""

from __future__ import annotations

import torch


class Moments:
    """Running mean, variance and extremes of equally shaped tensors, elementwise.

    Welford's method (B. P. Welford, Technometrics 4, 1962): stable however large the mean is
    against the spread. Nothing leaves the device until it is read.

    >>> moments = Moments()
    >>> for value in (1.0, 2.0, 6.0):
    ...     moments.add(torch.tensor(value))
    >>> moments.count, moments.mean.item(), moments.variance.item(), moments.span.item()
    (3, 3.0, 7.0, 5.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._squares = torch.zeros(())
        self._low = torch.zeros(())
        self._high = torch.zeros(())

    def add(self, value: torch.Tensor) -> None:
        """One more value, of the shape and on the device of those before."""
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = value.clone(), torch.zeros_like(value)
            self._low, self._high = value.clone(), value.clone()
            return
        delta = value - self.mean
        self.mean = self.mean + delta / self.count
        self._squares = self._squares + delta * (value - self.mean)
        self._low = torch.minimum(self._low, value)
        self._high = torch.maximum(self._high, value)

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased variance, 0 for fewer than two values."""
        return self._squares / max(self.count - 1, 1)

    @property
    def span(self) -> torch.Tensor:
        """Greatest less least value."""
        return self._high - self._low
