"""What is checked on its own: a module, a function, or an autograd.Function, called alike."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from types import FrameType
from typing import Any

import torch
from torch import nn

from dropaudit.findings import Location

RATE = re.compile(
    r"^(p|prob|rate|p_?drop(out)?|drop(out)?(_?(path_?)?(p|prob|probability|rate|ratio))?)$"
)
KEEP = re.compile(r"^(p_keep|keep(_?(p|prob|probability|rate))?|survival_prob)$")


@dataclass
class Subject:
    """Something that drops, and how to call it in either mode and with another rate."""

    function: Callable[..., Any]
    name: str
    where: Location
    module: nn.Module | None = None
    p: float | None = None
    """Declared drop probability."""
    tensors: int | None = None
    """How many tensors a call takes; None where that cannot be told."""
    rate_name: str = ""
    keeps: bool = False
    """Whether the rate is a keep probability."""
    mode_name: str = ""
    takes_inplace: bool = False
    positional: bool = False
    parameters: tuple[str, ...] = ()
    kind: str = "region"
    """What its name says that it is; "region" where it says nothing."""
    inside: str = ""
    """For a module: "function" when it calls a dropout function, else "mask"."""
    keywords: dict[str, Any] = field(default_factory=dict)
    """Arguments that are no tensors of the inputs that were given."""

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The module, if it is one."""
        return () if self.module is None else (self.module,)

    @property
    def has_mode(self) -> bool:
        """Whether it can be told to be in eval mode."""
        return self.module is not None or bool(self.mode_name)

    def call(
        self,
        tensors: Sequence[Any],
        *,
        training: bool = True,
        p: float | None = None,
        inplace: bool = False,
    ) -> Any:
        """Call it in one mode, with another drop probability where it takes one."""
        options = dict(self.keywords)
        if self.module is not None:
            self.module.train(training)
        if self.mode_name:
            options[self.mode_name] = training
        rate = self.p if p is None else p
        if self.rate_name and rate is not None:
            options[self.rate_name] = 1 - rate if self.keeps else rate
        if inplace and self.takes_inplace:
            options["inplace"] = True
        if not self.positional:
            return self.function(*tensors, **options)
        given = [*tensors]
        for name in self.parameters[len(tensors) :]:
            if name not in options:
                break
            given.append(options[name])
        return self.function(*given)

    def with_p(self, p: float) -> Subject | None:
        """The same with another drop probability; None where it takes none.

        A module is built anew from its own attributes: setting its rate would leave whatever its
        constructor derived from it.
        """
        if self.module is None:
            return copy.copy(self) if self.rate_name else None
        built = _rebuilt(self.module, p)
        if built is None or _rebuilt(self.module, None) is None:
            return None
        other = copy.copy(self)
        other.module = other.function = built.train()
        other.p = p
        return other

    @property
    def inplace_attribute(self) -> bool:
        """Whether it is a module that can be told to work in place."""
        return getattr(self.module, "inplace", None) is False

    @contextmanager
    def working_in_place(self) -> Iterator[None]:
        """Within it, a module that can works in place."""
        if not self.inplace_attribute:
            yield
            return
        self.module.inplace = True  # type: ignore[union-attr]
        try:
            yield
        finally:
            self.module.inplace = False  # type: ignore[union-attr]

    def reseeds(self, tensors: Sequence[Any]) -> bool:
        """Whether a call in training seeds a generator of torch."""
        seeded: list[str] = []

        def watch(frame: FrameType, event: str, arg: Any) -> None:
            name = frame.f_code.co_name if event == "call" else getattr(arg, "__name__", "")
            if event in ("call", "c_call") and name in ("manual_seed", "seed", "set_state"):
                seeded.append(name)

        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            self.call(tensors)
        finally:
            sys.setprofile(before)
        return bool(seeded)

    def private_generator(self) -> bool:
        """Whether a module holds a random generator of its own."""
        held = [] if self.module is None else [vars(m) for m in self.module.modules()]
        return any(isinstance(v, torch.Generator) for values in held for v in values.values())


def _rebuilt(module: nn.Module, p: float | None) -> nn.Module | None:
    """The module built anew, with the drop probability `p` (None: its own); None if that fails."""
    cls = type(module)
    if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
        return None
    options: dict[str, Any] = {}
    changed = False
    for name, one in list(inspect.signature(cls.__init__).parameters.items())[1:]:
        if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            continue
        if not hasattr(module, name):
            if one.default is one.empty:
                return None
            continue
        options[name] = getattr(module, name)
        if p is not None and isinstance(options[name], Real):
            if RATE.match(name):
                options[name], changed = p, True
            elif KEEP.match(name):
                options[name], changed = 1 - p, True
    if p is not None and not changed:
        return None
    try:
        built = cls(**options)
    except Exception:
        return None  # a rate that the class refuses, or a constructor that needs more
    same = vars(built).keys() == vars(module).keys()
    return built if same else None
