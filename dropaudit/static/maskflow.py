"""The statements of a function, as far as random masks care: an interpreter of blocks."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.chance import Coin, Data, Number, Several, Value, by_chance, flat
from dropaudit.static.maskuses import Places, Values, merged, place
from dropaudit.static.maskvalues import Evaluator
from dropaudit.static.scalars import RATE, Scalars
from dropaudit.static.walk import descend


class Flow:
    """The statements of one function, in order; branches are joined.

    `at` begins with the values of the parameters. Afterwards `returned` holds what the function
    may return, and `left` what its names and attributes may hold when it ends.
    """

    def __init__(self, function: cst.FunctionDef, at: Evaluator, scalars: Scalars) -> None:
        self._at = at
        self._scalars = scalars
        self._returned: list[Values] = []
        self._ends: list[Places] = []
        self._block(function.body)
        if at.places is not None:
            self._returned.append((Data(),))
            self._ends.append(at.places)

    @property
    def returned(self) -> Values:
        return merged(tuple(v for values in self._returned for v in values))

    @property
    def left(self) -> Places:
        return _joined(self._ends) or {}

    def _block(self, block: cst.BaseSuite) -> None:
        for statement in block.body:
            if self._at.places is None:
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
                self._at.value(test)
                self._either([body, orelse])
            case cst.For(target=target, iter=iterated, body=body):
                self._at.value(iterated)
                self._forget(target)
                self._either([body, None])
            case cst.While(test=test, body=body):
                self._at.value(test)
                self._either([body, None])
            case cst.With(body=body):
                self._block(body)
            case cst.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                self._either([body, *(h.body for h in handlers)])
                for part in (orelse, final):
                    if part is not None and self._at.places is not None:
                        self._block(part.body)
            case cst.Else(body=body):
                self._block(body)
            case cst.Match(subject=subject, cases=cases):
                self._at.value(subject)
                self._either([*(c.body for c in cases), None])

    def _either(self, bodies: list[cst.CSTNode | None]) -> None:
        start, ends = self._at.places, []
        for body in bodies:
            self._at.places = None if start is None else dict(start)
            if isinstance(body, cst.BaseSuite):
                self._block(body)
            elif body is not None:
                self._compound(body)
            if self._at.places is not None:
                ends.append(self._at.places)
        self._at.places = _joined(ends)

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
                self._at.value(value)
            case cst.Return(value=value):
                self._returned.append((Data(),) if value is None else self._at.value(value))
                if self._at.places is not None:
                    self._ends.append(self._at.places)
                self._at.places = None
            case cst.Raise() | cst.Continue() | cst.Break():
                self._at.places = None
            case cst.Assert(test=test):
                self._at.value(test)

    def _assign(self, target: cst.CSTNode, value: cst.BaseExpression, node: cst.CSTNode) -> None:
        if isinstance(target, cst.Tuple):
            whole = isinstance(value, cst.Tuple) and len(value.elements) == len(target.elements)
            values = () if whole else self._at.value(value)
            parts = _parts(values, len(target.elements))
            for n, element in enumerate(target.elements):
                if whole:
                    self._assign(element.value, value.elements[n].value, node)  # type: ignore[attr-defined]
                else:
                    self._forget(element.value)
                at = place(element.value)
                if parts and at and self._at.places is not None and by_chance(flat(parts[n])):
                    self._at.places[at] = parts[n]
                elif parts and at and self._at.places is not None and _numbers(parts[n]):
                    self._at.places[at] = parts[n]
                    self._at.products.spell(element.value, parts[n])
            return
        if isinstance(target, cst.Subscript):
            self._filled(target, self._at.value(value), node)
            return
        at = place(target)
        values = self._at.value(value)
        if at and self._at.places is not None:
            if isinstance(target, cst.Name) and all(isinstance(v, Data) for v in values):
                found = self._scalars.value(target) if _is_scalar_call(value) else None
                values = values if found is None else (Number(found),)
            self._at.places[at] = values
            self._at.products.spell(target, values)

    def _augmented(self, node: cst.AugAssign) -> None:
        at, right = place(node.target), self._at.value(node.value)
        if isinstance(node.target, cst.Subscript):
            return
        left = self._at.value(node.target)
        match node.operator:
            case cst.MultiplyAssign():
                values = self._at.products.multiplied(left, right, node, node.target, node.value)
            case cst.DivideAssign():
                values = self._at.products.divided(left, right, node, node.target, node.value)
            case cst.AddAssign():
                values = self._at.products.summed(left, right)
            case cst.SubtractAssign():
                values = self._at.products.summed(left, right, -1.0)
            case _:
                values = self._at.products.lost(left)
        if at and self._at.places is not None:
            self._at.places[at] = values

    def _filled(self, target: cst.Subscript, values: Values, node: cst.CSTNode) -> None:
        """`x[mask] = 0`, and `mask[rand < p] = 0` on a tensor of ones."""
        at = place(target.value)
        zero = any(isinstance(v, Number) for v in values)
        for element in target.slice:
            if not isinstance(element.slice, cst.Index):
                continue
            for coin in self._at.value(element.slice.value):
                if not isinstance(coin, Coin) or not zero or coin.use is not None:
                    continue
                fill = next(v.value for v in values if isinstance(v, Number))
                before = self._at.value(target.value)
                after: list[Value] = []
                for value in before:
                    after.extend(
                        self._at.products.either(
                            coin, Number(fill), value, node, target.value, node
                        )
                    )
                if at and self._at.places is not None:
                    self._at.places[at] = tuple(after)
                return

    def _forget(self, target: cst.CSTNode) -> None:
        for node in descend(target):
            at = place(node)
            if at and self._at.places is not None:
                rate = RATE.search(at) and isinstance(node, cst.Name)
                self._at.places[at] = (
                    (Number(self._scalars.symbol((node, at))),) if rate else (Data(),)
                )


def _is_scalar_call(value: cst.BaseExpression) -> bool:
    return isinstance(value, (cst.Call, cst.Subscript, cst.Attribute, cst.IfExp))


def _joined(ends: list[Places]) -> Places | None:
    if not ends:
        return None
    found: Places = {}
    for name in dict.fromkeys(n for end in ends for n in end):
        found[name] = merged(tuple(v for end in ends for v in end.get(name, ())))
    return found


def _parts(values: Values, count: int) -> list[Values]:
    """The values of each part of a tuple that is taken apart; empty where they are not known."""
    several = [v for v in values if isinstance(v, Several) and len(v.parts) == count]
    if not several or len(several) != len(values):
        return []
    return [merged(tuple(v for one in several for v in one.parts[n])) for n in range(count)]


def _numbers(values: Values) -> bool:
    return all(isinstance(v, Number) for v in values)
