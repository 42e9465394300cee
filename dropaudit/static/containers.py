"""Plain lists, tuples and dicts that a class keeps modules in, and what registers those."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.facts import AttributeValue, ClassFacts, builds_dropout
from dropaudit.static.names import Kind, dotted_text
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend, occurrences

_DROPS_BY_NAME = re.compile(
    r"(Drop(out|Block|Path|Connect)|StochasticDepth)"
    r"(?!\w*(Config|Args|Argument|Option|Scheduler|Context|State|Spec|Info|Mask|Rate|Prob|Hook"
    r"|Callback|Param|Result|Stat|Mode|Type|Error|Warning))"
)
_ADDS = frozenset(["append", "insert", "extend", "update", "appendleft"])
_REGISTERS = frozenset(["add_module", "register_module", "__setattr__", "setattr", "_modules"])
_READS_ONLY = re.compile(
    r"(len|enumerate|zip|range|print|isinstance|reversed|iter|next|sum|sorted|max|min|any|all"
    r"|str|repr|id|deepcopy)$"
)
_PLAIN = {
    cst.List: "list",
    cst.ListComp: "list",
    cst.Tuple: "tuple",
    cst.Dict: "dict",
    cst.DictComp: "dict",
}


@dataclass(frozen=True, eq=False)
class Container:
    """`self.name = value`, where `value`, or what its name stands for, is a plain container."""

    name: str
    kind: str
    node: cst.BaseExpression
    value: cst.BaseExpression
    items: tuple[cst.BaseExpression, ...]
    local: str

    def wrapper(self, source: Source) -> str:
        """What to wrap the value in where that is mechanical: `nn.ModuleList`, ...; else empty."""
        if self.node is not self.value:
            return ""
        prefix = _torch_nn(source)
        if isinstance(self.value, cst.Dict):
            keys = [getattr(e, "key", None) for e in self.value.elements]
            literal = bool(keys) and all(isinstance(k, cst.SimpleString) for k in keys)
            return f"{prefix}.ModuleDict" if prefix and literal else ""
        if self.kind == "dict" or not all(isinstance(i, (cst.Call, cst.Name)) for i in self.items):
            return ""
        if isinstance(self.value, cst.Tuple) and not self.value.lpar:
            return ""
        return f"{prefix}.ModuleList" if prefix else ""


def containers(facts: ClassFacts, source: Source) -> Iterator[Container]:
    """The plain containers among the attributes that this class itself sets."""
    for assigned in facts.assigned:
        value, local = _display(assigned.value, source)
        if value is None:
            continue
        items = tuple(_items(value))
        items += tuple(_added(facts, source, assigned, local))
        kind = _PLAIN.get(type(value)) or dotted_text(getattr(value, "func", None))
        yield Container(assigned.name, kind, assigned.value, value, items, local)


def holds_dropout(container: Container, source: Source) -> str:
    """The class of the first item that has dropout inside, as written; empty if none has."""
    for item in container.items:
        for value in _values(item, source):
            if not isinstance(value, cst.Call) or _is_pinned(value):
                continue
            name = dotted_text(value.func)
            last = name.rpartition(".")[2]
            known = source.definition(value.func)
            if isinstance(known, cst.ClassDef) and not source.facts(known).is_module:
                continue  # a record that is named after dropout
            if _DROPS_BY_NAME.search(last) and last[:1].isupper():
                return name
            if builds_dropout(source, value):
                return name or "module"
    return ""


def foreign_items(container: Container, source: Source) -> Iterator[cst.Call]:
    """The calls that build items of classes which this file does not define."""
    for item in container.items:
        for value in _values(item, source):
            if not isinstance(value, cst.Call) or _is_pinned(value):
                continue
            if not source.name_of(value.func).startswith("torch."):
                yield value


def is_registered(container: Container, facts: ClassFacts, source: Source) -> bool:
    """Whether something makes the items children of the module, or switches them with it."""
    for value in facts.values(container.name):
        if value is container.node or is_name(value, "None"):
            continue
        if _display(value, source)[0] is None:
            return True
    items = {item.value for item in container.items if isinstance(item, cst.Name)}
    for method in facts.methods.values():
        switches = method.name.value in ("train", "eval")
        for node in descend(method.body):
            if isinstance(node, (cst.Name, cst.Attribute)):
                if dotted_text(node).rpartition(".")[2] in _REGISTERS:
                    return True
                if _is_this(node, container) and (switches or _is_handed_on(node, source)):
                    return True
            if _becomes_attribute(node, items):
                return True
    return False


def _becomes_attribute(node: cst.CSTNode, names: set[str]) -> bool:
    match node:
        case cst.Assign(targets=targets, value=cst.Name(value=name)) if name in names:
            return any(self_attribute(t.target) for t in targets)
    return False


def _display(value: cst.BaseExpression, source: Source) -> tuple[cst.BaseExpression | None, str]:
    """The plain container that `value` is, and the local name it goes by, if any."""
    local = ""
    if isinstance(value, cst.Name):
        bindings = source.bindings(value)
        if any(b.kind is not Kind.ASSIGNMENT for b in bindings if not _is_growth(b.node)):
            return None, ""
        made = [b for b in bindings if b.kind is Kind.ASSIGNMENT]
        if len(made) != 1 or made[0].value is None:
            return None, ""
        local, value = value.value, made[0].value
    if type(value) in _PLAIN:
        return value, local
    match value:
        case cst.Call(func=cst.Name("list" | "tuple" | "dict"), args=args):
            if all(isinstance(a.value, cst.GeneratorExp) for a in args):
                return value, local
    return None, ""


def _is_growth(node: cst.CSTNode) -> bool:
    return isinstance(node, cst.AugAssign) and isinstance(node.operator, cst.AddAssign)


def _items(value: cst.CSTNode) -> Iterator[cst.BaseExpression]:
    stack: list[cst.CSTNode] = [value]
    while stack:
        match stack.pop():
            case cst.List(elements=elements) | cst.Tuple(elements=elements):
                stack.extend(e.value for e in reversed(elements))
            case cst.Dict(elements=elements):
                stack.extend(e.value for e in reversed(elements))
            case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt):
                stack.append(elt)
            case cst.DictComp(value=elt):
                stack.append(elt)
            case cst.Call(func=cst.Name("list" | "tuple" | "dict"), args=args):
                stack.extend(a.value for a in args)
            case cst.BaseExpression() as item:
                yield item


def _added(
    facts: ClassFacts, source: Source, assigned: AttributeValue, local: str
) -> Iterator[cst.BaseExpression]:
    for method in facts.methods.values():
        here = local if method is assigned.method else ""
        for node in occurrences(method.body, cst.Call, cst.AugAssign, cst.Assign):
            match node:
                case cst.Call(func=cst.Attribute(value=owner, attr=attr), args=[*_, last]):
                    if attr.value in _ADDS and _is_owner(owner, assigned.name, here):
                        yield from _items(last.value)
                case cst.AugAssign(target=target, value=value):
                    if _is_owner(target, assigned.name, here):
                        yield from _items(value)
                case cst.Assign(targets=[cst.AssignTarget(target=cst.Subscript(value=owner))]):
                    if _is_owner(owner, assigned.name, here):
                        yield node.value


def _is_owner(node: cst.CSTNode, name: str, local: str) -> bool:
    if self_attribute(node) == name:
        return True
    return bool(local) and isinstance(node, cst.Name) and node.value == local


def _is_this(node: cst.CSTNode, container: Container) -> bool:
    return _is_owner(node, container.name, container.local)


def _is_handed_on(node: cst.CSTNode, source: Source) -> bool:
    """Whether `node` is, or is part of, an argument of a call that may register it."""
    child = node
    for around in source.ancestors(node):
        if isinstance(around, cst.Arg):
            call = source.parents[around]
            name = dotted_text(getattr(call, "func", None)).rpartition(".")[2]
            reads = name in _ADDS or _READS_ONLY.match(name)
            if isinstance(call, cst.Call) and not reads:
                return True
        elif isinstance(around, (cst.Subscript, cst.BaseStatement, cst.BaseSmallStatement)) or (
            isinstance(around, cst.Call) and around.func is child
        ):
            return False
        child = around
    return False


def _values(item: cst.BaseExpression, source: Source) -> list[cst.BaseExpression]:
    if not isinstance(item, cst.Name):
        return [item]
    return [b.value for b in source.bindings(item) if b.value is not None]


def _is_pinned(call: cst.Call) -> bool:
    return isinstance(call.func, cst.Attribute) and call.func.attr.value in ("eval", "parameters")


def _torch_nn(source: Source) -> str:
    top = source.scopes[source.module]
    for name, wanted in (("nn", "torch.nn"), ("torch", "torch")):
        found = top.names.get(name, [])
        if len(found) == 1 and found[0].dotted == wanted:
            return "torch.nn" if name == "torch" else "nn"
    return ""
