"""Operations whose output autograd keeps for backward: writing over it breaks backward.

Measured with torch 2.13: relu, tanh, sigmoid, softmax and log_softmax, exp, sqrt, and the in-place
forms of elu, selu, celu, rrelu and leaky relu. Others (gelu, silu, linear, norms, pooling ...)
keep their input.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.arguments import arguments
from dropaudit.static.constants import is_constant_true, origins
from dropaudit.static.facts import ClassFacts
from dropaudit.static.flow import reaching
from dropaudit.static.maskcallees import callee
from dropaudit.static.names import Kind
from dropaudit.static.sequences import last_of, runs_before
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

_ALWAYS = frozenset(
    ["relu", "tanh", "sigmoid", "softmax", "log_softmax", "softmin", "exp", "sqrt", "rsqrt"]
)
_IN_PLACE = frozenset(["elu", "selu", "celu", "rrelu", "leaky_relu"])
_METHODS = _ALWAYS - {"softmin"}
_MODULES = {
    "ReLU": "relu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Softmax2d": "softmax",
    "Softmin": "softmin",
    "LogSoftmax": "log_softmax",
}
_MODULES_IN_PLACE = {
    "ELU": ("elu", ("alpha", "inplace")),
    "SELU": ("selu", ("inplace",)),
    "CELU": ("celu", ("alpha", "inplace")),
    "RReLU": ("rrelu", ("lower", "upper", "inplace")),
    "LeakyReLU": ("leaky relu", ("negative_slope", "inplace")),
}
_VIEW_MODULES = frozenset(f"torch.nn.{n}" for n in ("Flatten", "Unflatten", "Identity"))
_VIEWS = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "transpose",
        "permute",
        "view_as",
        "reshape_as",
        "t",
        "swapaxes",
        "swapdims",
        "movedim",
        "expand",
        "narrow",
    ]
)


def saved_output(source: Source, node: cst.CSTNode | None, depth: int = 0) -> str:
    """The operation, if autograd keeps its output, that may have made the value `node`."""
    if node is None or depth > 6:
        return ""
    match node:
        case cst.Name(value=name):
            statement = source.statement_of(node)
            for _, value in reaching(source, name, statement):
                if found := saved_output(source, value, depth + 1):
                    return found
            return ""
        case cst.NamedExpr(value=value):
            return saved_output(source, value, depth + 1)
        case cst.IfExp(body=body, orelse=orelse):
            one = saved_output(source, body, depth + 1)
            return one or saved_output(source, orelse, depth + 1)
        case cst.Call():
            return _call(source, node, depth)
    return ""


def saved_by_module(source: Source, module: cst.CSTNode | None, depth: int = 0) -> str:
    """The same for what the module `module`, an expression that builds or names one, returns."""
    if module is None or depth > 6:
        return ""
    for origin in origins(source, module):
        if found := _one_module(source, origin, depth):
            return found
    return ""


def saved_before(source: Source, entry: cst.BaseExpression, depth: int = 0) -> str:
    """The same for what runs right before `entry` in its container, through views."""
    if depth > 3:
        return ""
    for module in runs_before(source, entry):
        if found := saved_by_module(source, module):
            return found
        built = next(iter(origins(source, module)), None)
        if not isinstance(built, cst.Call) or source.name_of(built.func) not in _VIEW_MODULES:
            continue
        if found := saved_before(source, module, depth + 1):
            return found
    return ""


def without_gradient(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` runs under `no_grad` or `inference_mode`, where nothing is kept."""
    for around in source.ancestors(node):
        calls = []
        if isinstance(around, cst.With):
            calls = [item.item for item in around.items]
        elif isinstance(around, cst.FunctionDef):
            calls = [d.decorator for d in around.decorators]
        for call in calls:
            func = call.func if isinstance(call, cst.Call) else call
            if source.name_of(func) in ("torch.no_grad", "torch.inference_mode"):
                return True
    return False


def _call(source: Source, call: cst.Call, depth: int) -> str:
    name = source.name_of(call.func)
    last = name.rsplit(".", 1)[-1]
    if name.startswith(("torch.nn.functional.", "torch.")) and name.count(".") in (1, 3):
        if last.rstrip("_") in _ALWAYS:
            return last.rstrip("_")
        if last.rstrip("_") in _IN_PLACE:
            given = arguments(source, call, ()).values.get("inplace")
            written = last.endswith("_") or (given and is_constant_true(source, given))
            return f"in-place {last.rstrip('_')}" if written else ""
        if last in _VIEWS and call.args:
            return saved_output(source, call.args[0].value, depth + 1)
    if isinstance(call.func, cst.Attribute) and not _is_imported(source, call.func.value):
        method = call.func.attr.value
        if method.rstrip("_") in _METHODS and not self_attribute(call.func):
            return method.rstrip("_")
        if method in _VIEWS:
            return saved_output(source, call.func.value, depth + 1)
    if call.args and not call.args[0].star:
        for origin in origins(source, call.func):
            if isinstance(origin, cst.Call) and source.name_of(origin.func) in _VIEW_MODULES:
                return saved_output(source, call.args[0].value, depth + 1)
            if not isinstance(origin, cst.Call):
                last = source.name_of(origin).rsplit(".", 1)[-1]
                if source.name_of(origin).startswith("torch.") and last in _ALWAYS:
                    return last
    target = callee(source, call)
    if target is not None:
        return _returns(source, target.function, depth)
    return saved_by_module(source, call.func, depth + 1)


def _one_module(source: Source, origin: cst.CSTNode, depth: int) -> str:
    if not isinstance(origin, cst.Call):
        return ""
    for name in _called(source, origin.func):
        last = name.rsplit(".", 1)[-1]
        if not name.startswith("torch.nn.") or name.count(".") != 2:
            continue
        if last in _MODULES:
            return _MODULES[last]
        if last in _MODULES_IN_PLACE:
            operation, parameters = _MODULES_IN_PLACE[last]
            given = arguments(source, origin, parameters).values.get("inplace")
            if given is not None and is_constant_true(source, given):
                return f"in-place {operation}"
        if last == "Sequential":
            return saved_by_module(source, last_of(source, origin), depth + 1)
    definition = source.definition(origin.func)
    if isinstance(definition, cst.ClassDef):
        return _class_returns(source, source.facts(definition), depth)
    return ""


def _called(source: Source, func: cst.BaseExpression) -> Iterator[str]:
    """The names `func` may stand for; of a parameter its default."""
    name = source.name_of(func)
    if name:
        yield name
        return
    for origin in origins(source, func):
        if isinstance(origin, cst.Name):
            for binding in source.bindings(origin):
                if binding.kind is Kind.PARAMETER and binding.value is not None:
                    yield source.name_of(binding.value)
        yield source.name_of(origin)


def _class_returns(source: Source, facts: ClassFacts, depth: int) -> str:
    """The operation, if every return of the class's forward keeps its output."""
    forward = facts.methods.get("forward")
    if forward is None or not facts.is_module:
        return ""
    return _returns(source, forward, depth)


def _returns(source: Source, function: cst.FunctionDef, depth: int) -> str:
    stop = (cst.FunctionDef, cst.Lambda)
    values = [n.value for n in descend(function.body, stop) if isinstance(n, cst.Return)]
    found = {saved_output(source, value, depth + 2) for value in values}
    return found.pop() if len(found) == 1 else ""


def _is_imported(source: Source, node: cst.BaseExpression) -> bool:
    while isinstance(node, cst.Attribute):
        node = node.value
    if not isinstance(node, cst.Name):
        return False
    return any(b.kind in (Kind.IMPORT, Kind.CLASS) for b in source.bindings(node))
