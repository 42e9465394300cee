"""What counts as a dropout: torch's own modules and functions, and users' by their looks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

FEATURE = "feature"


@dataclass(frozen=True)
class Signature:
    """How a dropout function takes its arguments, and what it is called in a report."""

    name: str
    kind: str
    parameters: tuple[str, ...]
    defaults: Mapping[str, Any]
    inplace: bool = False
    unbatched: int | None = None
    """Rank of an input that has no batch dimension: a draw is then one of its first dimension."""

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults filled in."""
        return {**self.defaults, **dict(zip(self.parameters, args, strict=False)), **kwargs}


@dataclass(frozen=True)
class Application:
    """One call of a dropout, as far as it is known before it runs."""

    kind: str
    function: str
    p: float | None
    on: bool | None
    """What the call was told: True, False, or None where nothing tells it."""
    inplace: bool = False
    units: tuple[int, ...] | None = None
    """Dimensions along which decisions differ; None: every element has its own."""
    quantum: float = 0.0


_MODULES = {
    nn.Dropout: "elementwise",
    nn.Dropout1d: FEATURE,
    nn.Dropout2d: FEATURE,
    nn.Dropout3d: FEATURE,
    nn.AlphaDropout: "alpha",
    nn.FeatureAlphaDropout: "alpha",
}
_UNBATCHED = {nn.Dropout1d: 2, nn.Dropout3d: 4}
_FUNCTIONAL = ("input", "p", "training", "inplace")
_ON: dict[str, Any] = {"p": 0.5, "training": True, "inplace": False}
_OFF: dict[str, Any] = {"p": 0.5, "training": False, "inplace": False}
_RAW = ("input", "p", "training")
_RATE = re.compile(
    r"^(p|prob|drop_?(path_?)?(p|prob|probability|rate|ratio)?|dropout(_?(p|prob|rate))?)$"
)
_SHARED_NAME = re.compile(r"p$|prob$|drop$|dropout")
_PLAIN_P = re.compile(r"drop|stochastic_?depth", re.IGNORECASE)
_PATH = re.compile(r"drop_?path|stochastic_?depth|drop_?connect$", re.IGNORECASE)
_LOCKED = re.compile(r"(locked|variational)_?drop", re.IGNORECASE)
_NOISE = re.compile(r"gauss", re.IGNORECASE)
_BLOCK = re.compile(r"drop_?block", re.IGNORECASE)


def _functions() -> dict[Callable[..., Any], Signature]:
    table: dict[Callable[..., Any], Signature] = {}

    def add(owner: Any, name: str, shown: str, kind: str, *rest: Any, **more: Any) -> None:
        function = getattr(owner, name, None)
        if function is not None:
            table[function] = Signature(f"{shown}.{name}", kind, *rest, **more)

    add(F, "dropout", "F", "elementwise", _FUNCTIONAL, _ON)
    add(F, "dropout1d", "F", FEATURE, _FUNCTIONAL, _ON, unbatched=2)
    add(F, "dropout2d", "F", FEATURE, _FUNCTIONAL, _ON)
    add(F, "dropout3d", "F", FEATURE, _FUNCTIONAL, _ON, unbatched=4)
    add(F, "alpha_dropout", "F", "alpha", _FUNCTIONAL, _OFF)
    add(F, "feature_alpha_dropout", "F", "alpha", _FUNCTIONAL, _OFF)
    for suffix, inplace in (("", False), ("_", True)):
        for name, kind in (
            ("dropout", "elementwise"),
            ("feature_dropout", FEATURE),
            ("alpha_dropout", "alpha"),
            ("feature_alpha_dropout", "alpha"),
        ):
            add(torch, name + suffix, "torch", kind, _RAW, {}, inplace=inplace)
    add(torch, "native_dropout", "torch", "elementwise", _RAW, {})
    return table


