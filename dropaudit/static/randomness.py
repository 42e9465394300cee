"""Calls that draw random numbers, whatever for."""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.static.applications import FUNCTIONAL_DROPOUTS, application
from dropaudit.static.constants import constant
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

_TORCH = re.compile(
    r"torch\.(rand|rand_like|randn|randn_like|randint|randint_like|randperm|bernoulli|multinomial"
    r"|normal|poisson|rrelu)$"
)
_OTHERS = re.compile(
    r"(numpy\.random|random)\.(rand|randn|random|random_sample|uniform|normal|binomial|choice"
    r"|choices|sample|permutation|shuffle|randint|gauss|standard_normal|integers)$"
)
_METHODS = frozenset(
    (
        *("bernoulli_", "bernoulli", "uniform_", "normal_", "random_", "exponential_"),
        *("geometric_", "rsample", "multinomial"),
    )
)
_COINS = frozenset(["bernoulli", "bernoulli_", "binomial"])


def draws(source: Source, node: cst.CSTNode) -> Iterator[cst.Call]:
    """The calls below `node` that draw: torch, numpy, random, dropouts that may be on."""
    for call in descend(node):
        if isinstance(call, cst.Call) and (is_draw(source, call) or is_dropout(source, call)):
            yield call


def is_draw(source: Source, call: cst.Call) -> bool:
    """Whether `call` draws from a distribution."""
    name = source.name_of(call.func)
    if _TORCH.match(name) or _OTHERS.match(name):
        return True
    return isinstance(call.func, cst.Attribute) and call.func.attr.value in _METHODS


def is_dropout(source: Source, call: cst.Call) -> bool:
    """Whether `call` applies a dropout of torch that is not switched off for good."""
    used = application(source, call)
    if used is None or (used.rate is not None and constant(source, used.rate) == 0):
        return False
    if source.name_of(call.func) in FUNCTIONAL_DROPOUTS:
        training = source.argument(call, "training", 2) or source.argument(call, "train", 2)
        return training is None or not is_name(training.value, "False")
    return True


def mask_draws(source: Source, node: cst.CSTNode) -> Iterator[cst.Call]:
    """The draws below `node` that make a mask: coins, dropouts, and draws that are compared."""
    for call in draws(source, node):
        name = source.name_of(call.func).rsplit(".", 1)[-1]
        if isinstance(call.func, cst.Attribute):
            name = call.func.attr.value
        if name in _COINS or is_dropout(source, call):
            yield call
            continue
        for around in source.ancestors(call):
            if isinstance(around, cst.Comparison):
                yield call
                break
            if isinstance(around, cst.BaseSmallStatement):
                break
            if isinstance(around, cst.Call) and _is_method(around, ("ge", "gt", "lt", "le")):
                yield call
                break
            if isinstance(around, cst.Call) and _is_method(around, ("floor", "floor_", "floor_")):
                yield call
                break


def _is_method(call: cst.Call, names: tuple[str, ...]) -> bool:
    return isinstance(call.func, cst.Attribute) and call.func.attr.value in names
