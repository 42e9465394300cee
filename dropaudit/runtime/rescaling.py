"""Torch's own dropout, whose result is multiplied by 1/q once more.

The functions have scaled already. Only the next few functions after a dropout are looked at, and
only the very factor 1/q counts: any other number may be a weight that has nothing to do with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor

from dropaudit.runtime.handmade import factor_of

if TYPE_CHECKING:
    from dropaudit.runtime.calls import Begun

_FUNCTIONS = 4


class Rescaling:
    """The result of the last dropout, until something was made of it."""

    def __init__(self) -> None:
        self._result: ref[Tensor] | None = None
        self._begun: list[Begun] = []
        self._keep = 1.0
        self._left = 0

    def __bool__(self) -> bool:
        return self._left > 0

    def expect(self, result: Tensor, begun: list[Begun], p: float) -> None:
        """A dropout has returned `result`. A rate whose 1/q is a whole number proves nothing."""
        if not begun or not 0 < p < 1:
            return
        scale = 1 / (1 - p)
        if abs(scale - round(scale)) > 1e-6:
            self._result, self._begun, self._keep = ref(result), begun, 1 - p
            self._left = _FUNCTIONS

    def see(self, name: str, args: Any) -> None:
        """A function of this name is called."""
        self._left -= 1
        result = None if self._result is None else self._result()
        if result is not None and any(each is result for each in args):
            factor = factor_of(name, args)
            if factor is not None and abs(factor * self._keep - 1) < 1e-4:
                for begun in self._begun:
                    begun.call.gain = factor
            self._left = 0
        if not self._left:
            self.clear()

    def clear(self) -> None:
        """Expect nothing."""
        self._result, self._begun, self._left = None, [], 0
