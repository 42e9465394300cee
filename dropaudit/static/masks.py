"""Random masks within one function: how they are drawn, scaled, and laid over activations.

A small abstract interpretation. Values are sets of `chance.Value`; branches are joined; loops run
once. Nothing here judges: the rules read `Use` records.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

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
    compare,
    inverted,
    plus,
)
from dropaudit.static.maskcalls import called
from dropaudit.static.scalars import RATE, Defaults, Scalars, arithmetic, close
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

Values = tuple[Value, ...]
Places = dict[str, Values]

_MOST = 6  # values followed for one name; more are merged into the first ones
_OPERATORS: dict[type, str] = {
    cst.LessThan: "<",
    cst.GreaterThan: ">",
    cst.LessThanEqual: "<=",
    cst.GreaterThanEqual: ">=",
    cst.Equal: "==",
    cst.NotEqual: "!=",
}
_RESCALING = re.compile(r"scale|norm(?!al_)|softmax|ratio", re.IGNORECASE)
_ANOTHER_MASK = re.compile(r"mask|pad|valid", re.IGNORECASE)


@dataclass(eq=False)
class Use:
    """One place where a mask meets an activation, and all scales it was seen to have after."""

    node: cst.CSTNode
    draw: cst.CSTNode
    data: cst.CSTNode | None
    coins: list[Coin] = field(default_factory=list)
    keep_text: str = ""
    keep_known: float | None = None  # when it is written as a number, or defaults to one
    spared: bool = False  # scaled in a way that is not followed
    keep_name: str = ""  # the name of the keep probability, where it never stands for another


@dataclass(eq=False)
class Masks:
    """What one function does with random masks."""

    function: cst.FunctionDef
    uses: list[Use]
    factors: list[tuple[float, cst.CSTNode]]  # numbers that an activation is multiplied by
    selections: list[tuple[cst.CSTNode, Coin]]  # x[mask]
    normals: list[tuple[cst.CSTNode, cst.CSTNode]]  # comparisons of a normal draw, and the other
    inferred: list[cst.CSTNode]  # comparisons of a dropout's result with zero
    words: bool  # an unknown factor with a name like "scale" or "norm" is in the function


class MaskReader:
    """The masks of one file, function by function."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.scalars = Scalars(source)
        self._read: dict[cst.FunctionDef, Masks] = {}

    @cached_property
    def functions(self) -> tuple[Masks, ...]:
        """The functions that draw, in source order."""
        found: dict[cst.FunctionDef, None] = {}
        for name in draws.DRAWING:
            for call in self._source.calls_by_name.get(name, ()):
                function = self._source.function_of(call)
                if function is not None:
                    found[function] = None
        order = {f: n for n, f in enumerate(self._source.nodes[cst.FunctionDef])}
        return tuple(self.read(f) for f in sorted(found, key=order.__getitem__))

    def read(self, function: cst.FunctionDef) -> Masks:
        """The masks of one function."""
        if function not in self._read:
            self._read[function] = Reading(self._source, self.scalars, function).masks
        return self._read[function]


