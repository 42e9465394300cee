"""What one file says of a class: its bases, its methods, what it puts on `self`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import libcst as cst

from dropaudit.static.lineages import KNOWN_MODULE, LAYER_NAME, MODEL_NAME, NO_MODULE
from dropaudit.static.source import Source, is_name, number, self_attribute
from dropaudit.static.walk import descend, occurrences

_PLAIN = "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"
DROPOUT_MODULES = frozenset(f"torch.nn.{name}" for name in _PLAIN.split())
_CONTAINERS = frozenset(("torch.nn.Sequential", "torch.nn.ModuleList", "torch.nn.ModuleDict"))
_BUILDS = re.compile(r"torch\.nn\.(?!\w*Loss\b)[A-Z]\w*$")
_TAKES_RATE = re.compile(r"torch\.nn\.(Transformer\w*|MultiheadAttention|LSTM|GRU|RNN)$")
_DROPS_UNASKED = re.compile(r"torch\.nn\.Transformer((En|De)coderLayer)?$")  # 0.1 by default


@dataclass(frozen=True)
class AttributeValue:
    """One `self.name = value` in a method."""

    name: str
    value: cst.BaseExpression
    method: cst.FunctionDef
    statement: cst.CSTNode


class ClassFacts:
    """Facts of one class; asked through `Source.facts`, computed when first asked."""

    def __init__(self, node: cst.ClassDef, source: Source) -> None:
        self.node = node
        self.name = node.name.value
        self._source = source

    @cached_property
    def base_names(self) -> tuple[str, ...]:
        """Dotted names of the bases that this file does not define."""
        nodes = (a.value for a in self.node.bases)
        rest = (n for n in nodes if self._source.definition(n) is None)
        return tuple(self._source.name_of(n) or self._source.text(n) for n in rest)

    @cached_property
    def local_bases(self) -> tuple[ClassFacts, ...]:
        """The bases that this file defines, directly and further up."""
        found: list[ClassFacts] = []
        queue: list[cst.ClassDef] = [self.node]
        while queue:
            for base in queue.pop().bases:
                definition = self._source.definition(base.value)
                if isinstance(definition, cst.ClassDef) and definition is not self.node:
                    facts = self._source.facts(definition)
                    if facts not in found:
                        found.append(facts)
                        queue.append(definition)
        return tuple(found)

    @cached_property
    def lineage(self) -> tuple[ClassFacts, ...]:
        """This class and its bases in this file."""
        return (self, *self.local_bases)

    @cached_property
    def subclasses(self) -> tuple[ClassFacts, ...]:
        """The classes of this file that build on this one."""
        every = (self._source.facts(c) for c in self._source.nodes[cst.ClassDef])
        return tuple(f for f in every if self in f.local_bases)

    @cached_property
    def foreign_bases(self) -> tuple[str, ...]:
        """Dotted names of all bases outside this file, through the bases inside it."""
        return tuple(dict.fromkeys(n for f in self.lineage for n in f.base_names))

    @cached_property
    def is_module(self) -> bool:
        """Whether this is an `nn.Module`: by a base that is one, or by evidence."""
        unknown = [n for n in self.foreign_bases if not NO_MODULE.search(n)]
        if any(KNOWN_MODULE.search(n) for n in unknown):
            return True
        forward = self.method("forward")
        if not unknown or (forward is not None and not _takes_input(forward)):
            return False
        builds = any(f.builds_modules for f in self.lineage)
        if any(LAYER_NAME.search(n) for n in unknown):
            return forward is not None or builds
        named = any(MODEL_NAME.search(n) for n in unknown)
        return forward is not None and (builds or named)

    @cached_property
    def is_surely_module(self) -> bool:
        """Whether a base of this module is known to be one, or it has a forward of its own."""
        known = any(KNOWN_MODULE.search(n) for n in self.foreign_bases)
        return self.is_module and (known or self.method("forward") is not None)

    @cached_property
    def is_function(self) -> bool:
        """Whether this is a `torch.autograd.Function`."""
        return any(
            n.endswith("autograd.Function") or n.endswith("autograd.function.Function")
            for n in self.foreign_bases
        )

    @cached_property
    def builds_modules(self) -> bool:
        """Whether `self` is given something of `torch.nn`."""
        calls = (n for a in self.assigned for n in descend(a.value) if isinstance(n, cst.Call))
        return any(_BUILDS.match(self._source.name_of(call.func)) for call in calls)

    @cached_property
    def methods(self) -> dict[str, cst.FunctionDef]:
        """The functions in the body of the class, by name; the last definition counts."""
        body = self.node.body.body
        found = [s for s in body if isinstance(s, cst.FunctionDef)]
        for statement in body:
            if isinstance(statement, cst.If):
                found.extend(s for s in statement.body.body if isinstance(s, cst.FunctionDef))
        return {f.name.value: f for f in found}

    def method(self, name: str) -> cst.FunctionDef | None:
        """The method called `name`, of this class or a base in this file."""
        return next((f.methods[name] for f in self.lineage if name in f.methods), None)

    @cached_property
    def assigned(self) -> tuple[AttributeValue, ...]:
        """Every `self.name = value` in the methods of this class, in source order."""
        return tuple(self._assignments())

    def values(self, name: str) -> list[cst.BaseExpression]:
        """What `self.name` is given, in this class and its bases in this file."""
        return [v for f in self.lineage for v in f._values_by_name.get(name, ())]

    @cached_property
    def _values_by_name(self) -> dict[str, list[cst.BaseExpression]]:
        found: dict[str, list[cst.BaseExpression]] = {}
        for one in self.assigned:
            found.setdefault(one.name, []).append(one.value)
        return found

    def dropout_module(self, name: str) -> cst.Call | None:
        """The call that builds `self.name` where all its values are dropout modules."""
        values = self.values(name)
        calls = [v for v in values if self.is_dropout(v)]
        return calls[0] if calls and len(calls) == len(values) else None  # type: ignore[return-value]

    def is_dropout(self, value: cst.CSTNode) -> bool:
        """Whether `value` builds one of torch's dropout modules."""
        return isinstance(value, cst.Call) and self._source.name_of(value.func) in DROPOUT_MODULES

    @cached_property
    def holds_dropout(self) -> bool:
        """Whether a module of this class has dropout inside, as far as this file shows."""
        return self._holds(frozenset())

    def _holds(self, seen: frozenset[str]) -> bool:
        if self.name in seen:
            return False
        seen |= {self.name}
        return any(
            self._source_holds(call, seen)
            for f in self.lineage
            for call in descend(f.node)
            if isinstance(call, cst.Call)
        )

    def _source_holds(self, call: cst.Call, seen: frozenset[str]) -> bool:
        name = self._source.name_of(call.func)
        if name in DROPOUT_MODULES or name.startswith("torch.nn.functional.dropout"):
            return True
        definition = self._source.definition(call.func)
        if isinstance(definition, cst.ClassDef):
            return self._source.facts(definition)._holds(seen)
        return False

    def _assignments(self) -> Iterator[AttributeValue]:
        for method in self.methods.values():
            for node in occurrences(
                method.body, cst.Assign, cst.AnnAssign, cst.Call, stop=(cst.ClassDef,)
            ):
                match node:
                    case cst.Assign(targets=targets, value=value):
                        for target in targets:
                            yield from _pairs(target.target, value, method, node)
                    case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
                        yield from _pairs(target, value, method, node)
                    case cst.Call():
                        yield from _set_by_call(node, method)


