"""What is checked on its own: a module, a function, or an autograd.Function, called alike."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from dropaudit.findings import Location
from dropaudit.runtime import sites
from dropaudit.runtime.places import location

CHOSEN_P = 0.3
"""The drop probability that a function is called with when it takes one and none is given."""
_RATE = re.compile(
    r"^(p|prob|rate|p_?drop(out)?|drop(out)?(_?(path_?)?(p|prob|probability|rate|ratio))?)$"
)
_KEEP = re.compile(r"^(p_keep|keep(_?(p|prob|probability|rate))?|survival_prob)$")
_MODE = re.compile(r"^(training|train|is_training|train_mode)$")
_NO_TENSOR = ("int", "float", "bool", "str")


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
        return subject_of(built.train(), p)

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


def subject_of(given: Any, p: float | None) -> Subject:
    """How to call `given`. Raises `TypeError`, in a sentence, for what is no such thing."""
    if isinstance(given, nn.Module):
        return _module(given, p)
    owner = getattr(given, "__self__", None)
    if isinstance(given, type) and issubclass(given, torch.autograd.Function):
        owner, given = given, given.apply
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return _autograd(owner, given, p)
    if isinstance(given, type) or not callable(given):
        what = f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__
        raise TypeError(
            f"check_dropout takes a module, a function or an autograd.Function, not {what}"
        )
    return _function(given, p)


def _module(module: nn.Module, p: float | None) -> Subject:
    declared = p if p is not None else _declared(module)
    where = _code_location(inspect.unwrap(type(module).forward))
    name = type(module).__name__
    if type(module).__module__.startswith("torch.nn"):
        name = f"nn.{name}"
    subject = Subject(module, name, where, module, declared, _tensor_count(module.forward))
    known = sites.module_application(module, torch.ones(2, 2, 2))
    subject.kind = known.kind if known else _kind(name)
    return subject


def _kind(name: str) -> str:
    return sites.application_by_name(name, None, None, torch.ones(2, 2)).kind


def _declared(module: nn.Module) -> float | None:
    """Its rate, or that of the dropouts within it where they have one in common."""
    own = _module_rate(module)
    if own is not None:
        return own
    within = {_module_rate(child) for child in module.modules()} - {None}
    return within.pop() if len(within) == 1 else None


def _module_rate(module: nn.Module) -> float | None:
    declared = sites.rate(module)
    if declared is not None:
        return declared
    for name, value in vars(module).items():
        if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1:
            if _RATE.match(name):
                return float(value)
            if _KEEP.match(name):
                return 1 - float(value)
    return None


def _tensor_count(function: Callable[..., Any]) -> int | None:
    """How many arguments a call must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return sum(
        one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        for one in parameters
    )


def _autograd(owner: type, apply: Callable[..., Any], p: float | None) -> Subject:
    forward = owner.forward  # type: ignore[attr-defined]
    names = list(inspect.signature(forward).parameters)
    if owner.setup_context is torch.autograd.Function.setup_context:  # type: ignore[attr-defined]
        names = names[1:]  # the context comes first
    parameters = inspect.signature(forward).parameters
    subject = Subject(apply, owner.__name__, _code_location(forward))
    _read(subject, {name: parameters[name] for name in names}, p)
    subject.positional, subject.parameters = True, tuple(names)
    return subject


def _function(function: Callable[..., Any], p: float | None) -> Subject:
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner)
    name = getattr(inner, "__name__", type(inner).__name__)
    subject = Subject(function, name, _code_location(inner))
    signature = sites.FUNCTIONS.get(inner)
    subject.kind = _kind(name)
    if signature is not None:
        subject.name, subject.kind = signature.name, signature.kind
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = _builtin_parameters(function, inner)
    _read(subject, parameters, p)
    return subject


def _builtin_parameters(
    function: Callable[..., Any], inner: Callable[..., Any]
) -> dict[str, inspect.Parameter]:
    """The parameters of functions that are written in C, as far as this package knows them."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if inner is sites.ATTENTION:
        names: dict[str, Any] = dict.fromkeys(("query", "key", "value"), inspect.Parameter.empty)
        names["dropout_p"] = 0.0
    elif inner in sites.FUNCTIONS:
        known = sites.FUNCTIONS[inner]
        # The raw functions of torch call the mode `train`.
        called = ["train" if n == "training" else n for n in known.parameters]
        names = {n: known.defaults.get(n, inspect.Parameter.empty) for n in called}
    else:
        names = {"input": inspect.Parameter.empty}
    if isinstance(function, functools.partial):
        names |= function.keywords
        for name in list(names)[: len(function.args)]:
            del names[name]
    return {n: inspect.Parameter(n, kind, default=d) for n, d in names.items()}


def _read(subject: Subject, parameters: Mapping[str, inspect.Parameter], p: float | None) -> None:
    """Tell the tensors from the rate, the mode and the rest by their names and defaults."""
    subject.tensors = 0
    default: Any = None
    for name, one in parameters.items():
        if _RATE.match(name) or _KEEP.match(name):
            if not subject.rate_name:
                subject.rate_name, subject.keeps = name, bool(_KEEP.match(name))
                default = one.default
        elif _MODE.match(name):
            subject.mode_name = name
        elif name == "inplace":
            subject.takes_inplace = one.default is False
        elif (
            one.default is one.empty
            and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
            and getattr(one.annotation, "__name__", str(one.annotation)) not in _NO_TENSOR
        ):
            subject.tensors += 1
        elif one.default is not one.empty:
            subject.keywords.setdefault(name, one.default) if subject.positional else None
    known = isinstance(default, Real) and not isinstance(default, bool)
    if p is not None:
        subject.p = p
    elif known:
        subject.p = 1 - float(default) if subject.keeps else float(default)
        if subject.p == 0:
            subject.p = CHOSEN_P
    elif subject.rate_name:
        subject.p = CHOSEN_P


def _code_location(function: Any) -> Location:
    code = getattr(function, "__code__", None)
    if code is None:
        return location("", 0)
    return location(code.co_filename, code.co_firstlineno)


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
            if _RATE.match(name):
                options[name], changed = p, True
            elif _KEEP.match(name):
                options[name], changed = 1 - p, True
    if p is not None and not changed:
        return None
    try:
        built = cls(**options)
    except Exception:
        return None  # a rate that the class refuses, or a constructor that needs more
    same = vars(built).keys() == vars(module).keys()
    return built if same else None


def tensors_of(inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of a call from a tensor, a tuple or a mapping."""
    if isinstance(inputs, Tensor):
        return [inputs], {}
    if isinstance(inputs, Mapping):
        return [], dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return list(inputs), {}
    kind = "None" if inputs is None else f"of type {type(inputs).__name__}"
    raise TypeError(f"inputs must be a tensor, a tuple or a dict, and is {kind}")
