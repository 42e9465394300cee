"""The things that a program makes: their identity, their attributes, their modes."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import Attribute, Call, Expression, dotted
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.patterns import matches_any
from dropaudit.static.program.resolve import (
    ClassRef,
    External,
    FunctionRef,
    ModuleRef,
    Resolver,
    Symbol,
)
from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Event,
    Foreign,
    Function,
    Mode,
    ModeKind,
    Module,
    Object,
    Origin,
    Plain,
    State,
    Values,
    one,
)
from dropaudit.static.record import Options

LOADED = External("torch.load")
"""What a model is that was stored whole: of the class, and in the mode, that it had then."""


class Heap:
    """Numbers things by where they are made, so that a loop makes the same thing again."""

    def __init__(self, resolver: Resolver, layers: Layers, options: Options) -> None:
        self._resolver = resolver
        self._layers = layers
        self._options = options
        self._numbers: dict[Hashable, int] = {}
        self.origins: dict[int, Origin] = {}
        self._children: dict[int, set[int]] = {}
        self.stored: dict[
            str, str
        ] = {}  # folder to the layer in a model that is stored whole there
        self.trained: set[int] = set()  # things without a mode that a backward pass went through

    # -- identity --------------------------------------------------------------------------

    def number(self, *key: Hashable) -> int:
        """The number of whatever `key` identifies, the same each time."""
        return self._numbers.setdefault(key, len(self._numbers))

    def make(self, state: State, origin: Origin, kind: ModeKind | None, *key: Hashable) -> Object:
        """A new thing; one with a mode where `kind` is given. It has no attributes yet."""
        number = self.number(*key)
        self.origins[number] = origin
        if origin.parent is not None:
            self._children.setdefault(origin.parent, set()).add(number)
        self._clear(state, number)
        if kind is not None:
            state.modes[number] = Mode(kind)
        return Object(number)

    def someone(self, state: State, number: int, name: str) -> Values:
        """The thing behind a variable or attribute of which nothing is known."""
        key = "someone", number, name
        fresh = key not in self._numbers
        mine = self.number(*key)
        if fresh:
            parent = number if number in self.origins else None
            above = self.origins.get(number)
            symbol = self._held_symbol(above, name)
            is_model = isinstance(symbol, ClassRef) and self._layers.is_module(symbol)
            self.origins[mine] = Origin(symbol, is_model, name, None, parent, is_given=True)
            if parent is not None:
                self._children.setdefault(parent, set()).add(mine)
        return one(Object(mine))

    def is_attribute(self, state: State, thing: Object, name: str) -> bool:
        """Whether `thing.name` is something that the thing holds, and no method of it."""
        if name in state.row(thing.number):
            return True
        mine = self._numbers.get(("someone", thing.number, name))
        if mine is not None and mine in state.modes:
            return True
        symbol = self.origins[thing.number].symbol
        if not isinstance(symbol, ClassRef):
            return False
        every = (one for one in self._resolver.lineage(symbol) if isinstance(one, ClassRef))
        return any(h.name == name for one in every for h in self._resolver.class_facts(one).held)

    def _held_symbol(self, above: Origin | None, name: str) -> Symbol | None:
        """The class of what a class puts on `self.name`, if all that it puts there is one."""
        if above is None or not isinstance(above.symbol, ClassRef):
            return None
        found: set[Symbol | None] = set()
        for ref in self._resolver.lineage(above.symbol):
            if isinstance(ref, ClassRef):
                for held in self._resolver.class_facts(ref).held:
                    if held.name == name and not _is_moved(held.value, name):
                        found.add(self._built(ref.path, held.value))
        return found.pop() if len(found) == 1 else None

    def _built(self, path: str, value: Expression) -> Symbol | None:
        while isinstance(value, Call):
            match value.function:
                case Attribute(inner, name) if name in lexicon.SAME_METHODS:
                    value = inner
                    continue
            name = dotted(value.function)
            return self._resolver.resolve(path, name) if name else None
        return None

    # -- attributes ------------------------------------------------------------------------

    def store(self, state: State, number: int, name: str, values: Values) -> None:
        """`name = values`; what is unknown is another thing than before."""
        state.put(number, name, values)
        if not values:
            mine = self._numbers.get(("someone", number, name))
            if mine is not None:
                self._clear(state, mine)
            return
        for value in values:
            if isinstance(value, Object):
                origin = self.origins[value.number]
                if not origin.name:
                    self.origins[value.number] = replace(origin, name=name)

    def _clear(self, state: State, number: int) -> None:
        """Forget the attributes and modes of a thing and of what belongs to it."""
        for each in (number, *self._below(number)):
            state.modes.pop(each, None)
            state.pending.pop(each, None)
            if each != number or number in self.origins:
                state.rows.pop(each, None)

    def _below(self, number: int) -> Iterator[int]:
        for child in sorted(self._children.get(number, ())):
            yield child
            yield from self._below(child)

    def family(self, state: State, thing: Object) -> list[int]:
        """A model and the models in it: its attributes, and those that it was built around."""
        found: dict[int, None] = {}
        stack = [thing.number]
        while stack:
            number = stack.pop()
            if number in found:
                continue
            found[number] = None
            stack.extend(sorted(self._children.get(number, ())))
            stack.extend(each.number for each in self.origins[number].holds)
            for values in state.row(number).values():
                stack.extend(v.number for v in values if isinstance(v, Object))
        return list(found)

    # -- modes -----------------------------------------------------------------------------

    def switch(self, state: State, thing: Object, kind: ModeKind, event: Event | None) -> None:
        """`thing.train()`, `thing.eval()`, or a switch of which nothing is known.

        Without an `event` nothing is told of it later.
        """
        old = self.mode(state, thing.number) or Mode("given", trained=thing.number in self.trained)
        for number in self.family(state, thing):
            mine = state.modes.get(number)
            if number != thing.number:
                if mine is None:
                    continue  # it acts as what it belongs to, or is no model
                if self._belongs(number, thing.number):
                    del state.modes[number]
                    continue
            mine = mine or old
            evaluated = event if kind == "eval" else mine.evaluated
            state.modes[number] = replace(mine, kind=kind, switch=event, evaluated=evaluated)

    def mode(self, state: State, number: int) -> Mode | None:
        """The mode of a thing: its own, or that of what it is a part of."""
        carrier = self.carrier(state, number)
        return None if carrier is None else state.modes[carrier]

    def carrier(self, state: State, number: int) -> int | None:
        """The thing whose mode is that of `number`: itself, or what it is a part of."""
        at: int | None = number
        while at is not None:
            if at in state.modes:
                return at
            origin = self.origins.get(at)
            at = None if origin is None else origin.parent
        return None

    def _belongs(self, number: int, owner: int) -> bool:
        at: int | None = number
        while at is not None:
            if at == owner:
                return True
            at = self.origins[at].parent
        return False

    def lose(self, state: State, thing: Object) -> None:
        """Something unknown may have switched a thing, or what it holds."""
        for number in self.family(state, thing):
            old = self.mode(state, number)
            if old is not None and old.kind not in ("given", "unknown"):
                state.modes[number] = replace(old, kind="unknown", switch=None)

    def lose_elements(self, state: State, switched: Values) -> None:
        """Something of which nothing is known was switched: maybe an element of a container.

        `nets[key].eval()` is what happens to `nets.encoder` where nobody knows what `nets` is.
        """
        origins = [self.origins[v.number] for v in switched if isinstance(v, Object)]
        if len(origins) < len(switched) or any(o.symbol or o.parent is not None for o in origins):
            return
        for number in list(state.modes):
            parent = self.origins[number].parent
            above = None if parent is None else self.origins[parent]
            if above is not None and not (above.is_model or isinstance(above.symbol, ClassRef)):
                self.lose(state, Object(number))

    def load(self, state: State, thing: Object) -> None:
        """Weights were loaded into a model."""
        for number in self.family(state, thing):
            if (old := state.modes.get(number)) is not None:
                state.modes[number] = replace(old, loaded=True)

    # -- what they are ---------------------------------------------------------------------

    def symbol_value(self, symbol: Symbol) -> Values:
        """A symbol as a value."""
        match symbol:
            case ClassRef():
                return one(Class(symbol))
            case FunctionRef():
                return one(Function(symbol))
            case ModuleRef(path):
                return one(Module(path))
            case External(name):
                if name in ("True", "False", "None"):
                    return one(Plain({"True": True, "False": False}.get(name)))
                return one(Foreign(name))
        return UNKNOWN

    def is_framework(self, symbol: Symbol | None) -> bool:
        """Whether a framework switches the modes of what `symbol` builds."""
        match symbol:
            case ClassRef():
                every = self._resolver.lineage(symbol)
                names = [o.dotted.lstrip("?") for o in every if isinstance(o, External)]
                names += [o.qualified for o in every if isinstance(o, ClassRef)]
                outside = names[: sum(isinstance(o, External) for o in every)]
            case External(name):
                names = outside = [name]
            case _:
                return False
        return any(lexicon.FRAMEWORKS.search(name) for name in outside) or any(
            matches_any(name, self._options.framework_bases) for name in names
        )

    def parts(self, thing: Object) -> list[Object]:
        """What was passed to the constructor of a thing, and to theirs."""
        found: dict[Object, None] = {}
        stack = [thing]
        while stack:
            for each in self.origins[stack.pop().number].holds:
                if each not in found:
                    found[each] = None
                    stack.append(each)
        return list(found)

    def layer(self, thing: Object) -> tuple[str, bool]:
        """The layer inside a model that acts by mode, and whether all of it could be seen."""
        whole = True
        seen: set[int] = set()
        stack = [thing.number]
        while stack:
            number = stack.pop(0)
            if number in seen:
                continue
            seen.add(number)
            origin = self.origins[number]
            inside = self._layers.inside(origin.symbol)
            if layer := inside.given(origin.rates) or _rated(origin):
                return layer, True
            whole = whole and not inside.unknown
            stack += [each.number for each in origin.holds]
        return "", whole

    def is_model(self, thing: Object) -> bool:
        return self.origins[thing.number].is_model


def _is_moved(value: Expression, name: str) -> bool:
    """Whether a value is `self.name` itself, on another device or in a wrapper."""
    while isinstance(value, Call):
        match value.function:
            case Attribute(inner, method) if method in lexicon.SAME_METHODS:
                value = inner
            case _ if len(value.arguments) and lexicon.WRAPPERS.search(dotted(value.function)):
                value = value.arguments[0].value
            case _:
                return False
    return dotted(value) == f"self.{name}"


def _rated(origin: Origin) -> str:
    """Of a recurrent or attention layer of torch: "Dropout" where it was given a rate."""
    if isinstance(origin.symbol, External) and lexicon.RATE_LAYERS.search(origin.symbol.dotted):
        return "Dropout" * any(lexicon.RATE_WORDS.search(name) for name in origin.rates)
    return ""
