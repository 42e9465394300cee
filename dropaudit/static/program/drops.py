"""Whether what is called, in whatever file it is, surely reaches a dropout with a rate."""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.static.program.callers import Callers, Site, calls_in
from dropaudit.static.program.code import (
    Assign,
    Attribute,
    Call,
    Choice,
    Each,
    Element,
    Expression,
    Inner,
    Loop,
    Name,
    Return,
    Several,
    Statement,
    dotted,
    within,
)
from dropaudit.static.program.facts import Held
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef, Resolver, Symbol
from dropaudit.static.program.units import Units

_DEPTH = 7
_PARTIAL = frozenset(("functools.partial", "partial"))
_WHOLE = frozenset(("to", "cuda", "cpu", "half", "float", "train", "requires_grad_"))
_FORWARD = frozenset(("forward", "__call__"))


class Drops:
    """Answers per expression of a function; nothing is said where the program does not show it."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._layers = Layers(resolver, only_drops=True)
        self._units = Units(resolver, self._layers)
        self.callers = Callers(resolver)
        self._known: dict[FunctionRef, bool] = {}

    def calling(self, callee: Expression, ref: FunctionRef) -> Site | None:
        """Where `callee`, an expression in the function `ref`, gets its dropout from: a call or it.

        A parameter stands for what the callers pass. None where calling it does not surely drop.
        """
        return self._calling(callee, ref, 0)

    def _calling(self, callee: Expression, ref: FunctionRef, depth: int) -> Site | None:
        here = Site(ref, callee)
        if depth > _DEPTH:
            return None
        match callee:
            case Inner(qualified):
                return here if self._runs(FunctionRef(ref.path, qualified), depth) else None
            case Choice(_, left, right):
                return self._calling(left, ref, depth + 1) or self._calling(right, ref, depth + 1)
            case Call(function, arguments):
                if self._binds(function, ref):
                    found = (self._calling(one.value, ref, depth + 1) for one in arguments)
                    return next(filter(None, found), None) and here
                return here if self._builds(callee, ref) else None
            case Element(inner):
                return here if self._held(inner, ref, depth) else None
            case Name(name):
                return self._of_name(name, ref, depth)
            case Attribute(inner, name) if name in _FORWARD and dotted(inner) != "self":
                return self._calling(inner, ref, depth + 1) and here
        return here if self._held(callee, ref, depth) or self._method(callee, ref, depth) else None

    def _of_name(self, name: str, ref: FunctionRef, depth: int) -> Site | None:
        """A function around, a local variable, a parameter, a function of some module."""
        here = Site(ref, Name(name))
        functions = self._resolver.functions(ref.path)
        around = ref.qualified
        while around:
            facts = functions.get(around)
            inner = functions.get(f"{around}.{name}")
            if inner is not None and not inner.is_method:
                return here if self._runs(FunctionRef(ref.path, inner.qualified), depth) else None
            if facts is not None and any(p.name == name for p in facts.parameters):
                return self._passed(FunctionRef(ref.path, around), name, depth)
            if facts is not None and name in facts.assigned:
                own = FunctionRef(ref.path, around)
                found = (self._variable(v, own, depth) for v in _values(facts.body, name))
                return here if any(found) else None
            around = around.rpartition(".")[0]
        symbol = self._resolver.resolve(ref.path, name)
        if isinstance(symbol, FunctionRef):
            return here if self._runs(symbol, depth) else None
        return None

    def _variable(self, value: Expression, ref: FunctionRef, depth: int) -> bool:
        """Whether calling a variable that holds `value` drops."""
        return self._builds(value, ref) or self._calling(value, ref, depth + 1) is not None

    def _passed(self, ref: FunctionRef, name: str, depth: int) -> Site | None:
        for caller, value in self.callers.passed(ref, name):
            found = self._calling(value, caller, depth + 1)
            if found is not None:
                return found
        return None

    def _method(self, callee: Expression, ref: FunctionRef, depth: int) -> bool:
        """`self.method`, or a function of a module."""
        name = dotted(callee)
        head, _, last = name.partition(".")
        target: Symbol | None = None
        if head == "self" and last and "." not in last:
            owner = self._units.owner(ref)
            target = None if owner is None else self._resolver.method(owner, last)
        elif name:
            target = self._resolver.resolve(ref.path, name)
        return isinstance(target, FunctionRef) and self._runs(target, depth)

    def _runs(self, ref: FunctionRef, depth: int) -> bool:
        """Whether the body of a function reaches a dropout."""
        if ref not in self._known:
            self._known[ref] = False  # what calls itself drops no more for that
            facts = self._resolver.functions(ref.path).get(ref.qualified)
            calls = [] if facts is None or depth > _DEPTH else list(calls_in(facts.body))
            self._known[ref] = any(self._drops(call, ref, depth) for call in calls)
        return self._known[ref]

    def _drops(self, call: Call, ref: FunctionRef, depth: int) -> bool:
        """Whether one call drops, by itself or by what it calls."""
        name = dotted(call.function)
        if name and not name.startswith("self."):
            symbol = self._resolver.resolve(ref.path, name)
            if isinstance(symbol, External):
                if symbol.dotted.startswith("torch.") and symbol.dotted.islower():
                    return bool(self._layers.of_call(call, ref, self._units.owner(ref)).layer)
                return False
            if isinstance(symbol, ClassRef):
                return False
        if isinstance(call.function, Call):  # nn.Dropout(p)(x)
            return self._builds(call.function, ref)
        return self._calling(call.function, ref, depth + 1) is not None

    # -- what modules hold -----------------------------------------------------------------

    def _held(self, callee: Expression, ref: FunctionRef, depth: int) -> bool:
        """`self.block`, `self.blocks[i]`, `block` of `self.blocks`: what the class puts there."""
        name = dotted(callee)
        if not name.startswith("self.") or name.count(".") != 1:
            return False
        owner = self._units.owner(ref)
        if owner is None:
            return False
        name = name.removeprefix("self.")
        for cls in self._resolver.lineage(owner):
            if not isinstance(cls, ClassRef):
                continue
            for held in self._resolver.class_facts(cls).held:
                inside = FunctionRef(cls.path, f"{cls.qualified}.{held.method}")
                if (
                    held.name == name
                    and held.method
                    and (self._builds(held.value, inside) or self._given(cls, held, depth))
                ):
                    return True
        return any(self._builds(value, inside) for value, inside in self._grown(owner, name))

    def _given(self, cls: ClassRef, held: Held, depth: int) -> bool:
        """Whether a constructor is given what the class keeps as it is, and that drops."""
        if not isinstance(held.value, Name) or held.method != "__init__":
            return False
        init = FunctionRef(cls.path, f"{cls.qualified}.__init__")
        return any(
            self._variable(value, caller, depth + 1)
            for caller, value in self.callers.given(cls, init, held.value.name)
        )

    def _grown(self, owner: ClassRef, name: str) -> Iterator[tuple[Expression, FunctionRef]]:
        """What is appended to `self.name`."""
        for cls in self._resolver.lineage(owner):
            if not isinstance(cls, ClassRef):
                continue
            facts = self._resolver.class_facts(cls)
            for method in facts.methods:
                ref = FunctionRef(cls.path, f"{cls.qualified}.{method}")
                function = self._resolver.functions(cls.path).get(ref.qualified)
                if function is None or not function.calls & {"append", "add_module", "insert"}:
                    continue
                for call in calls_in(function.body):
                    if dotted(call.function) == f"self.{name}.append" and call.arguments:
                        yield call.arguments[0].value, ref

    def _builds(self, value: Expression, ref: FunctionRef, depth: int = 0) -> bool:
        """Whether a module is built in `value` that drops."""
        if depth > _DEPTH:
            return False
        owner = self._units.owner(ref)
        for call in calls_in(value):
            if self._layers.of_call(call, ref, owner).layer:
                return True
        facts = self._resolver.functions(ref.path).get(ref.qualified)
        if facts is None:
            return False
        names = {name for name in _plain_names(value) if name in facts.assigned}
        return any(
            self._builds(one, ref, depth + 1)
            for name in sorted(names)
            for one in (*_values(facts.body, name), *_appended(facts.body, name))
        )

    def _binds(self, function: Expression, ref: FunctionRef) -> bool:
        """Whether a call of `function` gives a function that runs its arguments."""
        name = dotted(function)
        if not name:
            return False
        symbol = self._resolver.resolve(ref.path, name)
        if name.startswith("self.") and (owner := self._units.owner(ref)) is not None:
            symbol = self._resolver.method(owner, name.removeprefix("self."))
        if isinstance(symbol, External):
            return symbol.dotted in _PARTIAL
        if not isinstance(symbol, FunctionRef):
            return False
        facts = self._resolver.functions(symbol.path).get(symbol.qualified)
        returned = [] if facts is None else [r.value for r in _returns(facts.body)]
        inside = self._resolver.functions(symbol.path)
        return any(
            isinstance(v, Inner)
            or (isinstance(v, Name) and f"{symbol.qualified}.{v.name}" in inside)
            for v in returned
        )


def _values(body: tuple[Statement, ...], name: str) -> Iterator[Expression]:
    """What the variable `name` is set to, and the containers that it goes over."""
    for one in within(body):
        match one:
            case Assign(targets, value):
                for target in targets:
                    if target == Name(name):
                        yield value
                    elif isinstance(target, Several) and isinstance(value, Several):
                        pairs = zip(target.items, value.items, strict=False)
                        yield from (v for t, v in pairs if t == Name(name))
            case Loop(target, source) | Each(target, source) if target is not None:
                if target == Name(name) or (
                    isinstance(target, Several) and Name(name) in target.items
                ):
                    yield from (Element(each) for each in _containers(source))


def _containers(source: Expression) -> Iterator[Expression]:
    """`self.blocks` of `enumerate(self.blocks)` and `zip(self.blocks, scales)`."""
    match source:
        case Call(function, arguments) if dotted(function) in ("enumerate", "zip", "reversed"):
            for one in arguments:
                yield from _containers(one.value)
        case Attribute() | Name():
            yield source


def _appended(body: tuple[Statement, ...], name: str) -> Iterator[Expression]:
    for call in calls_in(body):
        if dotted(call.function) == f"{name}.append" and call.arguments:
            yield call.arguments[0].value


def _returns(body: tuple[Statement, ...]) -> Iterator[Return]:
    return (one for one in within(body) if isinstance(one, Return))


def _plain_names(value: Expression) -> Iterator[str]:
    """The variables that stand in an expression."""
    return (node.name for node in within(value) if isinstance(node, Name))
