"""Does a call that drops run in evaluation? The code around it, and who calls that."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.functional import is_zero
from dropaudit.static.names import Kind
from dropaudit.static.source import Source, is_name, number

_ENTRIES = ("forward", "__call__")


def in_module_method(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` stands in a method of an `nn.Module` (or in a function or lambda there)."""
    facts = source.class_of(node)
    return facts is not None and facts.is_module and source.method_of(node) is not None


def self_in_scope(source: Source, node: cst.CSTNode) -> bool:
    """Whether `self` is the module at `node`: then `self.training` can be read there."""
    method = source.method_of(node)
    if method is None or not in_module_method(source, node):
        return False
    first = (*method.params.posonly_params, *method.params.params)[:1]
    if not first or first[0].name.value != "self":
        return False
    if any(is_name(d.decorator, "staticmethod") for d in method.decorators):
        return False
    found = source.scope_of(node).lookup("self")
    return found is not None and found[0].node is method and len(found[1]) == 1


def runs_in_eval(source: Source, call: cst.Call, rate: cst.CSTNode | None, depth: int = 0) -> bool:
    """Whether the code around `call` says that it runs in evaluation, with a rate above zero.

    Methods of a module do, unless every caller in the file is guarded; functions do when such a
    method reaches them. A rate that the function takes as a parameter is for its callers to
    gate: one of them must be seen to pass a rate without.
    """
    modes = source.modes
    function = source.function_of(call)
    if function is None:
        return False
    facts = source.class_of(call)
    own = source.method_of(call) if facts is not None else None
    outer = own or _outermost(source, function)
    parameter, outer = _from_caller(source, rate, function, outer)
    callers = exact_callers(source, outer)
    if parameter is not None:
        return depth < 3 and any(_passes_rate(source, c, outer, parameter, depth) for c in callers)
    if facts is not None:
        if facts.is_function or not facts.is_module:
            return False
        if outer.name.value in _ENTRIES:
            return True
        if outer.name.value == "__init__":
            return function is not outer or source.enclosing(call, cst.Lambda) is not None
        return not modes.callers_guard(outer)
    return depth < 3 and any(
        not modes.call_guarded(c) and _called_in_eval(source, c, depth) for c in callers
    )


def rate_passers(
    source: Source, call: cst.Call, rate: cst.CSTNode | None
) -> Iterator[tuple[cst.Call, cst.BaseExpression]]:
    """The calls that hand `call` a rate without a mode, where its function takes the rate."""
    function = source.function_of(call)
    if function is None:
        return
    own = source.method_of(call) if source.class_of(call) is not None else None
    parameter, outer = _from_caller(source, rate, function, own or _outermost(source, function))
    if parameter is None:
        return
    for caller in exact_callers(source, outer):
        passed = argument_for(source, caller, outer, parameter)
        if passed is not None and _passes_rate(source, caller, outer, parameter, 0):
            yield from list(rate_passers(source, caller, passed)) or [(caller, passed)]


def _from_caller(
    source: Source, rate: cst.CSTNode | None, function: cst.FunctionDef, outer: cst.FunctionDef
) -> tuple[cst.Param | None, cst.FunctionDef]:
    """The parameter that the rate comes from, and the function whose parameter it is."""
    for one in (outer, function):
        parameter = _parameter(source, rate, one)
        if parameter is not None:
            return parameter, one
    return None, outer


def _called_in_eval(source: Source, call: cst.Call, depth: int) -> bool:
    return not source.modes.on_purpose(call) and runs_in_eval(source, call, None, depth + 1)


def _passes_rate(
    source: Source, call: cst.Call, function: cst.FunctionDef, parameter: cst.Param, depth: int
) -> bool:
    passed = argument_for(source, call, function, parameter)
    if passed is None:
        if source.has_star(call) or parameter.default is None:
            return False
        passed = parameter.default
    if is_zero(source, passed) or source.modes.call_guarded(call):
        return False
    return not source.modes.on_purpose(call) and runs_in_eval(source, call, passed, depth + 1)


def exact_callers(source: Source, function: cst.FunctionDef) -> list[cst.Call]:
    """The calls in this file that can only mean `function`."""
    return [c for c in source.callers(function) if source.definition(c.func) is function]


def argument_for(
    source: Source, call: cst.Call, function: cst.FunctionDef, parameter: cst.Param
) -> cst.BaseExpression | None:
    """What `call` passes for `parameter` of `function`, None where it is left to its default."""
    positional = [*function.params.posonly_params, *function.params.params]
    at = positional.index(parameter) if parameter in positional else -1
    if at > 0 and isinstance(call.func, cst.Attribute) and not _is_static(function):
        at -= 1
    found = source.argument(call, parameter.name.value, at)
    return None if found is None else found.value


def _is_static(function: cst.FunctionDef) -> bool:
    return any(is_name(d.decorator, "staticmethod") for d in function.decorators)


def _outermost(source: Source, function: cst.FunctionDef) -> cst.FunctionDef:
    for around in source.ancestors(function):
        if isinstance(around, cst.FunctionDef):
            function = around
    return function


def _parameter(
    source: Source, rate: cst.CSTNode | None, function: cst.FunctionDef
) -> cst.Param | None:
    """The parameter of `function` that `rate` comes from, when it comes from one."""
    if rate is None:
        return None
    own = {
        *function.params.posonly_params,
        *function.params.params,
        *function.params.kwonly_params,
    }
    for origin in origins(source, rate):
        if isinstance(origin, cst.Name):
            for binding in source.bindings(origin):
                if binding.kind is Kind.PARAMETER and binding.node in own:
                    return binding.node  # type: ignore[return-value]
    return None


def only_without_rate(source: Source, node: cst.CSTNode, rate: cst.CSTNode | None) -> bool:
    """Whether `node` stands in a branch that is only taken when `rate` is zero.

    The test may be kept in a name or attribute: `self.fused = can_fuse and self.rate == 0`.
    """
    if rate is None:
        return False
    text, child = source.text(rate), node
    for around in source.ancestors(node):
        if isinstance(around, cst.FunctionDef):
            return False
        inside = isinstance(around, (cst.If, cst.IfExp)) and child is around.body
        test = around.test if inside and isinstance(around, (cst.If, cst.IfExp)) else None
        if test and any(_is_zero_test(source, p, text) for p in _parts(source, test)):
            return True
        child = around
    return False


def _parts(source: Source, test: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """What must hold for `test` to hold, through `and`, names and attributes."""
    for origin in origins(source, test):
        if isinstance(origin, cst.BooleanOperation) and isinstance(origin.operator, cst.And):
            yield from _parts(source, origin.left)
            yield from _parts(source, origin.right)
        else:
            yield origin


def _is_zero_test(source: Source, test: cst.CSTNode, rate: str) -> bool:
    match test:
        case cst.Comparison(
            left=left,
            comparisons=[cst.ComparisonTarget(operator=cst.Equal(), comparator=right)],
        ):
            return number(right) == 0 and source.text(left) == rate
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return source.text(inner) == rate
    return False
