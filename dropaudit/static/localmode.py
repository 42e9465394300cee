"""The mode of a model within one function or script: what was last said to it, in text order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto

import libcst as cst

from dropaudit.static.names import Kind, dotted_text
from dropaudit.static.source import Source, is_name
from dropaudit.static.walk import descend

_QUIET = frozenset(
    (
        *("print", "len", "id", "isinstance", "type", "str", "repr", "hasattr", "getattr"),
        *("DataParallel", "DistributedDataParallel", "summary", "deepcopy", "compile", "watch"),
    )
)
# what functions of other files are called that leave the mode alone
_LOADS = re.compile(
    r"(load|restore|save|copy|init|count|print|log|get|num)_\w*"
    r"(weights?|state_dict|checkpoint|ckpt|param\w*|info|size|summary)$"
)
_LOOPS = (cst.For, cst.While, cst.FunctionDef)
_DEPTH = 3


class Mode(Enum):
    """What a module is known to be in."""

    FRESH = auto()  # as it was built: in training mode
    TRAIN = auto()  # switched to training mode
    EVAL = auto()
    UNKNOWN = auto()


def mode_at(source: Source, model: cst.Name, at: cst.CSTNode) -> Mode:
    """The mode of the local `model` when the node `at` of the same function runs.

    Events count in text order: calls of its `train` and `eval` on any path before, and calls that
    it is handed to. What another file does with it is not known.
    """
    block = source.function_of(at) or source.module
    mode, looped = Mode.FRESH, False
    for node in descend(block, stop=(cst.ClassDef,)):
        if node is at:
            break
        said = _said(source, node, model.value, block, 0)
        if said is not None:
            mode = said
            looped = any(isinstance(a, _LOOPS) for a in source.ancestors(node) if a is not block)
    if mode is Mode.TRAIN and not looped:
        return Mode.UNKNOWN  # said beside the call: it may be meant
    return mode


def _said(
    source: Source, node: cst.CSTNode, name: str, block: cst.CSTNode, depth: int
) -> Mode | None:
    """What `node` does to the mode of the variable `name` of `block`; None for nothing."""
    if is_name(node, name):
        return Mode.UNKNOWN if _goes_astray(source, node) else None
    if not isinstance(node, cst.Call):
        return None
    match node.func:
        case cst.Attribute(value=owner, attr=cst.Name("eval")) if _is(owner, name):
            return Mode.EVAL
        case cst.Attribute(value=owner, attr=cst.Name("train")) if _is(owner, name):
            if not node.args or is_name(node.args[0].value, "True"):
                return Mode.TRAIN
            return Mode.EVAL if is_name(node.args[0].value, "False") else Mode.UNKNOWN
        case cst.Attribute(value=owner, attr=cst.Name("apply" | "modules" | "children")):
            if _is(owner, name):
                return None if _only_initializes(source, node) else Mode.UNKNOWN
    for at, arg in enumerate(node.args):
        if _is(arg.value, name) or any(_is(n, name) for n in _elements(arg.value)):
            return _handed_on(source, node, at, arg, depth)
    return None


def _only_initializes(source: Source, call: cst.Call) -> bool:
    """Whether `model.apply(f)` is given a function that does not switch."""
    given = call.args[0].value if call.args else None
    definition = source.definition(given)
    if definition is not None:
        return not _switches(source, definition.body)
    return "init" in dotted_text(given)


def _goes_astray(source: Source, name: cst.CSTNode) -> bool:
    """Whether the model gets another name here, by which it can be switched unseen."""
    match source.parents.get(name):
        case cst.Attribute() | cst.Arg() | cst.AssignTarget() | cst.AnnAssign() | cst.Comparison():
            return False
        case cst.ComparisonTarget() | cst.UnaryOperation() | cst.If() | cst.Return():
            return False
        case cst.Call(func=func):
            return func is not name
        case cst.Param() | cst.Expr():
            return False
        case None:
            return False
    return True


def _handed_on(source: Source, call: cst.Call, at: int, arg: cst.Arg, depth: int) -> Mode | None:
    """What a call that is given the model does to its mode."""
    dotted = source.name_of(call.func) or dotted_text(call.func)
    definition = source.definition(call.func)
    last = dotted.rpartition(".")[2]
    if last in _QUIET or dotted.startswith(("torch.nn.utils.", "torch.save")):
        return None
    if definition is None and _LOADS.match(last):
        return None
    if isinstance(definition, cst.ClassDef):
        return Mode.UNKNOWN if _switches(source, definition.body) else None
    if not isinstance(definition, cst.FunctionDef) or depth >= _DEPTH:
        return Mode.UNKNOWN
    parameter = _parameter(definition, at, arg)
    if parameter is None:
        return Mode.UNKNOWN
    mode = None
    for node in descend(definition.body, stop=(cst.ClassDef,)):
        mode = _said(source, node, parameter, definition, depth + 1) or mode
    return mode


def _switches(source: Source, body: cst.CSTNode) -> bool:
    return any(
        isinstance(n, cst.Attribute) and n.attr.value in ("eval", "train") for n in descend(body)
    )


def _parameter(function: cst.FunctionDef, at: int, arg: cst.Arg) -> str | None:
    params = [*function.params.posonly_params, *function.params.params]
    if arg.star:
        return None
    if arg.keyword is not None:
        names = [p.name.value for p in (*params, *function.params.kwonly_params)]
        return arg.keyword.value if arg.keyword.value in names else None
    return params[at].name.value if at < len(params) else None


def _is(node: cst.CSTNode, name: str) -> bool:
    """Whether `node` is the variable, through casts, `.module` and the like."""
    while True:
        match node:
            case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name("to" | "cuda" | "cpu"))):
                node = inner
            case cst.Attribute(value=inner, attr=cst.Name("module" | "_orig_mod")):
                node = inner
            case _:
                return is_name(node, name)


def _elements(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(node, (cst.Tuple, cst.List)):
        yield from (e.value for e in node.elements)


def built_value(source: Source, model: cst.Name, at: cst.CSTNode) -> cst.BaseExpression | None:
    """The construction that `model` stands for at `at`, where all else assigned to it is a cast.

    `model = Net()`, `model = model.to(device)`: the first. None for a parameter, for a name of
    another scope, and where several things are assigned.
    """
    scope = source.scope_of(at).lookup(model.value)
    if scope is None or scope[0].node is not (source.function_of(at) or source.module):
        return None
    values = []
    for binding in scope[1]:
        if binding.kind is not Kind.ASSIGNMENT or binding.value is None:
            return None
        if not _is_same_again(source, binding.value, model.value):
            values.append(binding.value)
    return values[0] if len(values) == 1 else None


def _is_same_again(source: Source, value: cst.CSTNode, name: str) -> bool:
    """Whether a value is the variable itself, cast or wrapped; or what the export made of it."""
    if _is(value, name):
        return True
    match value:
        case cst.Call(func=cst.Attribute(value=owner)) if _is(owner, name):
            return True
        case cst.Call(func=func, args=[cst.Arg(value=first), *_]) if _is(first, name):
            dotted = source.name_of(func)
            return dotted.rpartition(".")[2] in _QUIET or dotted.startswith("torch.")
    return False
