"""What the expressions of a function are worth, as far as random masks care."""

from __future__ import annotations

import math
from collections.abc import Callable

import libcst as cst

from dropaudit.static import draws
from dropaudit.static.chance import (
    Coin,
    Data,
    Normal,
    Number,
    Opaque,
    Sampler,
    Several,
    Uniform,
    Value,
    by_chance,
    compare,
    inverted,
    plus,
)
from dropaudit.static.maskcalls import called
from dropaudit.static.maskproducts import RESCALING, Products
from dropaudit.static.maskuses import Masks, Places, Values, called_name, each, merged, place
from dropaudit.static.scalars import Scalars, arithmetic
from dropaudit.static.source import Source, number, self_attribute
from dropaudit.static.walk import descend

_OPERATORS: dict[type, str] = {
    cst.LessThan: "<",
    cst.GreaterThan: ">",
    cst.LessThanEqual: "<=",
    cst.GreaterThanEqual: ">=",
    cst.Equal: "==",
    cst.NotEqual: "!=",
}


class Evaluator:
    """The value of each expression, given the values of names in `places`.

    `places` is None where no code runs: after a return.
    """

    def __init__(
        self,
        source: Source,
        scalars: Scalars,
        masks: Masks,
        places: Places,
        run: Callable[[Evaluator, cst.Call], Values | None],
        products: Products | None = None,
    ) -> None:
        self.places: Places | None = places
        self.masks = masks
        self.products = products or Products(source, masks)
        self._source = source
        self._scalars = scalars
        self._run = run

    def inside(self, places: Places) -> Evaluator:
        """The reader of a function that this one calls, which begins with `places`."""
        return Evaluator(self._source, self._scalars, self.masks, places, self._run, self.products)

    def run(self, call: cst.Call) -> Values | None:
        """What a call of a function of the file returns, where that is followed."""
        return self._run(self, call)

    def glance(self, node: cst.CSTNode) -> Values:
        """The value of an argument that need not be evaluated yet, to see whether it matters."""
        if isinstance(node, (cst.Name, cst.Attribute)):
            return self._named(node)
        if _draws(node) or any(
            by_chance(self._named(n)) for n in descend(node) if isinstance(n, cst.Name)
        ):
            return (Opaque(),)
        found = self._scalars.value(node)
        return (Data(),) if found is None else (Number(found),)

    def value(self, node: cst.CSTNode) -> Values:
        values = self._value(node)
        if len(values) == 1 and isinstance(values[0], Number):
            self.products.spell(node, values)
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
                return merged((*self.value(body), *self.value(orelse)))
            case cst.BooleanOperation(left=left, right=right):
                return merged((*self.value(left), *self.value(right)))
            case cst.Call():
                return self._call(node)
            case cst.Subscript():
                return self._subscript(node)
            case cst.NamedExpr(target=target, value=value):
                values = self.value(value)
                if isinstance(target, cst.Name) and self.places is not None:
                    self.places[target.value] = values
                return values
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                every = [self.value(e.value) for e in elements]
                if isinstance(node, cst.Tuple) and _belong_together(every):
                    return (Several(tuple(every)),)
                return (
                    every[0]
                    if len(every) == 1
                    else self.products.lost(tuple(v for e in every for v in e))
                )
            case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt) if _draws(elt):
                drawn = self._element(elt)
                return drawn if _each_a_coin(drawn) else (Opaque(),)
            case cst.ListComp() | cst.GeneratorExp() | cst.SetComp():
                return (Opaque(),) if _draws(node) else (Data(),)
            case cst.Integer() | cst.Float():
                found = self._scalars.value(node)
                return (Data(),) if found is None else (Number(found),)
        return (Data(),)

    def _element(self, node: cst.BaseExpression) -> Values:
        """One element of a comprehension; `1.0 if random() < p else 0.0` is a coin there."""
        if isinstance(node, cst.IfExp):
            return self._choose(self.value(node.test), node.body, node.orelse, node)
        return self.value(node)

    def _named(self, node: cst.Name | cst.Attribute) -> Values:
        at = place(node)
        if at and self.places is not None and at in self.places:
            return self.places[at]
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
            return self.products.lost((*one, *other))
        for drawn, against in ((one, right), (other, left)):
            if any(isinstance(v, Normal) for v in drawn):
                self.masks.normals.append((node, against))
        if any(isinstance(v, Coin) and v.ready and v.use is not None for v in one) and all(
            isinstance(v, Number) and v.value == 0 for v in other
        ):
            self.masks.inferred.append(node)
        one, other = self._threshold(one, other, left), self._threshold(other, one, right)
        return each(one, other, lambda a, b: compare(sign, a, b))

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
        self.products.spell(node, (Number(found),))
        return (Number(found),)

    def _binary(self, node: cst.BinaryOperation) -> Values:
        left, right = self.value(node.left), self.value(node.right)
        match node.operator:
            case cst.Multiply():
                return self.products.multiplied(left, right, node, node.left, node.right)
            case cst.Divide():
                return self.products.divided(left, right, node, node.left, node.right)
            case cst.Add():
                return self.products.summed(left, right)
            case cst.Subtract():
                return self.products.summed(left, right, -1.0)
            case cst.BitAnd() | cst.BitOr() | cst.BitXor():
                return self.products.lost((*left, *right))
        if all(isinstance(v, Number) for v in (*left, *right)):
            found = arithmetic(node.operator, left[0].value, right[0].value)  # type: ignore[union-attr]
            return (Data(),) if found is None else (Number(found),)
        return self.products.lost((*left, *right))

    def _subscript(self, node: cst.Subscript) -> Values:
        values = self.value(node.value)
        part = self._part(values, node)
        if part is not None:
            return part
        for element in node.slice:
            if isinstance(element.slice, cst.Index):
                for value in self.value(element.slice.value):
                    if isinstance(value, Coin) and value.use is None and value.keep > 0:
                        self.masks.selections.append((node, value))
        if any(isinstance(v, (Number, Data)) for v in values):
            found = self._scalars.value(node)
            return (Data(),) if found is None else (Number(found),)
        return values

    def _part(self, values: Values, node: cst.Subscript) -> Values | None:
        """`both[0]` of a tuple whose parts are known."""
        if not any(isinstance(v, Several) for v in values):
            return None
        match node.slice:
            case [cst.SubscriptElement(slice=cst.Index(value=index))]:
                at = number(index)
                found: list[Value] = []
                for value in values:
                    if at is None or not isinstance(value, Several) or at != int(at):
                        return self.products.lost(values)
                    if not -len(value.parts) <= at < len(value.parts):
                        return self.products.lost(values)
                    found.extend(value.parts[int(at)])
                return merged(tuple(found))
        return self.products.lost(values)

    def _call(self, call: cst.Call) -> Values:
        return called(self, self._source, call)

    # -- what calls ask ----------------------------------------------------------------------

    def store(self, target: cst.CSTNode, values: Values) -> None:
        """Take over what an in-place call leaves in `target`."""
        at = place(target)
        if at and self.places is not None:
            self.places[at] = values

    def product(self, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode) -> Values:
        return self.products.multiplied(self.value(left), self.value(right), node, left, right)

    def quotient(self, left: cst.CSTNode, right: cst.CSTNode, node: cst.CSTNode) -> Values:
        return self.products.divided(self.value(left), self.value(right), node, left, right)

    def total(self, left: cst.CSTNode, right: cst.CSTNode, sign: float = 1.0) -> Values:
        return self.products.summed(self.value(left), self.value(right), sign)

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
                found.extend(self.products.lost((mask,)))
                continue
            for a in self.value(yes):
                for b in self.value(no):
                    found.extend(self.products.either(mask, a, b, yes, no, node))
        return merged(tuple(found))

    def passed(self, call: cst.Call) -> Values:
        """The value of a call that nothing is known about."""
        given: list[Value] = []
        if isinstance(call.func, cst.Attribute):
            given.extend(self.value(call.func.value))
        for arg in call.args:
            given.extend(self.value(arg.value))
        if RESCALING.search(called_name(call)):
            for value in given:
                self.products.spare(value)
        lost = self.products.lost(tuple(given))
        if isinstance(lost[0], Opaque):
            return lost
        found = self._scalars.value(call)
        return (Data(),) if found is None else (Number(found),)


def _each_a_coin(values: Values) -> bool:
    return all(isinstance(v, (Coin, Uniform)) for v in values)


def _belong_together(every: list[Values]) -> bool:
    """Whether a tuple holds a mask, or numbers only: a mask and its scale, say."""
    if len(every) < 2:
        return False
    if any(by_chance(part) for part in every):
        return True
    return all(isinstance(v, Number) for part in every for v in part)


def _draws(node: cst.CSTNode) -> bool:
    return any(isinstance(n, cst.Call) and called_name(n) in draws.DRAWING for n in descend(node))
