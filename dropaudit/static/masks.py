"""Random masks function by function: how they are drawn, scaled, and laid over activations.

A small abstract interpretation. Values are sets of `chance.Value`; branches are joined; loops run
once; a call of a function of the same file runs that function with the values it is given, where
something random goes in or comes out. Nothing here judges: the rules read `Use` records.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import libcst as cst

from dropaudit.static import draws
from dropaudit.static.chance import Data, Number, by_chance, flat
from dropaudit.static.maskcallees import Callee, callee
from dropaudit.static.maskflow import Flow
from dropaudit.static.maskuses import Masks, Places, Values, placed_by
from dropaudit.static.maskvalues import Evaluator
from dropaudit.static.scalars import Scalars
from dropaudit.static.source import Source
from dropaudit.static.walk import descend

_DEEPEST = 2  # calls followed from one function
_MOST_CALLS = 40  # in all, for one function


class MaskReader:
    """The masks of one file, function by function."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.scalars = Scalars(source)
        self._read: dict[cst.FunctionDef, Masks] = {}

    @cached_property
    def functions(self) -> tuple[Masks, ...]:
        """The functions that draw, and those that call them, in source order."""
        found = dict.fromkeys((*self._drawing, *self._calling))
        order = {f: n for n, f in enumerate(self._source.nodes[cst.FunctionDef])}
        return tuple(self.read(f) for f in sorted(found, key=order.__getitem__))

    @cached_property
    def _drawing(self) -> dict[cst.FunctionDef, None]:
        found: dict[cst.FunctionDef, None] = {}
        for name in draws.DRAWING:
            for call in self._source.calls_by_name.get(name, ()):
                function = self._source.function_of(call)
                if name == "dropout" and not self._is_functional(call):
                    continue
                if function is not None:
                    found[function] = None
        return found

    @cached_property
    def _calling(self) -> dict[cst.FunctionDef, None]:
        """The functions that hand on what a drawing function of this file returns."""
        found: dict[cst.FunctionDef, None] = {}
        by_name = self._source.calls_by_name
        calls = [c for f in self._drawing for c in by_name.get(f.name.value, ())]
        if "partial" in by_name and self._drawing:
            calls = self._source.nodes[cst.Call]
        for call in calls:
            function = self._source.function_of(call)
            if function is None or function in found:
                continue
            target = callee(self._source, call)
            if target is not None and target.function in self._drawing:
                found[function] = None
        return found

    def _is_functional(self, call: cst.Call) -> bool:
        return self._source.name_of(call.func).startswith("torch.nn.functional.")

    def read(self, function: cst.FunctionDef) -> Masks:
        """The masks of one function."""
        if function not in self._read:
            masks = Masks(function)
            places = dict(self._parameters(function))
            run = _Calls(self._source, self.scalars, frozenset(self._drawing), function)
            Flow(function, Evaluator(self._source, self.scalars, masks, places, run), self.scalars)
            masks.settle(self._source)
            self._read[function] = masks
        return self._read[function]

    def _parameters(self, function: cst.FunctionDef) -> Iterator[tuple[str, Values]]:
        for param in parameters(function):
            known = self.scalars.is_rate(param, function)
            yield param.name.value, (Number(self.scalars.symbol(param)) if known else Data(),)


class _Calls:
    """Runs functions of the file inside the one that calls them."""

    def __init__(
        self,
        source: Source,
        scalars: Scalars,
        drawing: frozenset[cst.FunctionDef],
        function: cst.FunctionDef,
    ) -> None:
        self._source = source
        self._scalars = scalars
        self._drawing = drawing
        self._stack = [function]
        self._left = _MOST_CALLS

    def __call__(self, at: Evaluator, call: cst.Call) -> Values | None:
        """What `call` returns, or None where it calls nothing of this file or nothing random."""
        target = callee(self._source, call)
        if target is None or target.function in self._stack or at.places is None:
            return None
        if len(self._stack) > _DEEPEST or self._left <= 0:
            return None
        drawing = target.function in self._drawing
        if not drawing and not self._concerns(at, target):
            return None
        self._left -= 1
        return self._run(at, call, target)

    def _concerns(self, at: Evaluator, target: Callee) -> bool:
        """Whether something random, or nothing but numbers, goes into the call."""
        assert at.places is not None
        if target.on_self and by_chance(v for n in placed_by(at.places) for v in at.places[n]):
            return True
        if any(self._draws(e) for e in target.given.values()):
            return True
        given = [at.glance(e) for e in target.given.values()]
        if by_chance(v for values in given for v in values):
            return True
        return bool(given) and all(isinstance(v, Number) for values in given for v in values)

    def _draws(self, node: cst.BaseExpression) -> bool:
        """Whether a function of the file that draws is called in `node`."""
        for call in descend(node):
            target = callee(self._source, call) if isinstance(call, cst.Call) else None
            if target is not None and target.function in self._drawing:
                return True
        return False

    def _run(self, at: Evaluator, call: cst.Call, target: Callee) -> Values:
        assert at.places is not None
        given = {name: at.value(node) for name, node in target.given.items()}
        random = by_chance(v for values in given.values() for v in values)
        places: Places = dict(self._arguments(target, given))
        if target.on_self:
            places.update({n: at.places[n] for n in placed_by(at.places)})
        inner = at.inside(places)
        words = at.masks.words
        self._stack.append(target.function)
        try:
            flow = Flow(target.function, inner, self._scalars)
        finally:
            self._stack.pop()
        if target.on_self:
            at.places.update({n: v for n, v in flow.left.items() if n.startswith("self.")})
        returned = flow.returned
        if not random and not by_chance(flat(returned)):
            at.masks.words = words
        return at.products.passed_out(returned, call)

    def _arguments(self, target: Callee, given: dict[str, Values]) -> Iterator[tuple[str, Values]]:
        for param in parameters(target.function):
            name = param.name.value
            known = self._scalars.is_rate(param, target.function)
            values = given.get(name)
            if values is not None:
                if known and all(isinstance(v, Data) for v in values):
                    values = (Number(self._scalars.by_text(target.given[name])),)
                yield name, values
                continue
            default = self._scalars.value(param.default) if target.complete else None
            if default is not None:
                yield name, (Number(default),)
            else:
                yield name, (Number(self._scalars.symbol(param)) if known else Data(),)


def parameters(function: cst.FunctionDef) -> Iterator[cst.Param]:
    """The parameters that have a name of their own."""
    params = function.params
    yield from params.posonly_params
    yield from params.params
    yield from params.kwonly_params
