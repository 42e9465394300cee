"""Functions of a program that drop what they are given, and how they hear of the mode.

`def drop(x, p, training=True): return F.dropout(x, p, training)` drops in evaluation too unless
its callers say otherwise; `def drop(x, p): return F.dropout(x, p)` does so whoever calls it with a
rate. Both may stand in another file than the calls, and one may call the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

from dropaudit.static.program.code import (
    Argument,
    Assign,
    Attribute,
    Call,
    Choice,
    Constant,
    Expression,
    Name,
    Not,
    Statement,
    dotted,
)
from dropaudit.static.program.facts import FunctionFacts, Parameter
from dropaudit.static.program.gates import Gated, Tests, gated, implied, names_mode
from dropaudit.static.program.lexicon import DROPS
from dropaudit.static.program.resolve import (
    ClassRef,
    External,
    FunctionRef,
    GlobalRef,
    Resolver,
    Symbol,
)
from dropaudit.static.purpose import MODE_WORD, PURPOSE, words

# attention kernels, and the position of the rate among their arguments
_KERNELS: dict[str, int] = {
    **dict.fromkeys(("scaled_dot_product_attention", "_scaled_dot_product_attention"), 4),
    **dict.fromkeys(("memory_efficient_attention", "memory_efficient_attention_forward"), 4),
    **{"flash_attn_func": 3, "flash_attn_qkvpacked_func": 1, "flash_attn_kvpacked_func": 2},
    **dict.fromkeys(("flash_attn_varlen_func", "flash_attn_unpadded_func"), 7),
    **dict.fromkeys(("flash_attn_varlen_qkvpacked_func", "flash_attn_unpadded_qkvpacked_func"), 3),
    **dict.fromkeys(("flash_attn_varlen_kvpacked_func", "flash_attn_unpadded_kvpacked_func"), 6),
}
_DEPTH = 4
Kind: TypeAlias = Literal["dropout", "kernel", "mask"]

_DRAWS = frozenset(("bernoulli_", "bernoulli", "rand", "rand_like", "uniform_"))
_DROPS_BY_NAME = re.compile(r"drop|stochastic_?depth", re.IGNORECASE)
_RATE_NAME = re.compile(r"drop|rate|prob|^p$")
_PARTIAL = ("functools.partial", "partial")


@dataclass(frozen=True)
class Flag:
    """A parameter for the mode that is on by default; `inverted` where False means training."""

    name: str
    position: int  # -1: by keyword only
    inverted: bool

    @property
    def value(self) -> str:
        """What a module passes for it."""
        return "not self.training" if self.inverted else "self.training"


@dataclass(frozen=True)
class Rate:
    """Where the rate of a drop comes from: a parameter, or the function itself (`name` empty)."""

    name: str = ""
    position: int = -1
    is_zero: bool = False  # unless a caller says otherwise


@dataclass(frozen=True)
class Drop:
    """One way in which a function drops: by torch's dropout, a kernel, or a mask of its own.

    `place` is the function in which torch is called, or a wrapper with its mode left on. With a
    `flag` the caller can tell the mode.
    """

    kind: Kind
    place: FunctionRef
    rate: Rate
    flag: Flag | None = None


@dataclass(frozen=True)
class Passed:
    """What a call passes, as far as a wrapper asks: counts, names, and which of it is zero.

    `bound` of the plain arguments were passed before, by `functools.partial`.
    """

    count: int = 0
    names: frozenset[str] = frozenset()
    zeros: frozenset[str] = frozenset()  # names, and positions as text
    bound: int = 0

    def given(self, name: str, position: int) -> bool:
        """Whether there is an argument for a parameter."""
        return name in self.names or 0 <= position < self.count

    def is_zero(self, rate: Rate) -> bool:
        """Whether the rate of a drop is nothing in this call."""
        if not rate.name or not self.given(rate.name, rate.position):
            return rate.is_zero
        return rate.name in self.zeros or (
            rate.name not in self.names and str(rate.position) in self.zeros
        )

    def after(self, bound: Passed) -> Passed:
        """This call of what `functools.partial` bound arguments to."""
        shifted = (str(int(z) + bound.count) if z.isdigit() else z for z in self.zeros)
        kept = (z for z in bound.zeros if z not in self.names)
        zeros = frozenset((*shifted, *kept))
        return Passed(
            bound.count + self.count, bound.names | self.names, zeros, bound.count + self.bound
        )


@dataclass
class Wrappers:
    """Answers per function, remembered."""

    resolver: Resolver
    _known: dict[FunctionRef, tuple[Drop, ...]] = field(default_factory=dict)

    @cached_property
    def names(self) -> frozenset[str]:
        """The last names of all that may drop: of torch's functions, and of what calls them."""
        found = {*_KERNELS, "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}
        files = self.resolver.files.values()
        every = [function for facts in files for function in facts.functions]
        for facts in files:
            found.update(one.name for one in facts.imports if _last(one.dotted) in found)
        found.update(one.name for one in every if draws(one))
        modules = [one for one in every if not one.qualified and "partial" in one.calls]
        bound = [pair for one in modules for pair in _bound_names(one.body)]
        for _ in range(_DEPTH):
            more = {f.name for f in every if f.calls & found} - {"forward", "__init__", ""}
            more |= {name for name, function in bound if function in found}
            if more <= found:
                break
            found |= more
        return frozenset(found)

    def drops(self, ref: FunctionRef) -> tuple[Drop, ...]:
        """How a function drops, in source order; empty where it does not, or hears the mode."""
        return self._drops(ref, 0)

    def target(self, symbol: Symbol | None) -> tuple[FunctionRef, Passed] | None:
        """The function that is called when `symbol` is, and what was bound to it before."""
        for _ in range(_DEPTH):
            match symbol:
                case FunctionRef():
                    return symbol, Passed()
                case GlobalRef(path, name):
                    value = self._value(path, name)
                    if isinstance(value, Call) and value.arguments:
                        return self._partial(path, value)
                    symbol = self.resolver.resolve(path, dotted(value)) if value else None
                case _:
                    return None
        return None

    def _value(self, path: str, name: str) -> Expression | None:
        """The one thing that a module assigns to a name."""
        module = self.resolver.functions(path).get("")
        found = [
            one.value
            for one in (() if module is None else module.body)
            if isinstance(one, Assign) and Name(name) in one.targets
        ]
        return found[0] if len(found) == 1 else None

    def _partial(self, path: str, call: Call) -> tuple[FunctionRef, Passed] | None:
        maker = self.resolver.resolve(path, dotted(call.function))
        if not isinstance(maker, External) or maker.dotted not in _PARTIAL:
            return None
        first, *bound = call.arguments
        found = self.target(self.resolver.resolve(path, dotted(first.value)))
        passed = passed_by(bound)
        return None if found is None or passed is None else (found[0], passed.after(found[1]))

    def _drops(self, ref: FunctionRef, depth: int) -> tuple[Drop, ...]:
        if ref in self._known:
            return self._known[ref]
        self._known[ref] = ()  # what calls itself drops no more for that
        facts = self.resolver.functions(ref.path).get(ref.qualified)
        if facts is None or depth > _DEPTH or PURPOSE.search(words(ref.qualified)):
            return ()
        self._known[ref] = tuple(dict.fromkeys(_Reading(self, ref, facts, depth).drops()))
        return self._known[ref]


class _Reading:
    """Reads the body of one function."""

    def __init__(self, wrappers: Wrappers, ref: FunctionRef, facts: FunctionFacts, depth: int):
        self._wrappers = wrappers
        self._ref = ref
        self._facts = facts
        self._depth = depth
        self._body = list(gated(facts.body)) if draws(facts) or facts.calls & wrappers.names else []
        skip = 1 if facts.is_method and "staticmethod" not in facts.decorators else 0
        own = [p for p in facts.parameters if not p.name.startswith("*")]
        self._positions = {
            p.name: (-1 if p.keyword_only else at - skip) for at, p in enumerate(own)
        }
        self._parameters = {p.name: p for p in own}

    def drops(self) -> Iterator[Drop]:
        for one in self._body:
            if isinstance(one.node, Call):
                for drop in self._called(one.node):
                    heard = self._heard(drop, one.tests)
                    if heard is not None:
                        yield heard

    # -- what a call is --------------------------------------------------------------------

    def _called(self, call: Call) -> Iterator[Drop]:
        name = dotted(call.function)
        match call.function:
            case Name(name=last) | Attribute(name=last) if last in _DRAWS and draws(self._facts):
                yield Drop("mask", self._ref, self._mask_rate())
                return
        if not name or name.split(".")[0] in self._facts.assigned or name in self._parameters:
            return
        symbol = self._symbol(name)
        match symbol:
            case External(outside):
                yield from self._torch(call, outside)
            case None:
                return
            case _:
                found = self._wrappers.target(symbol)
                if found is not None and found[0] != self._ref:
                    yield from self._wrapped(call, *found)

    def _mask_rate(self) -> Rate:
        for one in self._parameters.values():
            if _RATE_NAME.search(one.name):
                return self._rate_of(one)
        return Rate()

    def _symbol(self, name: str) -> Symbol | None:
        resolver, path = self._wrappers.resolver, self._ref.path
        head, _, rest = name.partition(".")
        if head != "self":
            return resolver.resolve(path, name)
        owner = self._ref.qualified.rpartition(".")[0]
        if not rest or "." in rest or not self._facts.is_method or "." in owner:
            return None
        return resolver.method(ClassRef(path, owner), rest)

    def _torch(self, call: Call, name: str) -> Iterator[Drop]:
        last = name.rpartition(".")[2]
        is_kernel = last in _KERNELS and "." in name
        if last.endswith("scaled_dot_product_attention") and not name.startswith("torch."):
            return
        if not is_kernel and not (DROPS.search(name) and "alpha" not in last):
            return
        arguments = {one.name: one.value for one in call.arguments if one.name}
        plain = [one.value for one in call.arguments if not one.name]
        if "*" in arguments or "**" in arguments:
            return
        at = _KERNELS.get(last, 1)
        given = arguments.get("dropout_p", arguments.get("p"))
        if given is None and len(plain) > at:
            given = plain[at]
        if given is None and is_kernel:
            return
        drop: Drop | None = Drop("kernel" if is_kernel else "dropout", self._ref, Rate())
        training = arguments.get("training", arguments.get("train"))
        if training is None and not is_kernel and len(plain) > 2:
            training = plain[2]
        if drop is not None and training is not None and not is_kernel:
            drop = self._told(drop, training)
        if drop is not None and given is not None:
            drop = self._rated(drop, given)
        if drop is not None:
            yield drop

    def _wrapped(self, call: Call, target: FunctionRef, bound: Passed) -> Iterator[Drop]:
        passed = passed_by(call.arguments)
        if passed is None:
            return
        passed = passed.after(bound)
        for drop in self._wrappers._drops(target, self._depth + 1):
            if passed.is_zero(drop.rate):
                continue
            told: Drop | None = replace(drop, flag=None, rate=Rate())
            if told is not None and (flag := drop.flag) is not None:
                told = replace(told, place=self._ref)  # if nobody tells, it is this call's doing
                given = _argument(call, flag.name, flag.position - bound.count)
                if given is not None:
                    told = self._told(told, Not(given) if flag.inverted else given)
                elif passed.given(flag.name, flag.position):
                    continue
            rate = _argument(call, drop.rate.name, drop.rate.position - bound.count)
            if told is not None and drop.rate.name and rate is not None:
                told = self._rated(told, rate)
            if told is not None:
                yield told

    # -- how it hears ----------------------------------------------------------------------

    def _told(self, drop: Drop, training: Expression) -> Drop | None:
        """With `training` as its flag: a parameter that is on by default, else it is no matter."""
        inverted = False
        while isinstance(training, Not):
            training, inverted = training.value, not inverted
        if not isinstance(training, Name) or self._values(training.name):
            return None
        flag = self._flag(training.name, inverted)
        return None if flag is None else replace(drop, flag=flag)

    def _flag(self, name: str, inverted: bool) -> Flag | None:
        parameter = self._parameters.get(name)
        if parameter is None or not MODE_WORD.match(name):
            return None
        if parameter.default != Constant(not inverted) or _is_number(parameter):
            return None
        return Flag(name, self._positions[name], inverted)

    def _heard(self, drop: Drop, tests: Tests) -> Drop | None:
        """After the tests around the call: a flag among them, or None where they hear the mode."""
        for test, truth in implied(tests):
            if not names_mode(test):
                continue
            if not isinstance(test, Name) or self._values(test.name):
                return None
            flag = self._flag(test.name, not truth)
            if flag is None or drop.flag not in (None, flag):
                return None
            drop = replace(drop, flag=flag)
        return drop

    def _rated(
        self, drop: Drop, rate: Expression, within: frozenset[str] = frozenset()
    ) -> Drop | None:
        """With its rate: None where that depends on the mode, is zero, or is not understood.

        `within` are the names whose values are being looked at.
        """
        match rate:
            case Constant(value=value):
                return drop if value else None
            case Choice(test=test, left=left, right=right):
                for arm, other, truth in ((left, right, True), (right, left, False)):
                    off = other == test or (isinstance(other, Constant) and not other.value)
                    if off and names_mode(test):
                        heard = self._heard(drop, ((test, truth),))
                        return None if heard is None else self._rated(heard, arm, within)
                return None
            case Name(name=name):
                return self._named(drop, name, within)
            case Attribute(value=Name("self"), name=name) if self._symbol(f"self.{name}"):
                return None  # a property, which may ask for the mode
            case Attribute():
                return None if names_mode(rate) else drop
        return None

    def _named(self, drop: Drop, name: str, within: frozenset[str]) -> Drop | None:
        parameter = self._parameters.get(name)
        found: Drop | None = drop
        if name in self._facts.assigned and name not in within:
            values = self._values(name)
            if not values:
                return None
            for one in values:
                if found is not None and isinstance(one.node, Assign):
                    found = self._valued(found, one.node.value, one.tests, within | {name})
        if found is None or parameter is None:
            return found
        return replace(found, rate=self._rate_of(parameter))

    def _rate_of(self, parameter: Parameter) -> Rate:
        default = parameter.default
        zero = isinstance(default, Constant) and not default.value
        return Rate(parameter.name, self._positions[parameter.name], zero)

    def _valued(
        self, drop: Drop, value: Expression, tests: Tests, within: frozenset[str]
    ) -> Drop | None:
        """With one of the values that its rate is given, under the tests around."""
        if isinstance(value, Constant) and not value.value:
            if len(tests) != 1:
                return None
            ((test, truth),) = tests  # `if not training: p = 0`
            return self._heard(drop, ((test, not truth),)) if names_mode(test) else None
        return self._rated(drop, value, within)

    def _values(self, name: str) -> list[Gated]:
        """The assignments to a name in this function."""
        if name not in self._facts.assigned:
            return []
        return [
            one
            for one in self._body
            if isinstance(one.node, Assign) and Name(name) in one.node.targets
        ]


def passed_by(arguments: tuple[Argument, ...] | list[Argument]) -> Passed | None:
    """What a call passes; None where some of it cannot be seen."""
    names, zeros, count = set(), set(), 0
    for one in arguments:
        if one.name in ("*", "**"):
            return None
        key = one.name or str(count)
        if isinstance(one.value, Constant) and not one.value.value:
            zeros.add(key)
        if one.name:
            names.add(one.name)
        else:
            count += 1
    return Passed(count, frozenset(names), frozenset(zeros))


def _argument(call: Call, name: str, position: int) -> Expression | None:
    for one in call.arguments:
        if one.name == name:
            return one.value
    plain = [one.value for one in call.arguments if not one.name]
    return plain[position] if 0 <= position < len(plain) else None


def draws(facts: FunctionFacts) -> bool:
    """Whether a function that is named after dropout draws at random."""
    return bool(_DROPS_BY_NAME.search(facts.name) and facts.calls & _DRAWS)


def _bound_names(body: tuple[Statement, ...]) -> Iterator[tuple[str, str]]:
    """The names that a module gives to functions with some arguments bound, and the functions."""
    for one in body:
        match one:
            case Assign(targets=(Name(name),), value=Call(arguments=(Argument(value=value), *_))):
                yield name, _last(dotted(value))


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def _is_number(parameter: Parameter) -> bool:
    return isinstance(parameter.default, Constant) and not isinstance(parameter.default.value, bool)
