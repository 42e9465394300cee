"""The function mode of all audits, and its place on the stack of the current thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dropaudit.runtime.handmade import CONSTANT, RANDOM
from dropaudit.runtime.sites import ATTENTION, FUNCTIONS, MULTI_HEAD, RECURRENT
from dropaudit.runtime.threads import THREAD


def _wanted() -> frozenset[Any]:
    """The functions that are looked at even while nothing is being followed."""
    named = (getattr(space, name, None) for space in (torch, Tensor) for name in RANDOM | CONSTANT)
    return frozenset(
        [*FUNCTIONS, ATTENTION, MULTI_HEAD, *RECURRENT, *(each for each in named if each)]
    )


_WANTED = _wanted()


class FunctionMode(TorchFunctionMode):
    """Hands the functions that matter to `see(function, args, kwargs)` while `is_on()`.

    All others pass as fast as can be: a model calls hundreds of them in a step.
    """

    def __init__(self, see: Callable[[Any, Any, Any], Any], is_on: Callable[[], bool]) -> None:
        super().__init__()
        self._see = see
        self._is_on = is_on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (func not in _WANTED and not THREAD.busy) or THREAD.quiet:
            return func(*args, **kwargs) if kwargs else func(*args)
        if not self._is_on():
            return func(*args, **(kwargs or {}))
        return self._see(func, args, kwargs or {})

    def put_on(self) -> None:
        """Put the mode on top of the stack."""
        torch._C._push_on_torch_function_stack(self)
        THREAD.mode_is_on = True

    def take_off(self, anywhere: bool = False) -> None:
        """Take the mode off the stack; from below others too, if it must be."""
        if not THREAD.mode_is_on:
            return
        above: list[Any] = []
        while torch._C._len_torch_function_stack():
            top = torch._C._pop_torch_function_stack()
            if top is self:
                THREAD.mode_is_on = False
                break
            above.append(top)
            if not anywhere:
                break
        for mode in reversed(above):
            torch._C._push_on_torch_function_stack(mode)

    @property
    def sees(self) -> bool:
        """Whether the mode is on the stack: torch takes it off while a backward pass runs.

        A backward pass on other threads takes the stack of its caller along.
        """
        return any(
            torch._C._get_function_stack_at(n) is self
            for n in range(torch._C._len_torch_function_stack())
        )

    @property
    def is_alone(self) -> bool:
        """Whether no other mode is on the stack."""
        return (
            THREAD.mode_is_on
            and torch._C._len_torch_function_stack() == 1
            and torch._C._get_function_stack_at(0) is self
        )
