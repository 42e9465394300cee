"""Which function of this file a call runs, and what it hands over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.names import Kind
from dropaudit.static.source import Source, self_attribute
from dropaudit.static.walk import descend

_INNER = (cst.FunctionDef, cst.ClassDef, cst.Lambda)
_PARTIAL = "functools.partial"


@dataclass(frozen=True, eq=False)
class Callee:
    """A function that a call surely runs, and the expressions that its parameters get."""

    function: cst.FunctionDef
    given: dict[str, cst.BaseExpression]
    complete: bool  # no argument is hidden in `*args` or `**options`
    on_self: bool  # a method, called on `self`


def callee(source: Source, call: cst.Call) -> Callee | None:
    """The function of this file that `call` runs, through `functools.partial`."""
    key = ("callee", id(call))
    if key not in source.memo:
        source.memo[key] = _callee(source, call)
    found: Callee | None = source.memo[key]
    return found


def property_of(source: Source, node: cst.CSTNode) -> cst.FunctionDef | None:
    """The property of the class that `self.name` reads."""
    name = self_attribute(node)
    facts = source.class_of(node) if name else None
    method = facts.method(name) if facts is not None else None
    if method is None or not _is_decorated(method, ("property", "cached_property")):
        return None
    return method


def _callee(source: Source, call: cst.Call) -> Callee | None:
    bound: list[cst.Call] = []
    func: cst.BaseExpression | None = call.func
    for _ in range(3):
        function = _definition(source, func)
        if function is not None:
            return _bound(source, call, function, bound, bool(self_attribute(func)))
        partial = _partial(source, func)
        if partial is None:
            return None
        bound.insert(0, partial)
        func = partial.args[0].value
    return None


def _definition(source: Source, func: cst.CSTNode | None) -> cst.FunctionDef | None:
    found: cst.CSTNode | None = source.definition(func)
    if found is None and isinstance(func, cst.Attribute):  # Class.method, for static methods
        owner = source.definition(func.value)
        if isinstance(owner, cst.ClassDef):
            method = source.facts(owner).method(func.attr.value)
            found = method if method and _is_decorated(method, ("staticmethod",)) else None
    if not isinstance(found, cst.FunctionDef) or found.asynchronous is not None:
        return None
    facts = source.class_of(func) if func is not None and self_attribute(func) else None
    if facts is not None and any(found.name.value in f.methods for f in facts.subclasses):
        return None  # which of them runs is for the instance to say
    if _is_decorated(found, ("property", "cached_property", "overload", "abstractmethod")):
        return None
    if any(isinstance(n, cst.Yield) for n in descend(found.body, _INNER)):
        return None
    return found


def _partial(source: Source, func: cst.CSTNode | None) -> cst.Call | None:
    """The one `partial(function, ...)` that `func` is, by a name or an attribute of self."""
    values: list[cst.BaseExpression | None] = []
    if isinstance(func, cst.Name):
        values = [b.value for b in source.bindings(func) if b.kind is Kind.ASSIGNMENT]
        if len(values) != len(source.bindings(func)):
            return None
    elif self_attribute(func) and func is not None:
        facts = source.class_of(func)
        values = list(facts.values(self_attribute(func))) if facts is not None else []
    elif isinstance(func, cst.Call):
        values = [func]
    if len(values) != 1 or not isinstance(values[0], cst.Call) or not values[0].args:
        return None
    return values[0] if source.name_of(values[0].func) == _PARTIAL else None


def _bound(
    source: Source,
    call: cst.Call,
    function: cst.FunctionDef,
    partials: list[cst.Call],
    on_self: bool,
) -> Callee:
    params = [*function.params.posonly_params, *function.params.params]
    static = _is_decorated(function, ("staticmethod",))
    around = source.enclosing(function, (cst.ClassDef, cst.FunctionDef))
    if isinstance(around, cst.ClassDef) and not static:
        params = params[1:]
    names = [p.name.value for p in params]
    given: dict[str, cst.BaseExpression] = {}
    complete, position = True, 0
    args = [a for one in partials for a in one.args[1:]] + list(call.args)
    for arg in args:
        if arg.star == "**":
            found = dict(_entries(source, arg.value))
            complete = complete and bool(found)
            given.update(found)
        elif arg.star:
            complete, position = False, len(names)
        elif arg.keyword is not None:
            given[arg.keyword.value] = arg.value
        elif position < len(names):
            given[names[position]] = arg.value
            position += 1
    return Callee(function, given, complete, on_self and not static)


def _entries(source: Source, options: cst.CSTNode) -> Iterator[tuple[str, cst.BaseExpression]]:
    """The entries of `dict(p=p)` or `{"p": p}`, written there or under a name bound once."""
    if isinstance(options, cst.Name):
        bindings = source.bindings(options)
        if len(bindings) != 1 or bindings[0].kind is not Kind.ASSIGNMENT:
            return
        options = bindings[0].value or options
    match options:
        case cst.Dict(elements=elements):
            for element in elements:
                if isinstance(element, cst.DictElement) and isinstance(
                    element.key, cst.SimpleString
                ):
                    yield str(element.key.evaluated_value), element.value
        case cst.Call(func=cst.Name(value="dict"), args=args):
            for arg in args:
                if arg.keyword is not None:
                    yield arg.keyword.value, arg.value


def _is_decorated(function: cst.FunctionDef, names: tuple[str, ...]) -> bool:
    for decorator in function.decorators:
        match decorator.decorator:
            case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)) if name in names:
                return True
    return False
