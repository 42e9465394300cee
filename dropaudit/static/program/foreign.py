"""Calls of what is not in the project: wrappers, containers, constructors, copies."""

from __future__ import annotations

import posixpath
from collections.abc import Hashable

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import Call, Constant
from dropaudit.static.program.heap import LOADED, Heap
from dropaudit.static.program.resolve import External
from dropaudit.static.program.values import (
    UNKNOWN,
    Event,
    Function,
    Group,
    Mode,
    ModeKind,
    Object,
    Origin,
    State,
    Values,
    objects,
    one,
)

_PASS_ON = frozenset(["list", "tuple", "set", "sorted", "reversed", "iter", "copy.copy"])
_COPIES = frozenset(["copy.deepcopy", "deepcopy"])


class Foreigners:
    """Calls of foreign functions and classes, as far as they are known."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def call(
        self,
        state: State,
        name: str,
        given: list[tuple[str, Values]],
        node: Call,
        where: Event,
        key: tuple[Hashable, ...],
    ) -> Values | None:
        """What `name(...)` gives; None where it may do anything to what it is given."""
        last = name.rpartition(".")[2]
        first = given[0][1] if given else UNKNOWN
        if name == "torch.load":
            origin = Origin(LOADED, True, "", where)
            return one(self._heap.make(state, origin, None, *key))
        if name == "torch.save":
            self._store(first, where.path)
            return UNKNOWN
        if name in _PASS_ON:
            return first
        if name in _COPIES:
            return self._copy(state, first, key)
        if name == "enumerate":
            return one(Group(tuple(one(Group((UNKNOWN, i))) for i in _items(first))))
        if name == "zip":
            rows = zip(*(_items(values) for _, values in given), strict=False)
            return one(Group(tuple(one(Group(tuple(row))) for row in rows)))
        if name == "functools.partial":
            return self._partial(given)
        if last == "from_pretrained":
            symbol = External(name.rpartition(".")[0])
            thing = self._model(state, symbol, "eval", given, node, where, key)
            self._heap.load(state, thing)
            return one(thing)
        if (wrapped := self.wrapped(name, given)) is not None:
            return wrapped
        if self._builds_model(name):
            return one(self._model(state, External(name), "train", given, node, where, key))
        if lexicon.HARMLESS.search(name) and not lexicon.FRAMEWORKS.search(name):
            return self._instance(state, name, (), where, key) if last[:1].isupper() else UNKNOWN
        if last[:1].isupper():
            holds = tuple(each for _, values in given for each in objects(values))
            holds = () if lexicon.OPTIMIZER_LIKE.search(name) else holds
            return self._instance(state, name, holds, where, key)
        return None

    def _store(self, values: Values, path: str) -> None:
        for thing in objects(values):
            layer, _ = self._heap.layer(thing)
            if layer and self._heap.is_model(thing):
                self._heap.stored.setdefault(posixpath.dirname(path), layer)

    def wrapped(self, name: str, given: list[tuple[str, Values]]) -> Values | None:
        """What a wrapper gives back: the models that it was given, in their order."""
        if not lexicon.WRAPPERS.search(name):
            return None
        values = [v for n, v in given if n in ("", "model", "module", "models")]
        if not any(objects(v) for v in values):
            return None
        if not lexicon.MANY.search(name):
            return next(v for v in values if objects(v))
        if len(values) == 1:
            engine = name.endswith("initialize")  # of deepspeed: the engine and three more
            return one(Group((*values, UNKNOWN, UNKNOWN, UNKNOWN))) if engine else values[0]
        return one(Group(tuple(values)))

    def _builds_model(self, name: str) -> bool:
        last = name.rpartition(".")[2]
        if name.startswith("torch.nn.") and last[:1].isupper():
            return not last.endswith(("Loss", "Parameter", "ParameterList"))
        known = name in ("timm.create_model", "timm.models.create_model")
        known = known or name.startswith(("torchvision.models.", "segmentation_models_pytorch."))
        return known and not name.endswith("Weights")

    def _model(
        self,
        state: State,
        symbol: External,
        kind: ModeKind,
        given: list[tuple[str, Values]],
        node: Call,
        where: Event,
        key: tuple[Hashable, ...],
    ) -> Object:
        holds = tuple(each for _, values in given for each in objects(values))
        zero = (Constant(0), Constant(0.0), Constant(None))
        rates = frozenset(a.name for a in node.arguments if a.name and a.value not in zero)
        if lexicon.DROPOUT.search(symbol.dotted) and any(a.value in zero for a in node.arguments):
            symbol = External("torch.nn.Identity")  # a rate of zero
        origin = Origin(symbol, True, "", where, None, rates, False, holds)
        return self._heap.make(state, origin, kind, *key)

    def _instance(
        self,
        state: State,
        name: str,
        holds: tuple[Object, ...],
        where: Event,
        key: tuple[Hashable, ...],
    ) -> Values:
        origin = Origin(External(name), False, "", where, None, holds=holds)
        return one(self._heap.make(state, origin, None, *key))

    def _copy(self, state: State, values: Values, key: tuple[Hashable, ...]) -> Values:
        found = [v for v in values if isinstance(v, Object)]
        if len(found) != 1 or len(values) != 1:
            return UNKNOWN
        old = found[0].number
        mode = self._heap.mode(state, old)
        origin = self._heap.origins[old]
        copied = Origin(origin.symbol, origin.is_model, "", origin.where, rates=origin.rates)
        thing = self._heap.make(state, copied, None, *key)
        if mode is not None:
            state.modes[thing.number] = Mode(mode.kind, mode.switch, loaded=mode.loaded)
        return one(thing)

    def _partial(self, given: list[tuple[str, Values]]) -> Values:
        if not given or len(given[0][1]) != 1:
            return UNKNOWN
        (callee,) = given[0][1]
        if not isinstance(callee, Function) or any(n in ("*", "**") for n, _ in given):
            return UNKNOWN
        return one(Function(callee.ref, callee.owner, callee.frame, tuple(given[1:])))


def _items(values: Values) -> tuple[Values, ...]:
    groups = [v for v in values if isinstance(v, Group)]
    return groups[0].items if len(groups) == len(values) == 1 else ()
