"""Calls that record a model as a graph, and the models that they are given in training mode."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.functional import functional_dropout
from dropaudit.static.localmode import Mode, built_value, mode_at
from dropaudit.static.source import Source, is_name, self_attribute
from dropaudit.static.walk import descend

_TRACES = {
    "torch.jit.trace": "func",
    "torch.jit.trace_module": "mod",
    "torch.export.export": "mod",
    "torch.onnx.export": "model",
    "torch.onnx.dynamo_export": "model",
}
_GRAPHS = re.compile(r"^torch\.fx\.symbolic_trace$|^torch_geometric\..*\bto_hetero(_with_bases)?$")
FOR_TRAINING = re.compile(
    r"train(ing|able)?_?(graph|trace|traced|export|jit|step)|(export|trace|jit|graph)\w*train|qat"
    r"|quanti|benchmark|profile|flops|visuali|tensorboard",
    re.IGNORECASE,
)
_OTHER_FLOW = re.compile(r"prepare_qat|add_graph|move_exported_model_to_eval")
_LOADS = re.compile(r"(^|[._])(from_pretrained|load\w*)$")


@dataclass(frozen=True, eq=False)
class Recorded:
    """A model in training mode: the call that builds it, and the name that it goes by, if any."""

    built: cst.Call
    name: str


def recorded(source: Source, call: cst.Call) -> Recorded | None:
    """The model that `call` traces or exports, where it is in training mode and not on purpose.

    It has to be built in the same function or script.
    """
    value: cst.CSTNode | None = exported(source, call)
    variable = ""
    if isinstance(value, cst.Name):
        if mode_at(source, value, call) not in (Mode.FRESH, Mode.TRAIN):
            return None
        variable, value = value.value, built_value(source, value, call)
    if not isinstance(value, cst.Call) or _is_switched(value) or _is_loaded(source, value):
        return None
    return Recorded(value, variable)


def exported(source: Source, call: cst.Call) -> cst.BaseExpression | None:
    """What `call` traces or exports, where it should be in eval mode."""
    name = source.name_of(call.func)
    if name not in _TRACES or _is_meant(call, name, source):
        return None
    given = source.argument(call, _TRACES[name], 0)
    return None if given is None else given.value


def graphed(source: Source, call: cst.Call) -> Iterator[str]:
    """The names of what other files define and `call` turns into a graph of torch.fx."""
    if not _GRAPHS.search(source.name_of(call.func)) or not call.args:
        return
    model = call.args[0].value
    if isinstance(model, cst.Name) and mode_at(source, model, call) is Mode.EVAL:
        return
    for built in origins(source, model):
        if isinstance(built, cst.Call) and not _is_switched(built):
            name = source.name_of(built.func)
            if name and source.definition(built.func) is None:
                yield name


def constant_modes(source: Source, call: cst.Call) -> Iterator[tuple[str, cst.Call]]:
    """Functional dropouts whose mode becomes a constant: (class that is made a graph, dropout).

    torch.fx keeps the modules that it meets, but runs the rest once.
    """
    if not _GRAPHS.search(source.name_of(call.func)) or not call.args:
        return
    model = call.args[0].value
    if isinstance(model, cst.Name) and mode_at(source, model, call) is Mode.EVAL:
        return
    for built in origins(source, model):
        if not isinstance(built, cst.Call) or _is_switched(built):
            continue
        definition = source.definition(built.func)
        if not isinstance(definition, cst.ClassDef) or not source.facts(definition).is_module:
            continue
        for inner in descend(definition):
            drop = functional_dropout(source, inner) if isinstance(inner, cst.Call) else None
            if drop is not None and self_attribute(drop.training) == "training":
                yield definition.name.value, drop.call


def _is_meant(call: cst.Call, name: str, source: Source) -> bool:
    """Whether a training graph is wanted, or the export switches the mode by itself."""
    if name == "torch.onnx.export":
        dynamo = source.argument(call, "dynamo")
        if dynamo is None or not is_name(dynamo.value, "True"):
            return True
    if source.argument(call, "training") is not None:
        return True
    for node in (source.statement_of(call), source.function_of(call)):
        if isinstance(node, cst.FunctionDef) and FOR_TRAINING.search(node.name.value):
            return True
        if isinstance(node, cst.Assign) and any(
            FOR_TRAINING.search(source.text(t.target)) for t in node.targets
        ):
            return True
    if any(_OTHER_FLOW.search(called) for called in source.calls_by_name):
        return True
    return _is_trained_after(source, call)


def _is_trained_after(source: Source, call: cst.Call) -> bool:
    """Whether the first backward pass of the function or script comes after an export."""
    block = source.function_of(call) or source.module
    for node in descend(block):
        if node is call:
            passes = source.calls_by_name.get("backward", [])
            return any((source.function_of(one) or source.module) is block for one in passes)
        match node:
            case cst.Call(func=cst.Attribute(attr=cst.Name("backward"))):
                return False
    return False


def _is_switched(value: cst.Call) -> bool:
    """Whether the construction switches the mode itself: `Net().to(device).eval()`."""
    return any(
        isinstance(n, cst.Call)
        and isinstance(n.func, cst.Attribute)
        and n.func.attr.value in ("eval", "train")
        for n in descend(value)
    )


def _is_loaded(source: Source, value: cst.Call) -> bool:
    """Whether the model comes from a call that gives it in eval mode, or may."""
    return any(
        isinstance(n, cst.Call) and _LOADS.search(source.text(n.func)) for n in descend(value)
    )