class Reading:
    def __init__(self, source: Source, scalars: Scalars, function: cst.FunctionDef) -> None:
        self._source = source
        self._scalars = scalars
        self._uses: dict[cst.CSTNode, Use] = {}
        self._spelled: list[tuple[float, str, cst.CSTNode]] = []
        self._places: Places | None = {}
        for param in _params(function):
            known = scalars.is_rate(param, function)
            self._places[param.name.value] = (Number(scalars.symbol(param)) if known else Data(),)
        self.masks = Masks(function, [], [], [], [], [], False)
        self._block(function.body)
        self.masks.uses = list(self._uses.values())

    # -- statements --------------------------------------------------------------------------

    def _block(self, block: cst.BaseSuite) -> None:
        for statement in block.body:
            if self._places is None:
                return
            if isinstance(statement, cst.SimpleStatementLine):
                for small in statement.body:
                    self._small(small)
            elif isinstance(statement, cst.BaseSmallStatement):
                self._small(statement)
            else:
                self._compound(statement)

    def _compound(self, node: cst.CSTNode) -> None:
        match node:
            case cst.If(test=test, body=body, orelse=orelse):
                self.value(test)
                self._either([body, orelse])
            case cst.For(target=target, iter=iterated, body=body):
                self.value(iterated)
                self._forget(target)
                self._either([body, None])
            case cst.While(test=test, body=body):
                self.value(test)
                self._either([body, None])
            case cst.With(body=body):
                self._block(body)
            case cst.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                self._either([body, *(h.body for h in handlers)])
                for part in (orelse, final):
                    if part is not None and self._places is not None:
                        self._block(part.body)
            case cst.Else(body=body):
                self._block(body)
            case cst.Match(subject=subject, cases=cases):
                self.value(subject)
                self._either([*(c.body for c in cases), None])

    def _either(self, bodies: list[cst.CSTNode | None]) -> None:
        start, ends = self._places, []
        for body in bodies:
            self._places = None if start is None else dict(start)
            if isinstance(body, cst.BaseSuite):
                self._block(body)
            elif body is not None:
                self._compound(body)
            if self._places is not None:
                ends.append(self._places)
        self._places = _joined(ends)

    def _small(self, node: cst.CSTNode) -> None:
        match node:
            case cst.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target.target, value, node)
            case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
                self._assign(target, value, node)
            case cst.AugAssign():
                self._augmented(node)
            case cst.Expr(value=value):
                self.value(value)
            case cst.Return(value=value):
                if value is not None:
                    self.value(value)
                self._places = None
            case cst.Raise() | cst.Continue() | cst.Break():
                self._places = None
            case cst.Assert(test=test):
                self.value(test)

    def _assign(self, target: cst.CSTNode, value: cst.BaseExpression, node: cst.CSTNode) -> None:
        if isinstance(target, cst.Tuple):
            whole = isinstance(value, cst.Tuple) and len(value.elements) == len(target.elements)
            if not whole:
                self.value(value)
            for at, element in enumerate(target.elements):
                if whole:
                    self._assign(element.value, value.elements[at].value, node)  # type: ignore[attr-defined]
                else:
                    self._forget(element.value)
            return
        if isinstance(target, cst.Subscript):
            self._filled(target, self.value(value), node)
            return
        place = _place(target)
        values = self.value(value)
        if place and self._places is not None:
            if isinstance(target, cst.Name) and all(isinstance(v, Data) for v in values):
                found = self._scalars.value(target) if _is_scalar_call(value) else None
                values = values if found is None else (Number(found),)
            self._places[place] = values
            self._spell(target, values)

    def _augmented(self, node: cst.AugAssign) -> None:
        place, right = _place(node.target), self.value(node.value)
        if isinstance(node.target, cst.Subscript):
            return
        left = self.value(node.target)
        match node.operator:
            case cst.MultiplyAssign():
                values = self._multiplied(left, right, node, node.target, node.value)
            case cst.DivideAssign():
                values = self._divided(left, right, node)
            case cst.AddAssign():
                values = _each(left, right, plus)
            case cst.SubtractAssign():
                values = _each(left, right, lambda a, b: plus(a, b, -1.0))
            case _:
                values = self.lost(left)
        if place and self._places is not None:
            self._places[place] = values

    def _filled(self, target: cst.Subscript, values: Values, node: cst.CSTNode) -> None:
        """`x[mask] = 0`, and `mask[rand < p] = 0` on a tensor of ones."""
        place = _place(target.value)
        zero = any(isinstance(v, Number) for v in values)
        for element in target.slice:
            if not isinstance(element.slice, cst.Index):
                continue
            for coin in self.value(element.slice.value):
                if not isinstance(coin, Coin) or not zero or coin.use is not None:
                    continue
                fill = next(v.value for v in values if isinstance(v, Number))
                before = self.value(target.value)
                after: list[Value] = []
                for value in before:
                    after.extend(
                        self._either_value(coin, Number(fill), value, node, target.value, node)
                    )
                if place and self._places is not None:
                    self._places[place] = tuple(after)
                return

    def _forget(self, target: cst.CSTNode) -> None:
        for node in descend(target):
            place = _place(node)
            if place and self._places is not None:
                rate = RATE.search(place) and isinstance(node, cst.Name)
                self._places[place] = (
                    (Number(self._scalars.symbol((node, place))),) if rate else (Data(),)
                )

    # -- expressions -------------------------------------------------------------------------

    def value(self, node: cst.CSTNode) -> Values:
        values = self._value(node)
        if len(values) == 1 and isinstance(values[0], Number):
            self._spell(node, values)
        return values

    def _value(self, node: cst.CSTNode) -> Values:
        match node:
            case cst.Name() | cst.Attribute():
                return self._named(node)
            case cst.BinaryOperation():
                return self._binary(node)
            case cst.UnaryOperation(operator=operator, expression=inner):
                return self._unary(operator, self.value(inner))
            case cst.Comparison(left=left, comparisons=[one]):
                sign = _OPERATORS.get(type(one.operator))
                return self._compared(sign, left, one.comparator, node)
            case cst.IfExp(test=test, body=body, orelse=orelse):
                self.value(test)
                return _merged((*self.value(body), *self.value(orelse)))
            case cst.BooleanOperation(left=left, right=right):
                return _merged((*self.value(left), *self.value(right)))
            case cst.Call():
                return self._call(node)
            case cst.Subscript():
                return self._subscript(node)
            case cst.NamedExpr(target=target, value=value):
                values = self.value(value)
                if isinstance(target, cst.Name) and self._places is not None:
                    self._places[target.value] = values
                return values
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                every = [self.value(e.value) for e in elements]
                return (
                    every[0] if len(every) == 1 else self.lost(tuple(v for e in every for v in e))
                )
            case cst.ListComp() | cst.GeneratorExp() | cst.SetComp():
                return (Opaque(),) if _draws(node) else (Data(),)
            case cst.Integer() | cst.Float():
                found = self._scalars.value(node)
                return (Data(),) if found is None else (Number(found),)
        return (Data(),)

    def _named(self, node: cst.Name | cst.Attribute) -> Values:
        place = _place(node)
        if place and self._places is not None and place in self._places:
            return self._places[place]
        if isinstance(node, cst.Attribute):
            if node.attr.value in ("data", "T"):
                return self.value(node.value)
            sampler = self._sampler_attribute(node)
            if sampler is not None:
                return (sampler,)
        found = self._scalars.value(node)
        return (Data(),) if found is None else (Number(found),)

    def _sampler_attribute(self, node: cst.Attribute) -> Sampler | None:
        facts = self._source.class_of(node) if self_attribute(node) else None
        values = facts.values(node.attr.value) if facts is not None else []
        if len(values) == 1 and isinstance(values[0], cst.Call):
            call = values[0]
            if self._source.name_of(call.func).endswith((".Bernoulli", ".Binomial")):
                first = 1 if self._source.name_of(call.func).endswith("Binomial") else 0
                arg = self._source.argument(call, "probs", first)
                chance = self._scalars.value(arg.value) if arg is not None else None
                return Sampler(chance) if chance is not None and 0 < chance < 1 else None
        return None

    def _unary(self, operator: cst.BaseUnaryOp, values: Values) -> Values:
        if isinstance(operator, (cst.BitInvert, cst.Not)):
            return tuple(inverted(v) for v in values)
        if isinstance(operator, cst.Minus):
            return tuple(plus(Number(0.0), v, -1.0) for v in values)
        return values

    def _compared(
        self, sign: str | None, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode
    ) -> Values:
        one, other = self.value(left), self.value(right)
        if sign is None:
            return self.lost((*one, *other))
        for drawn, against in ((one, right), (other, left)):
            if any(isinstance(v, Normal) for v in drawn):
                self.masks.normals.append((node, against))
        if any(isinstance(v, Coin) and v.ready and v.use is not None for v in one) and all(
            isinstance(v, Number) and v.value == 0 for v in other
        ):
            self.masks.inferred.append(node)
        one, other = self._threshold(one, other, left), self._threshold(other, one, right)
        return _each(one, other, lambda a, b: compare(sign, a, b))

    def _threshold(self, values: Values, against: Values, node: cst.CSTNode) -> Values:
        """What a uniform draw is compared with is a number, whatever it is called."""
        if not any(isinstance(v, Uniform) for v in against):
            return values
        known = tuple(v for v in values if isinstance(v, Number) and 0 < v.value < 1)
        if known:
            return known
        if any(isinstance(v, Number) for v in values):
            return values
        found = self._scalars.by_text(node)
        self._spelled.append((found, self._source.text(node), node))
        return (Number(found),)

    def _binary(self, node: cst.BinaryOperation) -> Values:
        left, right = self.value(node.left), self.value(node.right)
        match node.operator:
            case cst.Multiply():
                return self._multiplied(left, right, node, node.left, node.right)
            case cst.Divide():
                return self._divided(left, right, node)
            case cst.Add():
                return _each(left, right, plus)
            case cst.Subtract():
                return _each(left, right, lambda a, b: plus(a, b, -1.0))
            case cst.BitAnd() | cst.BitOr() | cst.BitXor():
                return self.lost((*left, *right))
        if all(isinstance(v, Number) for v in (*left, *right)):
            found = arithmetic(node.operator, left[0].value, right[0].value)  # type: ignore[union-attr]
            return (Data(),) if found is None else (Number(found),)
        return self.lost((*left, *right))

    def _subscript(self, node: cst.Subscript) -> Values:
        values = self.value(node.value)
        for element in node.slice:
            if isinstance(element.slice, cst.Index):
                for value in self.value(element.slice.value):
                    if isinstance(value, Coin) and value.use is None and value.keep > 0:
                        self.masks.selections.append((node, value))
        if any(isinstance(v, (Number, Data)) for v in values):
            found = self._scalars.value(node)
            return (Data(),) if found is None else (Number(found),)
        return values

    def _call(self, call: cst.Call) -> Values:
        return called(self, self._source, call)

    # -- what calls ask ------------------------------------------------------------------------

    def store(self, target: cst.CSTNode, values: Values) -> None:
        """Take over what an in-place call leaves in `target`."""
        place = _place(target)
        if place and self._places is not None:
            self._places[place] = values

    def product(self, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode) -> Values:
        return self._multiplied(self.value(left), self.value(right), node, left, right)

    def quotient(self, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode) -> Values:
        return self._divided(self.value(left), self.value(right), node)

    def each(
        self, left: cst.CSTNode, right: cst.CSTNode, of: Callable[[Value, Value], Value]
    ) -> Values:
        return _each(self.value(left), self.value(right), of)

    def comparison(
        self, sign: str, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode
    ) -> Values:
        return self._compared(sign, left, right, node)

    def chance(self, node: cst.CSTNode) -> Values:
        """The values of a probability: what is not known is a number with no known relation."""
        values = tuple(v for v in self.value(node) if isinstance(v, Number) and 0 < v.value < 1)
        return values or (Opaque(),)

    def filled(
        self, data: cst.CSTNode, mask: cst.CSTNode, fill: cst.CSTNode, node: cst.CSTNode
    ) -> Values:
        """`data.masked_fill(mask, fill)`."""
        return self._choose(self.value(mask), fill, data, node)

    def chosen(
        self, mask: cst.CSTNode, yes: cst.CSTNode, no: cst.CSTNode, node: cst.CSTNode
    ) -> Values:
        """`torch.where(mask, yes, no)`."""
        return self._choose(self.value(mask), yes, no, node)

    def _choose(
        self, masks: Values, yes: cst.CSTNode, no: cst.CSTNode, node: cst.CSTNode
    ) -> Values:
        found: list[Value] = []
        for mask in masks:
            if not isinstance(mask, Coin) or mask.use is not None or math.isnan(mask.keep):
                found.extend(self.lost((mask,)))
                continue
            for a in self.value(yes):
                for b in self.value(no):
                    found.extend(self._either_value(mask, a, b, yes, no, node))
        return _merged(tuple(found))

    def _either_value(
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
                return [Coin(mask.chance, heads, tails, mask.draw)]
            case Data(), Number(value=0.0):
                return self._laid(mask, yes, node, yes_node)
            case Number(value=0.0), Data():
                return self._laid(inverted(mask), no, node, no_node)
        self._spare(yes)
        self._spare(no)
        return [Data()]

    def passed(self, call: cst.Call) -> Values:
        """The value of a call that nothing is known about."""
        given: list[Value] = []
        if isinstance(call.func, cst.Attribute):
            given.extend(self.value(call.func.value))
        for arg in call.args:
            given.extend(self.value(arg.value))
        if _RESCALING.search(_called_name(call)):
            for value in given:
                self._spare(value)
        lost = self.lost(tuple(given))
        if isinstance(lost[0], Opaque):
            return lost
        found = self._scalars.value(call)
        return (Data(),) if found is None else (Number(found),)

    # -- products ----------------------------------------------------------------------------

    def _multiplied(
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
        return _merged(tuple(found))

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
                self._spare(b)
                self.masks.words = True
                return [Opaque()]
            case Number(value=x), Number(value=y):
                return [Number(x * y)]
            case Coin() as coin, Number(value=f):
                self.masks.factors.append((f, node))
                return [self.recorded(coin.scaled(f))]
            case Number(value=f), Data(factor=g):
                self.masks.factors.append((f, node))
                return [Data(f * g)]
            case Number(value=f), Uniform(low=low, width=width, draw=draw) if f > 0:
                return [Uniform(low * f, width * f, draw)]
            case Coin() as coin, Data() as data:
                return self._laid(coin, data, node, b_node)
            case Coin(), (Coin() | Opaque()):
                self._spare(a)
                self._spare(b)
                return [Opaque()]
            case Data(factor=f), Data(factor=g):
                self._note_unknown(a_node)
                self._note_unknown(b_node)
                return [Data(f * g)]
        self._spare(a)
        self._spare(b)
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
            if _RESCALING.search(text) or RATE.search(text):
                self._spare(coin)
            return [self.recorded(coin.scaled(data.factor))]
        if math.isnan(coin.keep):
            return [Data()]
        if len(text) < 80 and _ANOTHER_MASK.search(last):
            return [coin]
        if _RESCALING.search(text) and not isinstance(data_node, cst.Call):
            return [Opaque()]
        if _RESCALING.search(_called_name(data_node)):
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
                ),
                data_node,
            )
        ]

    def _divided(self, left: Values, right: Values, node: cst.CSTNode) -> Values:
        found: list[Value] = []
        for a in left:
            for b in right:
                match a, b:
                    case Number(value=x), Number(value=y) if y:
                        found.append(Number(x / y))
                    case Coin() as coin, Number(value=y) if y:
                        self.masks.factors.append((1 / y, node))
                        found.append(self.recorded(coin.scaled(1 / y)))
                    case Data(factor=x), Number(value=y) if y:
                        self.masks.factors.append((1 / y, node))
                        found.append(Data(x / y))
                    case Data(), Data():
                        self._note_unknown(node)
                        found.append(Data())
                    case _:
                        self._spare(a)
                        self._spare(b)
                        self.masks.words = True
                        found.append(Opaque())
        return _merged(tuple(found))

    def recorded(self, coin: Coin, data: cst.CSTNode | None = None) -> Coin:
        if coin.use is not None:
            use = self._uses.get(coin.use)
            if use is None:
                use = self._uses[coin.use] = Use(coin.use, coin.draw, data)
                self._describe(use, coin.keep)
            use.coins.append(coin)
        return coin

    def _spare(self, value: Value) -> None:
        if isinstance(value, Coin) and value.use in self._uses:
            self._uses[value.use].spared = True

    def lost(self, values: Values) -> Values:
        """The values after an operation that is not followed."""
        if any(isinstance(v, (Coin, Uniform, Opaque, Normal)) for v in values):
            return (Data(),) if _used(values) else (Opaque(),)
        return (Data(),)

    def _note_unknown(self, node: cst.CSTNode) -> None:
        text = self._source.text(node)
        if _RESCALING.search(text) and len(text) < 120:
            self.masks.words = True

    # -- names for the fix -------------------------------------------------------------------

    def _spell(self, node: cst.CSTNode, values: Values) -> None:
        if len(values) == 1 and isinstance(values[0], Number):
            text = self._source.text(node)
            if len(text) < 60 and "\n" not in text:
                self._spelled.append((values[0].value, text, node))

    def _describe(self, use: Use, keep: float) -> None:
        """Find an expression in reach for the keep probability, and its number if it has one."""
        best: list[tuple[int, str]] = []
        known = Defaults(self._source)
        for value, text, node in self._spelled:
            simple = bool(re.fullmatch(r"[\w.]+", text))
            if close(value, keep):
                best.append((len(text), text if simple else f"({text})"))
            elif close(value, 1 - keep) and simple:
                best.append((len(text) + 7, f"(1 - {text})"))
            else:
                continue
            number = known.value(node)
            if number is not None and 0 < number < 1:
                use.keep_known = number if close(value, keep) else 1 - number
        text = min(best)[1] if best else ""
        others = [value for value, one, _ in self._spelled if one == text]
        use.keep_name = text if all(close(v, keep) for v in others) else ""
        use.keep_text = text[1:-1] if text.startswith("((") and text.endswith("))") else text