def builds_dropout(source: Source, value: cst.CSTNode) -> bool:
    """Whether `value` builds a module that has dropout inside, as far as this file shows."""
    if isinstance(value, cst.Lambda):
        return False  # it builds when it is called
    for node in descend(value, stop=(cst.Lambda,)):
        if not isinstance(node, cst.Call):
            continue
        name = source.name_of(node.func)
        if name in DROPOUT_MODULES:
            return True
        if _TAKES_RATE.match(name):
            rate = source.argument(node, "dropout")
            if number(rate.value) != 0 if rate is not None else _DROPS_UNASKED.match(name):
                return True
        definition = source.definition(node.func)
        if isinstance(definition, cst.ClassDef):
            facts = source.facts(definition)
            if facts.is_module and facts.holds_dropout:
                return True
    return False


def is_container(name: str) -> bool:
    """Whether `name` is a torch container that registers what it is given."""
    return name in _CONTAINERS


def _takes_input(forward: cst.FunctionDef) -> bool:
    """Whether a forward is given something: that of a trainer or of a Function is not."""
    if any(is_name(d.decorator, "staticmethod") for d in forward.decorators):
        return False
    params = forward.params
    star = isinstance(params.star_arg, cst.Param) or params.star_kwarg is not None
    named = (*params.posonly_params, *params.params, *params.kwonly_params)
    return star or len(named) > 1


def _pairs(
    target: cst.CSTNode, value: cst.BaseExpression, method: cst.FunctionDef, node: cst.CSTNode
) -> Iterator[AttributeValue]:
    name = self_attribute(target)
    if name:
        yield AttributeValue(name, value, method, node)
    elif isinstance(target, (cst.Tuple, cst.List)):
        values = _unpacked(value, len(target.elements))
        for element, one in zip(target.elements, values, strict=True):
            yield from _pairs(element.value, one, method, node)


def _unpacked(value: cst.BaseExpression, count: int) -> Sequence[cst.BaseExpression]:
    """What each of `count` targets is given; `value` itself where it cannot be taken apart."""
    match value:
        case cst.Tuple(elements=elements) | cst.List(elements=elements) if len(elements) == count:
            return [element.value for element in elements]
        case cst.ListComp(elt=each) | cst.GeneratorExp(elt=each):
            return [each] * count
    return [value] * count


def _set_by_call(call: cst.Call, method: cst.FunctionDef) -> Iterator[AttributeValue]:
    """`setattr(self, "name", value)`, `self.add_module("name", value)`."""
    args = [a.value for a in call.args if not a.star]
    match call.func:
        case cst.Name("setattr") if len(args) == 3 and is_name(args[0], "self"):
            name, value = args[1], args[2]
        case cst.Attribute(
            value=cst.Name("self"), attr=cst.Name("add_module" | "register_module")
        ) if len(args) == 2:
            name, value = args
        case _:
            return
    if isinstance(name, cst.SimpleString) and isinstance(name.evaluated_value, str):
        yield AttributeValue(name.evaluated_value, value, method, call)
