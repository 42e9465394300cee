"""Whether a model acts otherwise in training: whether dropout or batch norm is inside."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from dropaudit.static.lineages import KNOWN_MODULE, LAYER_NAME, MODEL_NAME, NO_MODULE
from dropaudit.static.program.code import (
    Argument,
    Attribute,
    Call,
    Constant,
    Element,
    Expression,
    Name,
    Span,
    Statement,
    dotted,
)
from dropaudit.static.program.lexicon import (
    DROPOUT_LAYERS,
    DROPS,
    MODE_LAYERS,
    RATE_LAYERS,
    RATE_WORDS,
)
from dropaudit.static.program.resolve import (
    ClassRef,
    External,
    FunctionRef,
    Resolver,
    Symbol,
)

_DEPTH = 8
_NO_LAYERS = ("numpy.", "math.", "os.", "pathlib.", "einops.", "torch_sparse.", "scipy.")


@dataclass(frozen=True)
class Inside:
    """What is inside a model.

    `layer` is the name of a layer that acts by mode ("Dropout"), empty where none was seen;
    `by_rate` names parameters of the constructor that have to be given a rate for there to be one,
    `unknown` says that something inside could not be looked into.
    """

    layer: str = ""
    by_rate: frozenset[str] = frozenset()
    unknown: bool = False

    def given(self, rates: frozenset[str]) -> str:
        """The layer, where the constructor was given `rates` that are not zero."""
        if self.layer:
            return self.layer
        return "Dropout" if rates & self.by_rate else ""


_NOTHING = Inside()
_UNKNOWN = Inside(unknown=True)


class Layers:
    """Answers per class and factory, remembered.

    With `only_drops` batch norm does not count, nor do the rates of a schedule: all may be zero.
    """

    def __init__(self, resolver: Resolver, only_drops: bool = False) -> None:
        self._resolver = resolver
        self._only_drops = only_drops
        self._wanted = DROPOUT_LAYERS if only_drops else MODE_LAYERS
        self._known: dict[Symbol, Inside] = {}
        self._modules: dict[ClassRef, bool] = {}

    def inside(self, symbol: Symbol | None) -> Inside:
        """What is inside what `symbol`, a class or a factory, builds."""
        return self._inside(symbol, 0)

    def of_call(self, call: Call, function: FunctionRef, cls: ClassRef | None) -> Inside:
        """What is inside what a call builds that stands in `function`, a method of `cls`."""
        return self._call(call, function.path, function, 0, cls)

    def may_act_by_mode(self, symbol: Symbol | None) -> bool:
        """Whether what `symbol` builds has, or with some rate would have, a layer of that kind."""
        inside = self.inside(symbol)
        return bool(inside.layer or inside.by_rate)

    def is_module(self, ref: ClassRef) -> bool:
        """Whether a class of the project is an `nn.Module`: by a base, or by evidence."""
        if ref not in self._modules:
            self._modules[ref] = False
            self._modules[ref] = self._is_module(ref)
        return self._modules[ref]

    def _is_module(self, ref: ClassRef) -> bool:
        lineage = self._resolver.lineage(ref)
        outside = [one.dotted.lstrip("?") for one in lineage if isinstance(one, External)]
        unknown = [name for name in outside if not NO_MODULE.search(name)]
        if any(KNOWN_MODULE.search(name) for name in unknown):
            return True
        has_forward = self._resolver.method(ref, "forward") is not None
        if not unknown or not has_forward:
            return False
        return any(LAYER_NAME.search(name) or MODEL_NAME.search(name) for name in unknown)

    def _inside(self, symbol: Symbol | None, depth: int) -> Inside:
        if symbol is None or depth > _DEPTH:
            return _UNKNOWN
        if symbol not in self._known:
            self._known[symbol] = _NOTHING  # what holds itself holds no more for that
            found = self._looked_into(symbol, depth)
            if depth and found.unknown:
                del self._known[symbol]  # it was cut off: from elsewhere there may be an answer
                return found
            self._known[symbol] = found
        return self._known[symbol]

    def _looked_into(self, symbol: Symbol, depth: int) -> Inside:
        match symbol:
            case External(name):
                return self._foreign(name)
            case FunctionRef(path, _):
                return self._sum(self._calls_of(symbol), path, symbol, depth)
            case ClassRef():
                return self._class(symbol, depth)
        return _UNKNOWN

    def _foreign(self, name: str) -> Inside:
        if self._wanted.search(name):
            parts = [one for one in name.split(".") if not one.startswith("from_")]
            return Inside(parts[-1])
        if name.startswith("torch.") or not name.rpartition(".")[2][:1].isupper():
            return _NOTHING
        if hasattr(builtins, name) or NO_MODULE.search(name) or name.startswith(_NO_LAYERS):
            return _NOTHING
        return _UNKNOWN

    def _class(self, ref: ClassRef, depth: int) -> Inside:
        total = _NOTHING
        for one in self._resolver.lineage(ref):
            if isinstance(one, External):
                known = one.dotted.startswith(("torch.nn.", "torch.jit.")) or NO_MODULE.search(
                    one.dotted
                )
                total = total if known else _added(total, _UNKNOWN)
                continue
            for method in self._resolver.class_facts(one).methods:
                function = FunctionRef(one.path, f"{one.qualified}.{method}")
                found = self._sum(self._calls_of(function), one.path, function, depth, one)
                total = _added(total, found)
                if total.layer:
                    return total
        return total

    def _calls_of(self, ref: FunctionRef) -> list[Call]:
        facts = self._resolver.functions(ref.path).get(ref.qualified)
        return [] if facts is None else list(_calls(facts.body))

    def _sum(
        self,
        calls: list[Call],
        path: str,
        function: FunctionRef,
        depth: int,
        cls: ClassRef | None = None,
    ) -> Inside:
        total = _NOTHING
        for call in calls:
            total = _added(total, self._call(call, path, function, depth, cls))
            if total.layer:
                break
        return total

    def _call(
        self, call: Call, path: str, function: FunctionRef, depth: int, cls: ClassRef | None
    ) -> Inside:
        name = dotted(call.function)
        if not name or name.startswith(("self.", "super")):
            return _NOTHING
        symbol = self._resolver.resolve(path, name)
        match symbol:
            case External(outside):
                return self._outside(call, outside, function, cls)
            case ClassRef() if self.is_module(symbol):
                found = self._inside(symbol, depth + 1)
            case FunctionRef() if "." not in symbol.qualified:
                found = self._inside(symbol, depth + 1)
            case None:
                return _UNKNOWN if name.rpartition(".")[2][:1].isupper() else _NOTHING
            case _:
                return _NOTHING
        if found.layer and self._only_drops and self._is_given_zero(call, symbol, found.by_rate):
            return _NOTHING
        if found.layer or not found.by_rate:
            return found
        rates = [a for a in call.arguments if a.name in found.by_rate]
        verdicts = [self._rate(one.value, function, cls) for one in rates]
        return _added(Inside(unknown=found.unknown), *verdicts)

    def _is_given_zero(self, call: Call, symbol: Symbol, rates: frozenset[str]) -> bool:
        """Whether a constructor is given rates, all of them zero."""
        init = self._resolver.method(symbol, "__init__") if isinstance(symbol, ClassRef) else None
        names: list[str] = []
        if isinstance(init, FunctionRef):
            facts = self._resolver.function_facts(init)
            names = [p.name for p in facts.parameters if not p.keyword_only][1:]
        plain = [one.value for one in call.arguments if not one.name]
        given = dict(zip(names, plain, strict=False))
        given |= {one.name: one.value for one in call.arguments if one.name}
        found = [value for name, value in given.items() if name in rates]
        return bool(found) and all(map(_is_zero, found))

    def _outside(
        self, call: Call, name: str, function: FunctionRef, cls: ClassRef | None
    ) -> Inside:
        if self._wanted.search(name) or DROPS.search(name):
            if not name.startswith("torch."):
                if self._only_drops and name.endswith("DropPath"):
                    rate = _argument(call, ("drop_prob",), 0)
                    return _NOTHING if rate is None else self._rate(rate, function, cls)
                return self._foreign(name)
            if self._only_drops and _is_false(_argument(call, ("training",), 2)):
                return _NOTHING
            if "ropout" not in name and "Transformer" not in name:
                return Inside(name.rpartition(".")[2])
            position = 1 if DROPS.search(name) else 0
            rate = _argument(call, ("p", "drop_prob", "dropout"), position)
            if rate is None or "Transformer" in name:
                zero = rate is not None and _is_zero(rate) and not isinstance(rate, Name)
                return _NOTHING if zero and _named(call, "dropout") else Inside("Dropout")
            return self._rate(rate, function, cls)
        if name.startswith("torch.nn.") and not RATE_LAYERS.search(name):
            return _NOTHING
        rates = [a for a in call.arguments if a.name and RATE_WORDS.search(a.name)]
        last = name.rpartition(".")[2]
        found = [self._rate(one.value, function, cls) for one in rates if last[:1].isupper()]
        return _added(self._foreign(name), *found)

    def _rate(self, rate: Expression, function: FunctionRef, cls: ClassRef | None) -> Inside:
        """What a rate says: a number, or a parameter whose default is one."""
        if isinstance(rate, Constant):
            return _NOTHING if _is_zero(rate) else Inside("Dropout")
        if isinstance(rate, Element) and self._only_drops:
            return _UNKNOWN  # of a schedule, whose rates may all be zero
        if isinstance(rate, Attribute) and isinstance(rate.value, Name) and cls is not None:
            if rate.value.name != "self":
                return Inside("Dropout")
            held = (h for h in self._resolver.class_facts(cls).held if h.name == rate.name)
            first = next(held, None)
            if first is None:
                return Inside("Dropout")
            if isinstance(first.value, Attribute):
                return Inside("Dropout")
            method = FunctionRef(cls.path, f"{cls.qualified}.{first.method}")
            return self._rate(first.value, method if first.method else function, cls)
        if isinstance(rate, Name):
            facts = self._resolver.functions(function.path).get(function.qualified)
            parameters = () if facts is None else facts.parameters
            for one in parameters:
                if one.name == rate.name:
                    if one.default is not None and _is_zero(one.default):
                        return Inside(by_rate=frozenset((rate.name,)))
                    by_rate = (rate.name,) if self._only_drops else ()
                    return Inside("Dropout", frozenset(by_rate))
        return Inside("Dropout")


def _named(call: Call, name: str) -> bool:
    """Whether a call is given the keyword `name`."""
    return any(one.name == name for one in call.arguments)


def _argument(call: Call, names: tuple[str, ...], position: int) -> Expression | None:
    plain = [one for one in call.arguments if not one.name]
    for one in call.arguments:
        if one.name in names:
            return one.value
    return plain[position].value if position < len(plain) else None


def _is_false(flag: Expression | None) -> bool:
    return isinstance(flag, Constant) and flag.value is False


def _is_zero(rate: Expression) -> bool:
    return isinstance(rate, Constant) and (rate.value is None or rate.value == 0)


def _added(*every: Inside) -> Inside:
    layer = next((one.layer for one in every if one.layer), "")
    rates = frozenset().union(*(one.by_rate for one in every))
    return Inside(layer, rates, any(one.unknown for one in every))


def _calls(body: tuple[Statement, ...]) -> Iterator[Call]:
    """Every call of a body, those in conditions and loops too."""
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(reversed(node))
        elif isinstance(node, Call):
            yield node
            stack.extend(reversed([node.function, *node.arguments]))
        elif isinstance(node, Argument):
            stack.append(node.value)
        elif not isinstance(node, (str, int, float, bool, Span)) and node is not None:
            stack.extend(getattr(node, one.name) for one in reversed(fields(node)))