def _rank(value: Value) -> int:
    """The order in which the two sides of a product are looked at."""
    kinds = (Opaque, Coin, Number)
    return next((len(kinds) - n for n, kind in enumerate(kinds) if isinstance(value, kind)), 0)


def _used(values: Values) -> bool:
    return any(isinstance(v, Coin) and v.use is not None for v in values)


def _place(node: cst.CSTNode) -> str:
    """The name under which the value of a local or an attribute of self is kept."""
    if isinstance(node, cst.Name):
        return node.value
    name = self_attribute(node)
    return f"self.{name}" if name else ""


def _called_name(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Call):
        match node.func:
            case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
                return name
    return ""


def _is_scalar_call(value: cst.BaseExpression) -> bool:
    return isinstance(value, (cst.Call, cst.Subscript, cst.Attribute, cst.IfExp))


def _merged(values: Values) -> Values:
    """The distinct values, the first few of them."""
    found: list[Value] = []
    for value in values:
        if not any(_same(value, other) for other in found):
            found.append(value)
    return tuple(found[:_MOST]) or (Data(),)


def _same(one: Value, other: Value) -> bool:
    if type(one) is not type(other):
        return False
    return all(
        close(x, y) if isinstance(x, float) else x is y or x == y
        for x, y in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def _joined(ends: list[Places]) -> Places | None:
    if not ends:
        return None
    found: Places = {}
    for name in dict.fromkeys(n for end in ends for n in end):
        found[name] = _merged(tuple(v for end in ends for v in end.get(name, ())))
    return found


def _each(left: Values, right: Values, of: Callable[[Value, Value], Value]) -> Values:
    return _merged(tuple(of(a, b) for a in left for b in right))


def _params(function: cst.FunctionDef) -> Iterator[cst.Param]:
    params = function.params
    yield from params.posonly_params
    yield from params.params
    yield from params.kwonly_params


def _draws(node: cst.CSTNode) -> bool:
    return any(isinstance(n, cst.Call) and _called_name(n) in draws.DRAWING for n in descend(node))
