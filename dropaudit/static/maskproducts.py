"""Products of masks, activations and numbers: where a mask is used, and how it is scaled."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.static.chance import (
    Coin,
    Data,
    Normal,
    Number,
    Opaque,
    Several,
    Uniform,
    Value,
    flat,
    inverted,
    plus,
)
from dropaudit.static.maskuses import Masks, Use, Values, called_name, each, merged
from dropaudit.static.scalars import RATE, Defaults, close
from dropaudit.static.source import Source, number, self_attribute

RESCALING = re.compile(r"scale|norm(?!al_)|softmax|ratio", re.IGNORECASE)
_ANOTHER_MASK = re.compile(r"mask|pad|valid", re.IGNORECASE)


class Products:
    """The uses and factors of one function, gathered in `masks` as its products are met."""

    def __init__(self, source: Source, masks: Masks) -> None:
        self.masks = masks
        self._source = source
        self._uses: dict[cst.CSTNode, Use] = {}
        self._spelled: list[tuple[float, str, cst.CSTNode]] = []
        self._home = source.function_of

    def multiplied(
        self,
        left: Values,
        right: Values,
        node: cst.CSTNode,
        left_node: cst.CSTNode,
        right_node: cst.CSTNode,
    ) -> Values:
        found: list[Value] = []
        for a in left:
            for b in right:
                found.extend(self._product(a, b, node, left_node, right_node))
        return merged(tuple(found))

    def _product(
        self,
        a: Value,
        b: Value,
        node: cst.CSTNode,
        a_node: cst.CSTNode,
        b_node: cst.CSTNode,
    ) -> list[Value]:
        if _rank(b) > _rank(a):
            a, b, a_node, b_node = b, a, b_node, a_node
        match a, b:
            case Opaque(), _:
                self.spare(b)
                self.masks.words = True
                return [Opaque()]
            case Number(value=x), Number(value=y):
                return [Number(x * y)]
            case Coin() as coin, Number(value=f):
                self.masks.factors.append((f, node))
                return [self._scaled(coin, f, node, a_node, b_node)]
            case Number(value=f), Data(factor=g):
                self.masks.factors.append((f, node))
                return [Data(f * g)]
            case Number(value=f), Uniform(low=low, width=width, draw=draw) if f > 0:
                return [Uniform(low * f, width * f, draw)]
            case Coin() as coin, Data() as data:
                return self._laid(coin, data, node, b_node)
            case Coin(), (Coin() | Opaque()):
                self.spare(a)
                self.spare(b)
                return [Opaque()]
            case Data(factor=f), Data(factor=g):
                self._note_unknown(a_node)
                self._note_unknown(b_node)
                return [Data(f * g)]
        self.spare(a)
        self.spare(b)
        return [Opaque()]

    def _laid(
        self, coin: Value, data: Data, node: cst.CSTNode, data_node: cst.CSTNode
    ) -> list[Value]:
        """A mask times something that is no number: an activation, or another mask or scale."""
        if not isinstance(coin, Coin):
            return [Opaque()]
        text = self._source.text(data_node)
        last = text.rsplit(".", 1)[-1] if re.fullmatch(r"[\w.]+", text) else text
        if coin.use is not None:
            if RESCALING.search(text) or RATE.search(text):
                self.spare(coin)
            return [self.recorded(coin.scaled(data.factor))]
        if math.isnan(coin.keep):
            return [Data()]
        if len(text) < 80 and _ANOTHER_MASK.search(last):
            return [coin]
        if RESCALING.search(text) and not isinstance(data_node, cst.Call):
            return [Opaque()]
        if RESCALING.search(called_name(data_node)):
            return [Opaque()]
        if isinstance(data_node, cst.Name) and RATE.search(data_node.value):
            return [Opaque()]
        return [
            self.recorded(
                Coin(
                    coin.chance,
                    coin.yes * data.factor,
                    coin.no * data.factor,
                    coin.draw,
                    node,
                    coin.ready,
                    coin.via,
                ),
                data_node,
            )
        ]

    def divided(
        self,
        left: Values,
        right: Values,
        node: cst.CSTNode,
        left_node: cst.CSTNode,
        right_node: cst.CSTNode,
    ) -> Values:
        found: list[Value] = []
        for a in left:
            for b in right:
                match a, b:
                    case Number(value=x), Number(value=y) if y:
                        found.append(Number(x / y))
                    case Coin() as coin, Number(value=y) if y:
                        self.masks.factors.append((1 / y, node))
                        found.append(self._scaled(coin, 1 / y, node, left_node, right_node))
                    case Data(factor=x), Number(value=y) if y:
                        self.masks.factors.append((1 / y, node))
                        found.append(Data(x / y))
                    case Data(), Data():
                        self._note_unknown(node)
                        found.append(Data())
                    case _:
                        self.spare(a)
                        self.spare(b)
                        self.masks.words = True
                        found.append(Opaque())
        return merged(tuple(found))

    def _scaled(
        self,
        coin: Coin,
        factor: float,
        node: cst.CSTNode,
        coin_node: cst.CSTNode,
        number_node: cst.CSTNode,
    ) -> Coin:
        """A mask times a number. What a caller multiplies by a literal is a weight, no scale."""
        use = self._uses.get(coin.use) if coin.use is not None else None
        if use is not None and self._home(use.node) is not self._home(node):
            if number(number_node) is not None:
                return coin
            use.carried = True
        self._superseded(coin, coin_node)
        return self.recorded(coin.scaled(factor))

    def recorded(self, coin: Coin, data: cst.CSTNode | None = None) -> Coin:
        if coin.use is not None:
            use = self._uses.get(coin.use)
            if use is None:
                use = self._uses[coin.use] = Use(coin.use, coin.draw, data, via=coin.via)
                self.masks.uses.append(use)
                self._describe(use, coin.keep)
            use.coins.append(coin)
        return coin

    def _superseded(self, coin: Coin, node: cst.CSTNode) -> None:
        """Forget the scale of an inner expression that nothing but the outer one sees."""
        inner = isinstance(node, (cst.BinaryOperation, cst.Call)) and not coin.ready
        use = self._uses.get(coin.use) if coin.use is not None and inner else None
        if use is not None and coin in use.coins:
            use.coins.remove(coin)

    def spare(self, value: Value) -> None:
        if isinstance(value, Coin) and value.use in self._uses:
            self._uses[value.use].spared = True

    def summed(self, left: Values, right: Values, sign: float = 1.0) -> Values:
        """`left + right`. A masked activation plus something else of a mask is no dropout.

        Alpha dropout, zoneout and mixing put another value in place of what is dropped.
        """
        for a in left:
            for b in right:
                if isinstance(a, (Coin, Opaque)) and isinstance(b, (Coin, Opaque)):
                    self.spare(a)
                    self.spare(b)
        return each(left, right, lambda a, b: plus(a, b, sign))

    def lost(self, values: Values) -> Values:
        """The values after an operation that is not followed."""
        values = tuple(flat(values))
        if any(isinstance(v, (Coin, Uniform, Opaque, Normal)) for v in values):
            return (Data(),) if _used(values) else (Opaque(),)
        return (Data(),)

    def _note_unknown(self, node: cst.CSTNode) -> None:
        text = self._source.text(node)
        if RESCALING.search(text) and len(text) < 120:
            self.masks.words = True

    def either(
        self,
        mask: Coin,
        yes: Value,
        no: Value,
        yes_node: cst.CSTNode,
        no_node: cst.CSTNode,
        node: cst.CSTNode,
    ) -> list[Value]:
        match yes, no:
            case Number(value=a), Number(value=b):
                heads, tails = (a if mask.yes else b), (a if mask.no else b)
                return [Coin(mask.chance, heads, tails, mask.draw, via=mask.via)]
            case Data(), Number(value=0.0):
                return self._laid(mask, yes, node, yes_node)
            case Number(value=0.0), Data():
                return self._laid(inverted(mask), no, node, no_node)
        self.spare(yes)
        self.spare(no)
        return [Data()]

    def spell(self, node: cst.CSTNode, values: Values) -> None:
        if len(values) == 1 and isinstance(values[0], Number):
            text = self._source.text(node)
            if len(text) < 60 and "\n" not in text:
                self._spelled.append((values[0].value, text, node))

    def _describe(self, use: Use, keep: float) -> None:
        """Find an expression in reach for the keep probability, and its number if it has one."""
        known = Defaults(self._source)
        near = [s for s in self._spelled if self._is_in_reach(s[2], use.node)]
        best = list(self._spellings(use, keep, near, known))
        use.in_reach = bool(best)
        best = best or list(self._spellings(use, keep, self._spelled, known))
        text = min(best)[1] if best else ""
        others = [value for value, one, _ in self._spelled if one == text]
        use.keep_name = text if all(close(v, keep) for v in others) else ""
        use.keep_text = text[1:-1] if text.startswith("((") and text.endswith("))") else text

    def _is_in_reach(self, node: cst.CSTNode, of: cst.CSTNode) -> bool:
        """Whether what `node` says means the same where `of` stands."""
        if self._home(node) is self._home(of):
            return True
        classes = {f and f.node for f in map(self._source.class_of, (node, of))}
        return len(classes) == 1 and bool(self_attribute(node))

    def _spellings(
        self,
        use: Use,
        keep: float,
        spelled: list[tuple[float, str, cst.CSTNode]],
        known: Defaults,
    ) -> Iterator[tuple[int, str]]:
        for value, text, node in spelled:
            simple = bool(re.fullmatch(r"[\w.]+", text))
            if close(value, keep):
                yield len(text), text if simple else f"({text})"
            elif close(value, 1 - keep) and simple:
                yield len(text) + 7, f"(1 - {text})"
            else:
                continue
            shown = known.value(node)
            if shown is not None and 0 < shown < 1:
                use.keep_known = shown if close(value, keep) else 1 - shown

    def passed_out(self, values: Values, call: cst.CSTNode) -> Values:
        """What a helper returns, with the call that asked for it."""
        found: list[Value] = []
        for value in values:
            if isinstance(value, Several):
                value = Several(tuple(self.passed_out(part, call) for part in value.parts))
            elif isinstance(value, Coin) and value.use is None:
                value = replace(value, via=call)
            found.append(value)
        return tuple(found)


def _rank(value: Value) -> int:
    """The order in which the two sides of a product are looked at."""
    kinds = (Opaque, Coin, Number)
    return next((len(kinds) - n for n, kind in enumerate(kinds) if isinstance(value, kind)), 0)


def _used(values: Values) -> bool:
    return any(isinstance(v, Coin) and v.use is not None for v in values)
