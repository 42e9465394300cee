"""Masks written by hand: from the random draw, through comparison and scaling, to the product.

Followed by the identity of the tensors as functions hand them on, within one forward pass. Only
what the field calls dropout is followed to the end: a Bernoulli mask that multiplies (or fills with
zeros) an activation, in code that speaks of dropping or keeping. Sampling, noise, Gumbel tricks and
masked language models draw random numbers too, and are no dropout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from dropaudit.runtime.places import calling_codes

_UNIFORM = {"rand", "rand_like", "uniform_"}
CONSTANT = {"full", "full_like", "new_full"}
_BERNOULLI = {"bernoulli", "bernoulli_"}
_LESS, _MORE = {"lt", "le", "less", "less_equal"}, {"gt", "ge", "greater", "greater_equal"}
_KEEPS = {
    *("float", "half", "bfloat16", "double", "to", "type", "type_as", "bool", "int", "long"),
    *("view", "reshape", "expand", "expand_as", "unsqueeze", "unsqueeze_", "squeeze", "transpose"),
    *("permute", "contiguous", "detach", "detach_", "clone", "requires_grad_", "t", "flatten"),
    *("byte", "cuda", "cpu", "repeat", "broadcast_to", "view_as", "movedim", "__getitem__"),
}
_TIMES = {"mul", "mul_", "multiply", "__rmul__", "div", "div_", "true_divide", "__rdiv__"}
_MAKES_NEW = {"mul", "mul_", "multiply", "__rmul__"}
_MOST_FACTORS = 8
_NAMES = re.compile(r"drop|keep_?p|p_?keep|keep_?rate|stochastic_?depth", re.IGNORECASE)
RANDOM = (
    _UNIFORM
    | _BERNOULLI
    | {
        *("randn", "randn_like", "normal", "normal_", "randint", "randint_like", "random_"),
        *("randperm", "multinomial", "exponential_", "poisson", "geometric_", "cauchy_"),
        *("log_normal_", "rrelu", "binomial"),
    }
)
"""Names of the functions that draw random numbers, as torch tags them."""


@dataclass(frozen=True)
class _Followed:
    tensor: ref[Tensor]
    stage: str
    """ "constant" (one probability), "uniform", "shifted" (a number added, for floor) or "mask"."""
    keep: float | None
    draw: int
    flipped: bool = False
    """Whether this is the complement of what was drawn."""
    factors: tuple[float, ...] = ()
    """By what the mask itself was multiplied."""
    own_generator: bool = False
    """Whether it was drawn from a generator of the user's, in this pass."""


@dataclass(frozen=True)
class _Scaled:
    """An activation, by which factors it was multiplied so far, and the dropout in it, if any."""

    tensor: ref[Tensor]
    factors: tuple[float, ...]
    calls: tuple[tuple[Any, float | None, tuple[float, ...]], ...] = ()
    """Each with its keep probability, and by what its mask was multiplied."""


@dataclass(frozen=True)
class Product:
    """An activation that a followed mask is about to multiply."""

    x: Tensor
    keep: float | None
    draw: int
    inplace: bool
    mask_shape: tuple[int, ...]
    factors: tuple[float, ...] = ()
    """By what the mask was multiplied: part of what the product shows."""
    own_generator: bool = False


