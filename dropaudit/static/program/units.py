"""What happens inside a function or loop, calls included: whether it trains, what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from dropaudit.static.program.code import (
    Argument,
    Assign,
    Attribute,
    Call,
    Each,
    Expression,
    If,
    Inner,
    Loop,
    Name,
    Several,
    Span,
    Try,
    With,
    dotted,
    within,
)
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.lexicon import BACKWARD, MEASURES
from dropaudit.static.program.resolve import (
    ClassRef,
    External,
    FunctionRef,
    GlobalRef,
    Resolver,
    Symbol,
)
from dropaudit.static.program.settled import Settled, left_of

_DEPTH = 6
_SWITCHES = frozenset(("train", "eval"))
_MATTERS = frozenset(
    [
        *("train", "eval", "no_grad", "inference_mode", "set_grad_enabled", "load_state_dict"),
        *("trace", "trace_module", "export", "dynamo_export"),
        *BACKWARD,
    ]
)


class Units:
    """Answers per function, remembered."""

    def __init__(self, resolver: Resolver, layers: Layers) -> None:
        self._resolver = resolver
        self._layers = layers
        self._words: dict[FunctionRef, bool] = {}
        self._matters: dict[FunctionRef, bool] = {}
        self._called: dict[FunctionRef, tuple[FunctionRef, ...]] = {}
        self._trains_if: dict[tuple[FunctionRef, Settled], bool] = {}
        self._loops: dict[tuple[FunctionRef, int | Each, Settled], bool] = {}
        self._assigns: dict[tuple[FunctionRef, int], frozenset[str]] = {}
        self._measures: dict[tuple[FunctionRef, int | Each], bool] = {}
        self._trains: dict[FunctionRef, bool] = {}
        self._switches: dict[FunctionRef, bool] = {}
        self._models: dict[FunctionRef, bool] = {}
        self._classes: dict[ClassRef, bool] = {}

    def trains(self, ref: FunctionRef) -> bool:
        """Whether a function, or what it calls, makes a backward pass."""
        return self._reaches(ref, BACKWARD, self._trains, 0)

    def switches(self, ref: FunctionRef) -> bool:
        """Whether a function, or what it calls, switches modes."""
        return self._reaches(ref, _SWITCHES, self._switches, 0)

    def matters(self, ref: FunctionRef) -> bool:
        """Whether a function, or what it calls, may do something to a model that it is not given.

        It switches modes, trains, loads weights, builds a module, or calls a variable of a module.
        """
        if ref not in self._matters:
            self._matters[ref] = False
            self._matters[ref] = self._reaches(ref, _MATTERS, self._words, 0) or self._builds(ref)
        return self._matters[ref]

    def some_method_matters(self, cls: ClassRef) -> bool:
        """As `matters`, for any method that instances of a class have."""
        if cls not in self._classes:
            every = (c for c in self._resolver.lineage(cls) if isinstance(c, ClassRef))
            methods = (
                FunctionRef(c.path, f"{c.qualified}.{name}")
                for c in every
                for name in self._resolver.class_facts(c).methods
            )
            self._classes[cls] = any(map(self.matters, methods))
        return self._classes[cls]

    def starts(self, ref: FunctionRef) -> bool:
        """Whether a function builds a model and has it trained, evaluated or switched."""
        if not self._reaches(ref, _MATTERS, self._words, 0):
            return False
        owner = self.owner(ref)
        if owner is not None and self._layers.is_module(owner):
            return False
        return self._has_model(ref)

    def _has_model(self, ref: FunctionRef) -> bool:
        """Whether a function builds a model, by itself or in a constructor that it calls."""
        if ref not in self._models:
            self._models[ref] = False
            facts = self._resolver.functions(ref.path).get(ref.qualified)
            names = dict.fromkeys(map(dotted, called(facts.body))) if facts else {}
            self._models[ref] = any(self._gives_model(name, ref.path) for name in names if name)
        return self._models[ref]

    def _gives_model(self, name: str, path: str) -> bool:
        match self._resolver.resolve(path, name):
            case ClassRef() as symbol:
                init = self._resolver.method(symbol, "__init__")
                found = isinstance(init, FunctionRef) and self._has_model(init)
                return self._layers.is_module(symbol) or found
            case External(outside):
                return outside.startswith("torch.nn.Seq")
        return False

    def _builds(self, ref: FunctionRef) -> bool:
        facts = self._resolver.functions(ref.path).get(ref.qualified)
        if facts is None:
            return False
        if any(self.matters(target) for target in self._callees(ref)):
            return True
        for name in dict.fromkeys(map(dotted, called(facts.body))):
            if not name or name.startswith("self.") or self._target(name, ref) is not None:
                continue
            symbol = self._resolver.resolve(ref.path, name)
            if isinstance(symbol, GlobalRef):
                return True
            if isinstance(symbol, ClassRef) and self._builds_something(symbol):
                return True
            if isinstance(symbol, External) and symbol.dotted.endswith(".from_pretrained"):
                return True
        return False

    def _builds_something(self, symbol: ClassRef) -> bool:
        if self._layers.is_module(symbol):
            return self._layers.may_act_by_mode(symbol)
        init = self._resolver.method(symbol, "__init__")
        return isinstance(init, FunctionRef) and self.matters(init)

    def trains_if(self, ref: FunctionRef, settled: Settled) -> bool:
        """As `trains`, where these parameters are known."""
        if not settled or not self.trains(ref):
            return self.trains(ref)
        key = ref, settled
        if key not in self._trains_if:
            body = self._resolver.functions(ref.path)[ref.qualified].body
            left = left_of(body, settled)
            self._trains_if[key] = self._body_reaches(left, ref, BACKWARD, self._trains, 0)
        return self._trains_if[key]

    def loop_trains(
        self, loop: Loop | Each, ref: FunctionRef, settled: Settled = frozenset()
    ) -> bool:
        """As `trains_if`, for a loop or comprehension in the function `ref`."""
        key = ref, _key(loop), settled
        if key not in self._loops:
            inside = _inside(loop)
            if settled and isinstance(loop, Loop):
                inside = left_of(loop.body, settled)
            self._loops[key] = self._body_reaches(inside, ref, BACKWARD, self._trains, 0)
        return self._loops[key]

    def loop_assigns(self, loop: Loop, ref: FunctionRef) -> frozenset[str]:
        """The names and attributes (dotted) that a loop in the function `ref` assigns."""
        key = ref, loop.line
        if key not in self._assigns:
            self._assigns[key] = frozenset(_targets(loop))
        return self._assigns[key]

    def measures(self, ref: FunctionRef, loop: Loop | Each | None = None) -> bool:
        """Whether a function, or a loop in it, predicts from what a model returns, or judges it."""
        key = ref, 0 if loop is None else _key(loop)
        if key not in self._measures:
            body = self._resolver.functions(ref.path)[ref.qualified].body
            self._measures[key] = measures(body if loop is None else _inside(loop))
        return self._measures[key]

    def _reaches(
        self, ref: FunctionRef, words: frozenset[str], known: dict[FunctionRef, bool], depth: int
    ) -> bool:
        if ref not in known:
            known[ref] = False
            facts = self._resolver.functions(ref.path).get(ref.qualified)
            if facts is None or depth > _DEPTH:
                return False
            found = bool(words & facts.calls)
            found = found or any(
                self._reaches(one, words, known, depth + 1) for one in self._callees(ref)
            )
            if not found and depth:
                del known[ref]  # a cycle or the depth may have cut the answer off
                return False
            known[ref] = found
        return known[ref]

    def _callees(self, ref: FunctionRef) -> tuple[FunctionRef, ...]:
        """The functions of the project that a function calls, or passes on to be called."""
        if ref not in self._called:
            body = self._resolver.functions(ref.path)[ref.qualified].body
            self._called[ref] = tuple(self._targets(body, ref))
        return self._called[ref]

    def _body_reaches(
        self,
        body: object,
        ref: FunctionRef,
        words: frozenset[str],
        known: dict[FunctionRef, bool],
        depth: int,
    ) -> bool:
        for function in called(body):
            match function:
                case Name(name) | Attribute(_, name) if name in words:
                    return True
        targets = self._targets(body, ref)
        return any(self._reaches(one, words, known, depth + 1) for one in targets)

    def _targets(self, body: object, ref: FunctionRef) -> Iterator[FunctionRef]:
        """The functions of the project that a part of `ref` calls, or passes on to be called."""
        names: dict[str, None] = {}
        methods = {"__init__": None}
        for node in within(body):
            match node:
                case Call(function, arguments):
                    if isinstance(function, Attribute):
                        methods[function.name] = None
                    names[dotted(function)] = None
                    names |= {dotted(one.value): None for one in arguments}
                case Inner(qualified):
                    yield FunctionRef(ref.path, qualified)
        for name in filter(None, names):
            if (target := self._target(name, ref)) is not None:
                yield target
                continue
            symbol = self._resolver.resolve(ref.path, name)
            if isinstance(symbol, ClassRef) and not self._layers.is_module(symbol):
                found = (self._resolver.method(symbol, method) for method in methods)
                yield from (one for one in found if isinstance(one, FunctionRef))

    def _target(self, name: str, ref: FunctionRef) -> FunctionRef | None:
        """The function of the project that a call of `name` in `ref` reaches, if that is plain."""
        functions = self._resolver.functions(ref.path)
        around = ref.qualified
        while around:  # a function inside this one, or beside it
            if f"{around}.{name}" in functions and not functions[f"{around}.{name}"].is_method:
                return FunctionRef(ref.path, f"{around}.{name}")
            around = around.rpartition(".")[0]
        head, _, rest = name.partition(".")
        found: Symbol | None
        if head == "self" and rest and "." not in rest:
            owner = self.owner(ref)
            found = None if owner is None else self._resolver.method(owner, rest)
        else:
            found = self._resolver.resolve(ref.path, name)
        return found if isinstance(found, FunctionRef) else None

    def owner(self, ref: FunctionRef) -> ClassRef | None:
        """The class that a method, or a function inside of one, belongs to."""
        classes = {one.qualified for one in self._resolver.files[ref.path].classes}
        around = ref.qualified.rpartition(".")[0]
        while around:
            if around in classes:
                return ClassRef(ref.path, around)
            around = around.rpartition(".")[0]
        return None


def measures(body: object) -> bool:
    """Whether statements make a prediction of what a model returns, or measure it."""
    for function in called(body):
        match function:
            case Name(name) | Attribute(_, name) if MEASURES.search(name):
                return True
    return False


def _key(loop: Loop | Each) -> int | Each:
    return loop.line if isinstance(loop, Loop) else loop


def _inside(loop: Loop | Each) -> object:
    return loop.body if isinstance(loop, Loop) else loop.value


def _targets(loop: Loop) -> Iterator[str]:
    stack: list[Any] = [loop]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(node)
            continue
        if isinstance(node, Assign):
            yield from _bound(node.targets)
        elif isinstance(node, Loop) and node.target is not None:
            yield from _bound((node.target,))
        elif isinstance(node, With):
            yield from _bound(tuple(target for _, target in node.items if target is not None))
        if isinstance(node, (If, Loop, With, Try)):
            stack.extend(getattr(node, one.name) for one in fields(node))


def _bound(targets: tuple[Expression, ...]) -> Iterator[str]:
    for target in targets:
        if isinstance(target, Several):
            yield from _bound(target.items)
        elif name := dotted(target):
            yield name


def called(body: Any) -> list[Any]:
    """The function of every call in `body`, in source order."""
    found: list[Any] = []
    stack: list[Any] = [body]
    while stack:
        node = stack.pop()
        if isinstance(node, tuple):
            stack.extend(reversed(node))
        elif isinstance(node, Call):
            found.append(node.function)
            stack.extend(reversed([node.function, *node.arguments]))
        elif isinstance(node, Argument):
            stack.append(node.value)
        elif node is not None and not isinstance(node, (str, int, float, bool, Span)):
            stack.extend(getattr(node, one.name) for one in reversed(fields(node)))
    return found
