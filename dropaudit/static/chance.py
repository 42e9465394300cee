"""What a value of a function may be, as far as masks care: numbers, draws, coins, activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import libcst as cst

from dropaudit.static.scalars import close


@dataclass(frozen=True, eq=False)
class Number:
    """A scalar, or a tensor filled with one."""

    value: float


@dataclass(frozen=True, eq=False)
class Uniform:
    """A draw from `low` to `low + width`, all values alike."""

    low: float
    width: float
    draw: cst.CSTNode

    def below(self, threshold: float) -> float:
        """The chance that the draw is less than `threshold`."""
        return (threshold - self.low) / self.width


@dataclass(frozen=True, eq=False)
class Normal:
    """A draw from a normal distribution."""

    draw: cst.CSTNode


@dataclass(frozen=True, eq=False)
class Sampler:
    """A distribution whose samples are one with the chance `chance`, else zero."""

    chance: float


@dataclass(frozen=True, eq=False)
class Data:
    """An activation times a known factor."""

    factor: float = 1.0


@dataclass(frozen=True, eq=False)
class Opaque:
    """What came of a mask in a way that is not followed."""


@dataclass(frozen=True, eq=False)
class Coin:
    """`yes` with the chance `chance`, else `no`; times an activation once `use` is set."""

    chance: float
    yes: float
    no: float
    draw: cst.CSTNode
    use: cst.CSTNode | None = None
    ready: bool = False  # the result of a dropout that torch itself scales
    via: cst.CSTNode | None = None  # the call of a helper that drew it

    @property
    def keep(self) -> float:
        """The chance of the value that is not zero; NaN unless exactly one of the two is zero."""
        if (self.yes == 0) == (self.no == 0):
            return math.nan
        return self.chance if self.no == 0 else 1 - self.chance

    @property
    def scale(self) -> float:
        """The value that is not zero."""
        return self.yes if self.no == 0 else self.no

    def scaled(self, factor: float) -> Coin:
        return replace(self, yes=self.yes * factor, no=self.no * factor)

    def shifted(self, term: float) -> Coin:
        return replace(self, yes=_clean(self.yes + term), no=_clean(self.no + term))


@dataclass(frozen=True, eq=False)
class Several:
    """A tuple: the values that each of its parts may have."""

    parts: tuple[tuple[Value, ...], ...]


Value = Number | Uniform | Normal | Sampler | Data | Opaque | Coin | Several


def plus(left: Value, right: Value, sign: float = 1.0) -> Value:
    """`left + right`, or `left - right` when `sign` is -1."""
    match left, right:
        case Number(value=a), Number(value=b):
            return Number(_clean(a + sign * b))
        case Uniform() as u, Number(value=b):
            return replace(u, low=_clean(u.low + sign * b))
        case Number(value=a), Uniform() as u:
            low = a + u.low if sign > 0 else a - u.low - u.width
            return replace(u, low=_clean(low))
        case Coin(use=None) as coin, Number(value=b):
            return coin.shifted(sign * b)
        case Number(value=a), Coin(use=None) as coin:
            return coin.scaled(sign).shifted(a)
        case (Coin(use=None) | Opaque() | Normal(), _) | (_, Coin(use=None) | Opaque() | Normal()):
            return Opaque()
    return Data()


def floor(value: Value) -> Value:
    """The largest whole number below: turns `keep + rand` into a coin."""
    match value:
        case Uniform(low=low, width=width, draw=draw) if close(width, 1) and 0 < low < 1:
            return Coin(low, 1.0, 0.0, draw)
        case Uniform(low=low, width=width, draw=draw) if close(width, 1) and -1 < low < 0:
            return Coin(1 + low, 0.0, -1.0, draw)
        case Uniform() | Normal():
            return Opaque()
    return value


def ceil(value: Value) -> Value:
    """The smallest whole number above."""
    match value:
        case Uniform(low=low, width=width, draw=draw) if close(width, 1) and -1 < low < 0:
            return Coin(1 + low, 1.0, 0.0, draw)
        case Uniform() | Normal():
            return Opaque()
    return value


def nearest(value: Value) -> Value:
    """The nearest whole number."""
    match value:
        case Uniform(low=low, width=width, draw=draw) if close(width, 1) and abs(low) < 0.5:
            return Coin(0.5 + low, 1.0, 0.0, draw)
        case Uniform() | Normal():
            return Opaque()
    return value


def compare(operator: str, left: Value, right: Value) -> Value:
    """`left operator right`, the operator written as `<`, `>=`, `==` and so on."""
    match left, right:
        case Number(value=a), (Uniform() | Coin() | Normal()):
            return compare(_MIRRORED[operator], right, Number(a))
        case Uniform() as u, Number(value=b) if operator[0] in "<>":
            below = u.below(b)
            if not 0 < below < 1:
                return Opaque()
            return Coin(below if operator[0] == "<" else 1 - below, 1.0, 0.0, u.draw)
        case Coin(use=None) as coin, Number(value=b):
            return replace(coin, yes=_holds(operator, coin.yes, b), no=_holds(operator, coin.no, b))
        case (Coin(), _) | (_, Coin()) | (Uniform(), _) | (_, Uniform()):
            return Opaque()
        case (Opaque(), _) | (_, Opaque()) | (Normal(), _) | (_, Normal()):
            return Opaque()
    return Data()


def inverted(value: Value) -> Value:
    """`~value` for a boolean mask."""
    match value:
        case Coin(use=None, yes=yes, no=no):
            return replace(value, yes=float(not yes), no=float(not no))
        case Coin() | Uniform() | Normal():
            return Opaque()
    return value


def flat(values: Iterable[Value]) -> Iterator[Value]:
    """The values, tuples taken apart."""
    for value in values:
        if isinstance(value, Several):
            for part in value.parts:
                yield from flat(part)
        else:
            yield value


def by_chance(values: Iterable[Value]) -> bool:
    """Whether one of the values comes of a draw."""
    return any(isinstance(v, (Coin, Uniform, Normal, Sampler, Opaque)) for v in flat(values))


_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "==": "==", "!=": "!="}


def _holds(operator: str, left: float, right: float) -> float:
    equal = close(left, right)
    return float(
        {
            "<": left < right and not equal,
            ">": left > right and not equal,
            "<=": left < right or equal,
            ">=": left > right or equal,
            "==": equal,
            "!=": not equal,
        }[operator]
    )


def _clean(value: float) -> float:
    return 0.0 if abs(value) < 1e-12 else value