FUNCTIONS = _functions()
ATTENTION = F.scaled_dot_product_attention
MULTI_HEAD = F.multi_head_attention_forward
RECURRENT = {
    function: name
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
    if (function := getattr(torch, name, None)) is not None
}
FAST_PATH = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that run a fused kernel in evaluation, unless somebody watches functions."""


def function_application(signature: Signature, args: Any, kwargs: Any) -> Application | None:
    """What a call of a dropout function asks for; None where its arguments are not understood."""
    bound = signature.bind(args, kwargs)
    bound.setdefault("training", bound.get("train"))
    x, p, training = bound.get("input"), bound.get("p"), bound.get("training")
    if not isinstance(x, Tensor) or isinstance(p, bool) or not isinstance(p, Real):
        return None
    feature = signature.kind == FEATURE or "feature" in signature.name
    return Application(
        kind=signature.kind,
        function=signature.name,
        p=float(p),
        on=None if training is None else bool(training),
        inplace=signature.inplace or bool(bound.get("inplace", False)),
        units=_feature_units(x, signature.unbatched) if feature else None,
    )


def module_application(module: nn.Module, x: Tensor) -> Application | None:
    """What a call of a torch dropout module on `x` asks for; None for any other module."""
    for cls, kind in _MODULES.items():
        if isinstance(module, cls):
            feature = kind == FEATURE or cls is nn.FeatureAlphaDropout
            return Application(
                kind=kind,
                function=f"nn.{cls.__name__}" if type(module) is cls else type(module).__name__,
                p=rate(module),
                on=module.training,
                inplace=bool(getattr(module, "inplace", False)),
                units=_feature_units(x, _UNBATCHED.get(cls)) if feature else None,
            )
    return None


def is_torch_dropout(module: nn.Module) -> bool:
    """Whether it is one of torch's dropout modules, or a subclass of one."""
    return isinstance(module, _DropoutNd)


def is_compiled(module: nn.Module) -> bool:
    """Whether calls of the module run code that `torch.compile` made of it."""
    return type(module).__name__ == "OptimizedModule" or (
        getattr(module, "_compiled_call_impl", None) is not None
    )


def looks_like_dropout(module: nn.Module) -> bool:
    """Whether a user's module is a dropout: no parameters, and a rate by name.

    A rate called `p` or `dropout` counts only where the class calls itself a dropout:
    `nn.PairwiseDistance` and random augmentations have a `p` too, and attention without parameters
    of its own has a `dropout` that it hands to a function. A module that holds torch's dropout is
    no site of its own: what it holds is.
    """
    cls = type(module)
    if cls.__module__.startswith("torch.") or is_torch_dropout(module):
        return False
    if rate(module) is None or next(module.parameters(), None) is not None:
        return False
    return not any(is_torch_dropout(child) for child in module.modules())


def rate(module: nn.Module) -> float | None:
    """The declared drop probability of a dropout module; None where it declares none."""
    if isinstance(module, _DropoutNd):
        return float(module.p)
    own = vars(module)
    named = bool(_PLAIN_P.search(type(module).__name__))
    for name, value in own.items():
        if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
            value = float(value)
        if not _is_probability(value) or not _RATE.match(name):
            continue
        if _SHARED_NAME.match(name) and not named:
            continue
        return float(value)
    return None


def application_by_name(name: str, p: float | None, on: bool | None, x: Tensor) -> Application:
    """What a user's own dropout, module or function, asks for: its kind by its name."""
    kind, units = "region", None
    if _PATH.search(name):
        kind, units = "path", (0,) if x.dim() else None
    elif _LOCKED.search(name):
        kind = "locked"
    elif _NOISE.search(name):
        kind = "noise"
    elif _BLOCK.search(name):
        kind = "block"
    return Application(kind=kind, function=name, p=p, on=on, units=units)


def argument(function: Callable[..., Any], args: Any, kwargs: Any, name: str | None) -> Any:
    """The value of the parameter `name` in this call, its default included; None if it has none."""
    if name is None:
        return None
    if name in kwargs:
        return kwargs[name]
    try:
        bound = inspect.signature(function).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    return bound.arguments.get(name)


def first_tensor(values: Any) -> Tensor | None:
    """The first floating tensor among arguments, or of a result that may be a tuple."""
    if isinstance(values, Tensor):
        return values if values.is_floating_point() else None
    if isinstance(values, Mapping):
        values = tuple(values.values())
    if isinstance(values, (tuple, list)):
        for value in values:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
    return None


def alpha_constants(p: float) -> tuple[float, float, float]:
    """Of alpha dropout: the scale a, the value alpha' that dropped inputs take, the shift b.

    Klambauer et al., Self-Normalizing Neural Networks (2017), section 4: `y = a (m x + (1 - m)
    alpha') + b` with `a = (q + alpha'^2 q p)^(-1/2)` and `b = -a p alpha'`.

    >>> a, alpha, b = alpha_constants(0.0)
    >>> a, b == 0
    (1.0, True)
    """
    alpha = -1.7580993408473766
    q = 1 - p
    a = float((q + alpha * alpha * q * p) ** -0.5) if q > 0 else 0.0
    return a, alpha, -a * p * alpha


def _feature_units(x: Tensor, unbatched: int | None) -> tuple[int, ...]:
    return (0,) if x.dim() == unbatched or x.dim() < 2 else (0, 1)


def _is_probability(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
