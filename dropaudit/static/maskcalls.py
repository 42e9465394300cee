"""The calls that make, scale and apply masks: `Evaluator` asks here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libcst as cst

from dropaudit.static import draws
from dropaudit.static.chance import (
    Coin,
    Data,
    Normal,
    Number,
    Opaque,
    Sampler,
    Uniform,
    Value,
    ceil,
    floor,
    inverted,
    nearest,
)
from dropaudit.static.source import Source

if TYPE_CHECKING:
    from dropaudit.static.maskuses import Values
    from dropaudit.static.maskvalues import Evaluator

_FUNCTION_HOMES = ("torch.", "numpy.", "math.", "torch.nn.functional.")
_SAME_STORAGE_TEXT = "view expand unsqueeze squeeze transpose t detach view_as"
_SAME_STORAGE = frozenset(_SAME_STORAGE_TEXT.split())
_COMPARING = {
    "lt": "<", "gt": ">", "le": "<=", "ge": ">=", "eq": "==", "ne": "!=", "less": "<",
    "greater": ">", "less_equal": "<=", "greater_equal": ">=", "not_equal": "!=",
}  # fmt: skip
_ROUNDING = {"floor": floor, "ceil": ceil, "round": nearest, "trunc": floor}
_STATISTICS_TEXT = "sum mean numel any all count_nonzero nonzero size norm"
_STATISTICS = frozenset(_STATISTICS_TEXT.split())


def called(reading: Evaluator, source: Source, call: cst.Call) -> Values:
    """The value of a call."""
    name = source.name_of(call.func)
    function = name.rsplit(".", 1)[-1] if name.startswith(_FUNCTION_HOMES) else ""
    if function:
        found = _function(reading, source, call, name, function)
        if found is not None:
            return found
    if draws.is_view(name) and call.args:
        values = [v for a in call.args[:1] for v in reading.value(a.value)]
        return tuple(floor(v) for v in values) if name == "int" else tuple(values)
    followed = None if function else reading.run(call)
    if followed is not None:
        return followed
    if isinstance(call.func, cst.Attribute) and not function:
        found = _method(reading, source, call, call.func)
        if found is not None:
            root = _root(call.func.value)
            if call.func.attr.value.endswith("_"):
                reading.store(root, found)
            return found
    if name in draws.UNIFORM:
        return (Uniform(0.0, 1.0, call),)
    if name in draws.UNIFORM_BETWEEN:
        return (draws.between(source, call),)
    if name.endswith((".Bernoulli", ".Binomial")) or name in ("Bernoulli", "Binomial"):
        return _sampler(reading, source, call, name)
    return reading.passed(call)


def _function(
    reading: Evaluator, source: Source, call: cst.Call, name: str, function: str
) -> Values | None:
    drawn = draws.drawn(source, call, name)
    if drawn is not None:
        return (drawn,)
    if name in draws.NORMAL:
        return (Normal(call),)
    args = [a.value for a in call.args if a.keyword is None and not a.star]
    if function in draws.FILLED:
        return (Number(draws.FILLED[function]),)
    if function in ("full", "full_like"):
        fill = source.argument(call, "fill_value", 1)
        return reading.value(fill.value) if fill is not None else (Data(),)
    if name in ("torch.bernoulli", "torch.binomial", "numpy.random.binomial"):
        return _tossed(reading, source, call, 0 if function == "bernoulli" else 1)
    if function in _ROUNDING and args:
        return tuple(_ROUNDING[function](v) for v in reading.value(args[0]))
    if function == "where" and len(args) == 3:
        return reading.chosen(args[0], args[1], args[2], call)
    if name.startswith("torch.nn.functional.") and function.endswith("dropout"):
        return _dropout(reading, source, call)
    if function in ("logical_not", "bitwise_not") and args:
        return tuple(inverted(v) for v in reading.value(args[0]))
    if function == "masked_fill" and len(args) == 3:
        return reading.filled(args[0], args[1], args[2], call)
    if len(args) >= 2:
        return _two(reading, function, args[0], args[1], call)
    return None


def _two(
    reading: Evaluator, function: str, left: cst.CSTNode, right: cst.CSTNode, call: cst.Call
) -> Values | None:
    """An operator written as a function or a method, or None when it is none."""
    match function.rstrip("_"):
        case "mul" | "multiply":
            return reading.product(left, right, call)
        case "div" | "divide" | "true_divide":
            return reading.quotient(left, right, call)
        case "add":
            return reading.total(left, right)
        case "sub" | "subtract":
            return reading.total(left, right, -1.0)
        case sign if sign in _COMPARING:
            return reading.comparison(_COMPARING[sign], left, right, call)
    return None


def _method(
    reading: Evaluator, source: Source, call: cst.Call, func: cst.Attribute
) -> Values | None:
    method, receiver = func.attr.value, func.value
    plain = method.rstrip("_")
    args = [a.value for a in call.args if a.keyword is None and not a.star]
    match method:
        case "bernoulli_" | "bernoulli":
            given = source.argument(call, "p", 0)
            if given is not None:
                return _of_chance(reading, given.value, call)
            if method == "bernoulli_":
                return (Coin(0.5, 1.0, 0.0, call),)
            return _of_chance(reading, receiver, call)
        case "uniform_":
            reading.value(receiver)
            return (draws.between(source, call),)
        case "normal_":
            return (Normal(call),)
        case "fill_" | "copy_" | "new_tensor" if args:
            reading.value(receiver)
            return reading.value(args[0])
        case "zero_" | "new_zeros":
            return (Number(0.0),)
        case "new_ones":
            return (Number(1.0),)
        case "new_full":
            fill = source.argument(call, "fill_value", 1)
            return reading.value(fill.value) if fill is not None else (Data(),)
        case "sample" | "rsample" | "sample_n":
            return tuple(
                draws.sampled(v, call) if isinstance(v, Sampler) else Data()
                for v in reading.value(receiver)
            )
        case "masked_fill" | "masked_fill_" if len(args) == 2:
            return reading.filled(receiver, args[0], args[1], call)
        case "where" if len(args) == 2:
            return reading.chosen(args[0], receiver, args[1], call)
        case "logical_not" | "logical_not_" | "bitwise_not":
            return tuple(inverted(v) for v in reading.value(receiver))
        case "rsub" if args:
            return reading.total(args[0], receiver, -1.0)
    if plain in _ROUNDING and not args:
        return tuple(_ROUNDING[plain](v) for v in reading.value(receiver))
    if method in ("int", "long"):
        return tuple(floor(v) for v in reading.value(receiver))
    if method in draws.VIEWS:
        for one in args:
            reading.value(one)
        return reading.value(receiver)
    if method in _STATISTICS:
        return reading.products.lost(reading.value(receiver))
    if args:
        return _two(reading, method, receiver, args[0], call)
    return None


def _tossed(reading: Evaluator, source: Source, call: cst.Call, position: int) -> Values:
    names = ("p", "prob", "input", "probs")
    given = next((a for a in (source.argument(call, n) for n in names) if a is not None), None)
    if position == 1:
        count = source.argument(call, "n", 0) or source.argument(call, "count", 0)
        if count is None or not all(
            isinstance(v, Number) and v.value == 1 for v in reading.value(count.value)
        ):
            return (Opaque(),)
    if given is None:
        given = source.argument(call, "p", position)
    if position == 0 and len(call.args) > 1 and given is not None and given.keyword is None:
        second = source.argument(call, "p", 1)  # torch.bernoulli(x, p)
        given = second or given
    return (Opaque(),) if given is None else _of_chance(reading, given.value, call)


def _of_chance(reading: Evaluator, chance: cst.CSTNode, draw: cst.Call) -> Values:
    return tuple(draws.tossed(v, draw) for v in reading.chance(chance))


def _sampler(reading: Evaluator, source: Source, call: cst.Call, name: str) -> Values:
    given = source.argument(call, "probs", 1 if name.endswith("Binomial") else 0)
    if given is None or source.argument(call, "logits") is not None:
        return (Opaque(),)
    values = reading.chance(given.value)
    return tuple(
        Sampler(v.value) if isinstance(v, Number) and 0 < v.value < 1 else Opaque() for v in values
    )


def _dropout(reading: Evaluator, source: Source, call: cst.Call) -> Values:
    """`F.dropout(x, p)`: scaled already; on a tensor of ones it is a mask."""
    given, rate = source.argument(call, "input", 0), source.argument(call, "p", 1)
    if given is None:
        return (Data(),)
    chances: list[Value] = [Number(0.5)] if rate is None else list(reading.value(rate.value))
    known = [c.value for c in chances if isinstance(c, Number) and 0 < c.value < 1]
    found: list[Value] = []
    for value in reading.value(given.value):
        for p in known:
            if isinstance(value, Number):
                found.append(Coin(1 - p, value.value / (1 - p), 0.0, call, ready=True))
            elif isinstance(value, Data):
                coin = Coin(1 - p, value.factor / (1 - p), 0.0, call, call, ready=True)
                found.append(reading.products.recorded(coin, given.value))
    return tuple(found) or (Data(),)


def _root(node: cst.CSTNode) -> cst.CSTNode:
    """The name whose storage an in-place call on `node` changes."""
    while True:
        match node:
            case cst.Attribute(value=value, attr=cst.Name(value="data")):
                node = value
            case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))):
                if not method.endswith("_") and method not in _SAME_STORAGE:
                    return node
                node = value
            case _:
                return node
