"""The function mode of the audits, on while a backward pass runs that may run dropout again.

A mode that is on when `backward()` is called is off in the pass itself: torch takes a mode off
while it handles a function. A module that is run again puts it on; a function that a checkpoint was
given has nothing around it that could.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.compiler import is_compiling

from dropaudit.runtime.functionmode import FunctionMode
from dropaudit.runtime.threads import THREAD

_AUTOGRAD: Any = torch.autograd
_ENTRY = "_engine_run_backward"


class Engine:
    """Stands in for the one function by which `backward` and `grad` enter the engine."""

    def __init__(self, mode: FunctionMode, wanted: Callable[[], bool]) -> None:
        self._mode = mode
        self._wanted = wanted
        self._entry: Any = None
        self._patched: Any = None

    def install(self) -> None:
        """Take its place, if this version of torch has it."""
        entry = vars(_AUTOGRAD).get(_ENTRY)
        if entry is None:
            return
        mode, wanted = self._mode, self._wanted

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            if is_compiling() or THREAD.quiet or not wanted() or mode.sees:
                return entry(*args, **kwargs)
            was_on = THREAD.mode_is_on
            mode.put_on()
            try:
                return entry(*args, **kwargs)
            finally:
                mode.take_off()
                THREAD.mode_is_on = was_on

        self._entry, self._patched = entry, run_backward
        setattr(_AUTOGRAD, _ENTRY, run_backward)

    def uninstall(self) -> None:
        """Put it back, unless somebody else has replaced it since."""
        if self._patched is not None and vars(_AUTOGRAD).get(_ENTRY) is self._patched:
            setattr(_AUTOGRAD, _ENTRY, self._entry)
