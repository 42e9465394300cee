"""How to call what a check was given: its tensors, its rate and its mode, told by their names."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from dropaudit.findings import Location
from dropaudit.runtime import sites
from dropaudit.runtime.places import location
from dropaudit.runtime.subject import KEEP, RATE, Subject

CHOSEN_P = 0.3
"""The drop probability that a function is called with when it takes one and none is given."""
_MODE = re.compile(r"^(training|train|is_training|train_mode)$")
_NO_TENSOR = ("int", "float", "bool", "str")


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
    """Its rate, or that of the only dropout within it."""
    own = _module_rate(module)
    if own is not None:
        return own
    within = [rate for child in module.modules() if (rate := _module_rate(child)) is not None]
    return within[0] if len(within) == 1 else None


def _module_rate(module: nn.Module) -> float | None:
    declared = sites.rate(module)
    if declared is not None:
        return declared
    for name, value in vars(module).items():
        if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) <= 1:
            if RATE.match(name):
                return float(value)
            if KEEP.match(name):
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
        if RATE.match(name) or KEEP.match(name):
            if not subject.rate_name:
                subject.rate_name, subject.keeps = name, bool(KEEP.match(name))
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
