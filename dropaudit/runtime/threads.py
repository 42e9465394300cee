"""What one thread of the audited program is doing: which modules it is in, and in which site."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from dropaudit.runtime.handmade import Handmade
from dropaudit.runtime.rescaling import Rescaling

if TYPE_CHECKING:
    from dropaudit.runtime.calls import Calls


@dataclass(eq=False)
class Heard:
    """What was called while somebody listened."""

    function: bool = False
    """A functional dropout."""
    draw: bool = False
    """A function that draws random numbers."""
    own_generator: bool = False
    """It was handed a generator of the user's."""
    host: bool = False
    """A function that makes a tensor of numbers from elsewhere."""
    module: bool = False
    """A module."""
    product: bool = False
    """A product of an activation and a mask, in code that speaks of dropping."""


class Thread(threading.local):
    """The state of the current thread."""

    def __init__(self) -> None:
        self.stack: list[nn.Module] = []
        self.arguments: list[Any] = []
        """The positional arguments of each module on the stack."""
        self.roots: dict[Calls, int] = {}
        self.inside: list[Heard] = []
        """One for each site that runs: what happens in a site is the site's own."""
        self.listening: list[Heard] = []
        """One for each autograd function that runs."""
        self.applying = 0
        """How many autograd functions run, one in the other."""
        self.quiet = 0
        self.multi_head: tuple[Any, Any] | None = None
        """What multi-head attention is to call for attention and for dropout."""
        self.watching = False
        self.handmade = Handmade()
        self.rescaling = Rescaling()
        self.mode_is_on = False
        self.root_state: Tensor | None = None
        self.busy = False
        """Whether every function must be looked at: in a site, or while a mask is followed."""

    def settle(self) -> None:
        """Set `busy` anew."""
        self.busy = bool(self.inside or self.listening or self.handmade or self.rescaling)

    @contextmanager
    def in_site(self, heard: Heard) -> Iterator[None]:
        """What runs here is a site's own."""
        self.inside.append(heard)
        self.busy = True
        try:
            yield
        finally:
            self.inside.pop()
            self.settle()

    @contextmanager
    def listen(self, heard: Heard) -> Iterator[None]:
        """What runs here is noted, and looked at all the same."""
        self.listening.append(heard)
        self.busy = True
        try:
            yield
        finally:
            self.listening.pop()
            self.settle()


THREAD = Thread()


class unwatched:
    """The audit's own questions to tensors: no function mode answers them. Gradients are on."""

    __slots__ = ("_functions",)

    def __enter__(self) -> None:
        THREAD.quiet += 1
        self._functions = torch._C.DisableTorchFunction()
        self._functions.__enter__()

    def __exit__(self, *_: Any) -> None:
        self._functions.__exit__(None, None, None)
        THREAD.quiet -= 1


class unseen:
    """The audit's own tensor work: recorded by no autograd, function mode or dispatch mode."""

    __slots__ = ("_functions", "_grad", "_modes")

    def __enter__(self) -> None:
        THREAD.quiet += 1
        self._functions = torch._C.DisableTorchFunction()
        self._functions.__enter__()
        self._grad = torch.is_grad_enabled()
        torch._C._set_grad_enabled(False)
        self._modes: Any = None
        if torch._C._len_torch_dispatch_stack():
            self._modes = _disable_current_modes()
            self._modes.__enter__()

    def __exit__(self, *_: Any) -> None:
        if self._modes is not None:
            self._modes.__exit__(None, None, None)
        torch._C._set_grad_enabled(self._grad)
        self._functions.__exit__(None, None, None)
        THREAD.quiet -= 1


def random_state(device: torch.device) -> Tensor | None:
    """The state of the default generator of a device, on the host; None where it is unreadable."""
    if device.type == "cpu":
        return torch.default_generator.get_state()
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return None
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index].get_state()
    module = getattr(torch, device.type, None)
    read = getattr(module, "get_rng_state", None)
    return None if read is None else read()