class Handmade:
    """The random draws of one forward pass, and what became of them."""

    _draws = count()

    def __init__(self) -> None:
        self._followed: dict[int, _Followed] = {}
        self._scaled: dict[int, _Scaled] = {}
        self._uses: dict[int, set[bool]] = {}
        self._evident: dict[int, bool] = {}
        self._chosen: set[int] = set()
        self._carried: list[_Followed] = []

    def __bool__(self) -> bool:
        return bool(self._followed)

    def begin(self) -> None:
        """A pass begins: masks that somebody kept from an earlier one are followed again."""
        for mask in self._carried:
            tensor = mask.tensor()
            if tensor is not None:
                self._followed[id(tensor)] = replace(mask, own_generator=False)
        self._carried.clear()

    def clear(self) -> None:
        """The pass is over: forget all but the masks that are still held somewhere."""
        self._carried = [
            mask
            for mask in self._followed.values()
            if mask.stage != "constant" and mask.tensor() is not None
        ]
        self._followed.clear()
        self._chosen.intersection_update(mask.draw for mask in self._carried)
        self._scaled.clear()
        self._uses.clear()
        self._evident.clear()

    def rescaled(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> _Scaled | None:
        """An activation that a function of this name is about to multiply by a number."""
        factor = factor_of(name, args)
        if factor is None:
            return None
        x = args[0] if isinstance(args[0], Tensor) and args[0].dim() else args[1]
        if not isinstance(x, Tensor) or self._of(x) is not None:
            return None
        before = self._scaled.get(id(x))
        if before is not None and before.tensor() is x:
            return replace(before, factors=(*before.factors[-_MOST_FACTORS:], factor))
        return _Scaled(ref(x), (factor,))

    def note_scaled(self, scaled: _Scaled, result: Any) -> None:
        """Remember what became of it; a product with a mask takes the factor into account."""
        if not isinstance(result, Tensor):
            return
        self._scaled[id(result)] = replace(scaled, tensor=ref(result))
        for begin, keep, of_mask in scaled.calls:
            begin.scaled_by(scaled.factors, keep, of_mask)

    def note_product(self, product: Product, result: Any, begun: list[Any]) -> None:
        """A followed mask has multiplied an activation: factors before and after belong to it."""
        before = self._scaled.get(id(product.x))
        factors: tuple[float, ...] = ()
        if before is not None and before.tensor() is product.x and not before.calls:
            factors = before.factors
        for begin in begun:
            begin.scaled_by(factors, product.keep, product.factors)
            begin.call.own_generator = product.own_generator
            if begin.run is not None:
                begin.run.own_generator = product.own_generator
            if self.complemented(product.draw):
                begin.call.log.complemented = True
        if isinstance(result, Tensor):
            calls = tuple((begin, product.keep, product.factors) for begin in begun)
            self._scaled[id(result)] = _Scaled(ref(result), factors, calls)

    def complemented(self, draw: int) -> bool:
        """Whether both the mask and its complement multiplied something: a choice, no dropout."""
        return len(self._uses.get(draw, ())) == 2

    def product(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> Product | None:
        """What a function of this name is about to drop with a followed mask, if it does."""
        operands = [*args, *kwargs.values()]
        masks = [m for item in operands if (m := self._of(item)) and m.stage == "mask"]
        if len(masks) != 1:
            return None
        (mask,) = masks
        if name in _MAKES_NEW:
            others = [o for o in operands if isinstance(o, Tensor) and self._of(o) is None]
            tensor = mask.tensor()
            if len(others) != 1 or tensor is None or not others[0].is_floating_point():
                return None
            if others[0].dim() == 0 or others[0].numel() == 1:
                return None
            inplace = name == "mul_" and args[0] is others[0]
            return self._product(others[0], mask, False, inplace, tensor)
        if name in ("masked_fill", "masked_fill_"):
            x, value = operands[0], operands[2] if len(operands) > 2 else None
            tensor = mask.tensor()
            if not _is_zero(value):
                self._chosen.add(mask.draw)
            if tensor is None or not _is_zero(value) or not isinstance(x, Tensor):
                return None
            if not x.is_floating_point():
                return None
            return self._product(x, mask, True, name.endswith("_"), tensor)
        if name == "where" and len(operands) == 3:
            tensor = mask.tensor()
            if tensor is None or self._of(operands[0]) is not mask:
                return None
            for x, other, flipped in ((1, 2, False), (2, 1, True)):
                value = operands[x]
                if not _is_zero(operands[other]) or not isinstance(value, Tensor):
                    continue
                if value.is_floating_point():
                    return self._product(value, mask, flipped, False, tensor)
            if not _is_zero(operands[1]) and not _is_zero(operands[2]):
                self._chosen.add(mask.draw)
        return None

    def follow(self, name: str, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Note what a function of this name made of draws and masks."""
        if not isinstance(result, Tensor):
            return
        own = kwargs.get("generator") is not None
        if name in _UNIFORM:
            self._remember(result, "uniform", None, next(self._draws), own)
            return
        if name in CONSTANT:
            value = _number(kwargs.get("fill_value", args[-1] if args else None))
            if value is not None and 0 < value < 1:
                self._remember(result, "constant", value, -1)
            return
        if name in _BERNOULLI:
            keep = _number(args[1] if len(args) > 1 else kwargs.get("p"))
            chances = self._of(args[0]) if args else None
            if keep is None and chances is not None and chances.stage == "constant":
                keep = chances.keep
            self._remember(result, "mask", keep, next(self._draws), own)
            return
        operands = [*args, *kwargs.values()]
        known = [m for item in operands if (m := self._of(item))]
        if len(known) != 1:
            return
        (old,) = known
        made = self._made(name, operands, old)
        if made is not None:
            self._followed[id(result)] = replace(made, tensor=ref(result))

    def _made(self, name: str, operands: list[Any], old: _Followed) -> _Followed | None:
        first = operands[0] if operands else None
        number = next((n for item in operands if (n := _number(item)) is not None), None)
        if old.stage == "uniform":
            if name in _LESS | _MORE and self._of(first) is old:
                keep = None if number is None else (number if name in _LESS else 1 - number)
                return replace(old, stage="mask", keep=keep)
            if name in ("add", "add_", "__radd__") and number is not None:
                return replace(old, stage="shifted", keep=number)
            return replace(old) if name in _KEEPS else None
        if old.stage == "constant":
            return replace(old) if name in _KEEPS else None
        if old.stage == "shifted":
            if name in ("floor", "floor_"):
                return replace(old, stage="mask")
            return replace(old) if name in _KEEPS else None
        if name in _KEEPS:
            return replace(old)
        others = [item for item in operands if isinstance(item, Tensor) and self._of(item) is None]
        if name in _TIMES and all(item.numel() == 1 for item in others):
            factor = factor_of(name, operands)
            return replace(old, factors=old.factors if factor is None else (*old.factors, factor))
        if name in ("__invert__", "logical_not", "bitwise_not", "__rsub__", "rsub"):
            keep = None if old.keep is None else 1 - old.keep
            return replace(old, flipped=not old.flipped, keep=keep)
        return None

    def _product(
        self, x: Tensor, mask: _Followed, inverted: bool, inplace: bool, tensor: Tensor
    ) -> Product | None:
        if mask.draw in self._chosen:  # it picks one of two values: no dropout
            return None
        evident = self._evident.get(mask.draw)
        if evident is None:
            evident = self._evident[mask.draw] = _speaks_of_dropping()
        if not evident:
            return None
        self._uses.setdefault(mask.draw, set()).add(mask.flipped ^ inverted)
        keep = mask.keep
        if inverted and keep is not None:
            keep = 1 - keep
        shape, own = tuple(tensor.shape), mask.own_generator
        return Product(x, keep, mask.draw, inplace, shape, mask.factors, own)

    def _remember(
        self, tensor: Tensor, stage: str, keep: float | None, draw: int, own: bool = False
    ) -> None:
        mask = _Followed(ref(tensor), stage, keep, draw, own_generator=own)
        self._followed[id(tensor)] = mask

    def _of(self, item: Any) -> _Followed | None:
        if not isinstance(item, Tensor):
            return None
        known = self._followed.get(id(item))
        if known is None:
            return None
        if known.tensor() is not item:  # the id was given to another tensor
            del self._followed[id(item)]
            return None
        return known


def _speaks_of_dropping() -> bool:
    """Whether the code that multiplies calls itself dropout, by the names it uses."""
    for code in calling_codes(limit=3):
        names = (code.co_name, getattr(code, "co_qualname", ""), *code.co_names, *code.co_varnames)
        if any(_NAMES.search(name) for name in names):
            return True
    return False


def _is_zero(value: Any) -> bool:
    number = _number(value)
    return number == 0


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor) and value.dim() == 0 and value.device.type == "cpu":
        if value.requires_grad:  # learned: no rate
            return None
        with torch._C.DisableTorchFunction():
            return float(value)
    return None


def factor_of(name: str, args: Any) -> float | None:
    """The positive number by which a function of this name multiplies a tensor, if it does."""
    if name not in _TIMES or len(args) < 2:
        return None
    first, second = args[0], args[1]
    number = _number(second)
    if number is None and name in _MAKES_NEW:
        number = _number(first)
    if number is None or number <= 0:
        return None
    return number if name in _MAKES_NEW else 1 / number


def function_name(function: Callable[..., Any]) -> str:
    """The bare name of a torch function or method, as `torch.overrides` hands it over."""
    return getattr(function, "__name__", "")
