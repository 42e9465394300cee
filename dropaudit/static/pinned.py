"""Parts that a module's constructor freezes and puts in eval mode, and what keeps them there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.facts import ClassFacts
from dropaudit.static.names import dotted_text
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend

_FREEZES = re.compile(r"freez|requires_?grad", re.IGNORECASE)
_WEIGHTS = re.compile(
    r"torch\.nn\.(Linear|Bilinear|Lazy\w+|Conv\w+|Embedding\w*|LSTM\w*|GRU\w*|RNN\w*|Parameter\w*"
    r"|Sequential|Module(List|Dict)|MultiheadAttention|Transformer\w*)$"
)
# the class of a module in another file, by how networks are called
_FOREIGN = re.compile(
    r"(^|\.)(?!nn\.)[A-Z]\w*(Net|Network|Model|Encoder|Decoder|Block|Layer|Head|Transformer|Module)$"
)
_NO_GRADIENT = re.compile(r"no_grad|inference_mode")
_FUSES = re.compile(r"fuse|deploy|merge|convert|remove_|replace")
_PARTS = frozenset(["parameters", "named_parameters"])
_BELOW = frozenset(["modules", "children", "named_modules", "named_children", "apply"])


@dataclass(frozen=True, eq=False)
class Part:
    """`self.name`, what it is built from, and the call that puts it in eval mode."""

    name: str
    value: cst.BaseExpression
    switch: cst.Call


class Constructor:
    """`__init__` and the methods of the same class that it calls."""

    def __init__(self, facts: ClassFacts, source: Source) -> None:
        self.facts = facts
        self.source = source
        self.methods = list(self._reached())

    def _reached(self) -> Iterator[cst.FunctionDef]:
        queue = [m for m in [self.facts.methods.get("__init__")] if m is not None]
        seen: set[str] = set()
        while queue:
            method = queue.pop()
            if method.name.value in seen:
                continue
            seen.add(method.name.value)
            yield method
            for node in descend(method.body):
                called = self_attribute(node.func) if isinstance(node, cst.Call) else ""
                own = self.facts.methods.get(called)
                if own is not None and called not in ("train", "eval", "forward"):
                    queue.append(own)

    def parts(self) -> Iterator[Part]:
        """The attributes that are in eval mode and without gradient when the constructor ends."""
        switched = dict(self._switched())
        for name, call in switched.items():
            value = self._built(name)
            if value is not None and (self._freezes(name) or self._runs_without_gradient(name)):
                yield Part(name, value, call)

    def _switched(self) -> Iterator[tuple[str, cst.Call]]:
        """Attribute name and the call of `eval` on it, or on the local that it is made from."""
        for method in self.methods:
            locals_ = self._names_of_locals(method)
            for node in descend(method.body, stop=(cst.Lambda, cst.FunctionDef, cst.ClassDef)):
                if not isinstance(node, cst.Call) or not _turns_off(node):
                    continue
                assert isinstance(node.func, cst.Attribute)
                target = _root(node.func.value)
                name = self_attribute(target)
                if not name and isinstance(target, cst.Name):
                    name = locals_.get(target.value, "")
                if not name:
                    name = _assigned_to(self.source.statement_of(node), node)
                if name and name in self.attributes:
                    yield name, node

    @property
    def attributes(self) -> set[str]:
        return {a.name for f in self.facts.lineage for a in f.assigned}

    def _names_of_locals(self, method: cst.FunctionDef) -> dict[str, str]:
        found = {}
        for assigned in self.facts.assigned:
            if assigned.method is method and isinstance(assigned.value, cst.Name):
                found[assigned.value.value] = assigned.name
        return found

    def _built(self, name: str) -> cst.BaseExpression | None:
        """What the attribute is built from; None where `train` is taken away from it."""
        values = [a.value for a in self.facts.assigned if a.name == name]
        return values[0] if values else None

    def _freezes(self, name: str) -> bool:
        return any(self._freezes_in(method, name) for method in self.methods)

    def _freezes_in(self, method: cst.FunctionDef, name: str) -> bool:
        words = {f"self.{name}"} | {
            k for k, v in self._names_of_locals(method).items() if v == name
        }
        for node in descend(method.body):
            match node:
                case cst.For(iter=cst.Call(func=cst.Attribute(value=whole, attr=attr)), body=body):
                    over = self.source.text(_root(whole)) in words | {"self"}
                    if attr.value in _PARTS and over and _FREEZES.search(self.source.text(body)):
                        return True
                case cst.Call(func=func, args=args) if _FREEZES.search(dotted_text(func)) or (
                    isinstance(func, cst.Attribute) and func.attr.value == "requires_grad_"
                ):
                    if args and not is_name(args[0].value, "False"):
                        if any(self.source.text(a.value) in words for a in args):
                            return True
                        continue
                    if isinstance(func, cst.Attribute):
                        owner = self.source.text(_root(func.value))
                        bare = owner == "self" and func.attr.value == "requires_grad_"
                        if owner in words or bare:
                            return True
                        if name and _assigned_to(self.source.statement_of(node), node) == name:
                            return True
        return False

    def _runs_without_gradient(self, name: str) -> bool:
        """Whether a call of the part stands in a `with torch.no_grad()` that is not everything."""
        for call in self._calls(name):
            for around in self.source.ancestors(call):
                if isinstance(around, cst.With) and _without_gradient(self.source, around):
                    return _is_not_all(self.source, around)
        return False

    def _calls(self, name: str) -> Iterator[cst.Call]:
        for method in self.facts.methods.values():
            if method in self.methods:
                continue
            for node in descend(method.body):
                if isinstance(node, cst.Call) and self_attribute(_owner(node.func)) == name:
                    yield node

    def trains(self, parts: set[str]) -> bool:
        """Whether this module has weights of its own, or is part of a module of this file."""
        if self._freezes("") or self._switches_by_hand(parts):
            return False
        others = (a.value for f in self.facts.lineage for a in f.assigned if a.name not in parts)
        return self._works_beside(parts) and (
            any(_has_weights(self.source, v) for v in others) or self._is_built_in_module()
        )

    def _switches_by_hand(self, parts: set[str]) -> bool:
        """Whether a method switches other parts one by one, in place of `train` on the whole."""
        for node in self.source.attributes_by_name.get("train", []):
            name = self_attribute(node.value)
            if name and name not in parts and self.source.class_of(node) is self.facts:
                return True
        return False

    def _works_beside(self, parts: set[str]) -> bool:
        """Whether something other than the parts runs with gradient, as far as methods show."""
        if self.facts.method("forward") is None:
            return True
        for facts in self.facts.lineage:
            for method in facts.methods.values():
                if method in self.methods or _is_decorated(self.source, method):
                    continue
                for node in descend(method.body):
                    called = self_attribute(_owner(node.func)) if isinstance(node, cst.Call) else ""
                    if called and called not in parts and called not in facts.methods:
                        arounds = self.source.ancestors(node)
                        if not any(
                            isinstance(a, cst.With) and _without_gradient(self.source, a)
                            for a in arounds
                        ):
                            return True
        return self._is_built_in_module()

    def _is_built_in_module(self) -> bool:
        for call in self.source.calls_by_name.get(self.facts.name, []):
            around = self.source.class_of(call)
            if around is None or not around.is_module or around is self.facts:
                continue
            if self.source.definition(call.func) is self.facts.node:
                return True
        return False

    def is_inference(self) -> bool:
        """Whether `forward` as a whole runs without gradient."""
        forward = self.facts.method("forward") or self.facts.method("__call__")
        if forward is None:
            return False
        if _is_decorated(self.source, forward):
            return True
        body = getattr(forward.body, "body", ())
        return any(
            isinstance(s, cst.With)
            and _without_gradient(self.source, s)
            and not _is_not_all(self.source, s)
            for s in body
        )


def is_kept(constructor: Constructor, name: str) -> bool:
    """Whether something outside of the constructor puts `self.name` in eval mode again."""
    facts, source = constructor.facts, constructor.source
    if any(f.method("train") is not None for f in (facts, *facts.subclasses)):
        return True
    inside = {id(m) for m in constructor.methods}
    for node in source.attributes_by_name.get(name, []):
        method = source.method_of(node)
        parent = source.parents.get(node)
        if isinstance(parent, cst.Attribute) and parent.attr.value in ("train", "eval", "training"):
            around = source.parents.get(parent)
            if isinstance(around, cst.AssignTarget):
                return True  # self.part.train = ...: it pins itself
            if method is None or id(method) not in inside:
                return True
            if (
                isinstance(around, cst.Call)
                and parent.attr.value == "train"
                and (not around.args or is_name(around.args[0].value, "True"))
            ):
                return True  # switched on again: eval was for a trial run
        if isinstance(parent, cst.Attribute) and _FUSES.search(parent.attr.value):
            return True  # batch normalization folded into the weights
        outside = method is None or id(method) not in inside
        if outside and isinstance(parent, cst.Attribute) and parent.attr.value in _BELOW:
            return True
        if isinstance(parent, cst.Arg) and method is not None and id(method) not in inside:
            call = source.parents.get(parent)
            if isinstance(call, cst.Call) and re.search("eval|freez|mode", dotted_text(call.func)):
                return True
    return False


def _has_weights(source: Source, value: cst.CSTNode, depth: int = 0) -> bool:
    for call in descend(value):
        if not isinstance(call, cst.Call):
            continue
        if _WEIGHTS.match(source.name_of(call.func)):
            return True
        definition = source.definition(call.func)
        if depth == 0 and definition is None and _FOREIGN.search(dotted_text(call.func)):
            return True
        if depth > 2 or not isinstance(definition, cst.ClassDef):
            continue
        if source.facts(definition).is_module and _has_weights(source, definition.body, depth + 1):
            return True
    return False


def _turns_off(call: cst.Call) -> bool:
    match call:
        case cst.Call(func=cst.Attribute(attr=cst.Name("eval")), args=[]):
            return True
        case cst.Call(func=cst.Attribute(attr=cst.Name("train")), args=[cst.Arg(value=value)]):
            return is_name(value, "False")
    return False


def _root(node: cst.CSTNode) -> cst.CSTNode:
    """`self.net` of `self.net.to(device).half()`: calls of methods taken away."""
    while isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        node = node.func.value
    return node


def _assigned_to(statement: cst.CSTNode, call: cst.Call) -> str:
    """The attribute that `statement` sets to what `call`, a method of it, gives back."""
    match statement:
        case cst.Assign(targets=[cst.AssignTarget(target=target)], value=value):
            pass
        case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
            pass
        case _:
            return ""
    while value is not call and isinstance(value, cst.Call):
        value = value.func.value if isinstance(value.func, cst.Attribute) else value.func
    return self_attribute(target) if value is call else ""


def _owner(func: cst.CSTNode) -> cst.CSTNode:
    """`self.net` for `self.net` and for `self.net.features`."""
    while isinstance(func, cst.Attribute) and not self_attribute(func):
        func = func.value
    return func


def _is_decorated(source: Source, function: cst.FunctionDef) -> bool:
    return any(_NO_GRADIENT.search(source.text(d)) for d in function.decorators)


def _without_gradient(source: Source, node: cst.With) -> bool:
    return any(_NO_GRADIENT.search(source.text(i.item)) for i in node.items)


def _is_not_all(source: Source, node: cst.With) -> bool:
    """Whether the function around goes on with calls after or before the block."""
    block = source.parents.get(node)
    rest = [s for s in getattr(block, "body", ()) if s is not node]
    return any(isinstance(n, cst.Call) for s in rest for n in descend(s)) and isinstance(
        block, cst.IndentedBlock
    )
