"""Is this expression a module? What a name or attribute holds, as far as one file shows."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.names import Kind
from dropaudit.static.source import Source, self_attribute

_SAME_OBJECT = frozenset(
    ["to", "cuda", "cpu", "half", "float", "double", "train", "eval", "apply", "requires_grad_"]
)


def is_known_module(source: Source, node: cst.CSTNode, depth: int = 0) -> bool:
    """Whether all that `node` is seen to hold are modules: built here, or `self` in a Module."""
    if depth > 4:
        return False
    if isinstance(node, cst.Call):
        return _builds_module(source, node, depth)
    if isinstance(node, cst.Name):
        if node.value == "self":
            facts = source.class_of(node)
            return facts is not None and facts.is_module
        values = [b.value for b in source.bindings(node) if b.kind is Kind.ASSIGNMENT]
    else:
        name = self_attribute(node)
        facts = source.class_of(node) if name else None
        values = list(facts.values(name)) if facts is not None else []
    return bool(values) and all(
        v is not None and is_known_module(source, v, depth + 1) for v in values
    )


def _builds_module(source: Source, call: cst.Call, depth: int) -> bool:
    definition = source.definition(call.func)
    if isinstance(definition, cst.ClassDef):
        return source.facts(definition).is_module
    name = source.name_of(call.func)
    if name.startswith("torch.nn.") and name.rpartition(".")[2][:1].isupper():
        return True
    if isinstance(call.func, cst.Attribute) and call.func.attr.value in _SAME_OBJECT:
        return is_known_module(source, call.func.value, depth + 1)
    return False
