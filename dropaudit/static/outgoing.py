"""Calls of functions that another file may define: what they go by, and what they pass.

A check that needs to know such a function makes a claim; `about` is what it says of the call, and
`program.answering` finds the function.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from dropaudit.static.constants import origins
from dropaudit.static.functional import is_zero
from dropaudit.static.names import Kind, dotted_text
from dropaudit.static.purpose import MODE_WORD
from dropaudit.static.reach import runs_in_eval
from dropaudit.static.scalars import RATE
from dropaudit.static.source import Source, self_attribute

_PARTIAL = ("functools.partial", "partial")
_NOT_OURS = re.compile(r"^(torch|numpy|math|random|os|re|time|functools|itertools|copy)(\.|$)")
_DROP = re.compile(r"drop", re.IGNORECASE)


def outgoing_call(source: Source, call: cst.Call) -> tuple[str, ...]:
    """What a claim says of a call: how its function is named, the name, and the arguments.

    Empty where the function is torch's, where some arguments cannot be seen, where the code around
    hears of the mode, drops on purpose or is a test, and in files that have no word of drops.
    """
    key = ("outgoing", id(call))
    if key not in source.memo:
        source.memo[key] = _described(source, call) if _matters(source, call) else ()
    found: tuple[str, ...] = source.memo[key]
    return found


def built_class(source: Source, call: cst.Call) -> tuple[str, ...]:
    """What a claim says of a call that builds something of a class of another file."""
    named = _named(source, call.func)
    last = dotted_text(call.func).rpartition(".")[2].lstrip("_")
    if not named or not last[:1].isupper() or source.definition(call.func) is not None:
        return ()
    plain = [arg for arg in call.args if not arg.star]
    return (*named, *_passed(source, plain))


def rates(source: Source, call: cst.Call) -> list[tuple[str, cst.BaseExpression]]:
    """The arguments that may be a rate (numbers, and what is called one) by keyword or position."""
    return [(key, arg.value) for key, arg in _keyed(call.args) if _may_be_rate(source, arg)]


def runs_with_its_rates(source: Source, call: cst.Call) -> bool:
    """Whether the code around `call` runs in evaluation, and its rates are above zero there."""
    given = [rate for _, rate in rates(source, call) if not is_zero(source, rate)]
    if not given:
        return runs_in_eval(source, call, None)
    return all(runs_in_eval(source, call, one) for one in given)


def qualified(source: Source, node: cst.FunctionDef | cst.ClassDef) -> str:
    """The name with the classes and functions around it: `Net.forward`."""
    around = (a for a in source.ancestors(node) if isinstance(a, (cst.FunctionDef, cst.ClassDef)))
    return ".".join(reversed([node.name.value, *(one.name.value for one in around)]))


def _matters(source: Source, call: cst.Call) -> bool:
    if source.function_of(call) is None or not _speaks_of_drops(source):
        return False
    builtin = isinstance(call.func, cst.Name) and not source.bindings(call.func)
    if builtin and not source.scopes[source.module].stars:
        return False
    facts = source.class_of(call)
    if facts is not None and (facts.is_function or not facts.is_module):
        return False
    return bool(_described(source, call)) and not (
        _hears(source, call) or source.modes.on_purpose(call) or source.modes.in_test(call)
    )


def _hears(source: Source, call: cst.Call) -> bool:
    """As `Modes.call_guarded`, but a tensor that was dropped before is no word of the mode."""
    modes = source.modes
    telling = (a.value for a in call.args if not _is_tensor(a.value))
    if modes.guards(call) or any(modes.decides(one) for one in telling):
        return True
    around = source.function_of(call)
    return around is not None and modes.callers_guard(around, 1)


def _is_tensor(value: cst.CSTNode) -> bool:
    match value:
        case cst.Name(value=name):
            return not (RATE.search(name) or MODE_WORD.match(name) or "mask" in name)
        case cst.BinaryOperation(left=left, right=right):
            return _is_tensor(left) or _is_tensor(right)
        case cst.Call(func=cst.Name(value="int" | "float" | "bool" | "max" | "min")):
            return False
        case cst.Call(args=args):
            return any(_is_tensor(arg.value) for arg in args)
    return False


def _speaks_of_drops(source: Source) -> bool:
    """Whether any name of the file says "drop": files without are not searched for wrappers."""
    if _speaks_of_drops not in source.memo:
        names = source.nodes[cst.Name]
        source.memo[_speaks_of_drops] = any(_DROP.search(one.value) for one in names)
    found: bool = source.memo[_speaks_of_drops]
    return found


def _described(source: Source, call: cst.Call) -> tuple[str, ...]:
    if source.has_star(call):
        return ()
    bound: list[cst.Arg] = []
    func: cst.BaseExpression = call.func
    for _ in range(3):
        named = _named(source, func)
        if named:
            return (*named, *_passed(source, [*bound, *call.args]))
        held = [one for one in origins(source, func) if one is not func]
        if len(held) != 1:
            return ()
        (one,) = held
        if isinstance(one, cst.Call) and one.args and source.name_of(one.func) in _PARTIAL:
            if source.has_star(one):
                return ()
            bound = [*one.args[1:], *bound]
            func = one.args[0].value
        elif isinstance(one, (cst.Name, cst.Attribute)):
            func = one
        else:
            named = _forward(source, call, one)
            return (*named, *_passed(source, call.args)) if named and not bound else ()
    return ()


def _named(source: Source, func: cst.BaseExpression) -> tuple[str, str] | tuple[()]:
    """How the program side can find what `func` names, if it is a function at all."""
    name = self_attribute(func)
    if name:
        facts = source.class_of(func)
        if facts is None or facts.values(name):
            return ()
        method = facts.method(name)
        if method is not None:
            return ("written", qualified(source, method))
        return ("method", f"{qualified(source, facts.node)}.{name}") if facts.base_names else ()
    written = dotted_text(func)
    if not written or _NOT_OURS.match(source.name_of(func)):
        return ()
    head = func
    while isinstance(head, cst.Attribute):
        head = head.value
    found = source.scope_of(head).lookup(written.partition(".")[0])
    if found is None:
        return ("written", written) if source.scopes[source.module].stars else ()
    scope, bindings = found
    if scope.node is source.module:
        made = [b for b in bindings if b.kind is Kind.ASSIGNMENT]
        return ("written", written) if len(made) < 2 else ()
    if all(b.kind is Kind.IMPORT for b in bindings):
        return ("imported", source.name_of(func))
    return ()


def _forward(source: Source, call: cst.Call, built: cst.CSTNode) -> tuple[str, str] | tuple[()]:
    """The class whose `forward` runs when `self.name`, which was `built` so, is called."""
    if not isinstance(built, cst.Call) or not self_attribute(call.func):
        return ()
    named = _named(source, built.func)
    is_class = dotted_text(built.func).rpartition(".")[2].lstrip("_")[:1].isupper()
    return ("forward", named[1]) if named and named[0] == "written" and is_class else ()


def _passed(source: Source, args: Sequence[cst.Arg]) -> tuple[str, str, str]:
    names = [arg.keyword.value for arg in args if arg.keyword is not None]
    zeros = [key for key, arg in _keyed(args) if is_zero(source, arg.value)]
    return str(len(args) - len(names)), ",".join(names), ",".join(zeros)


def _keyed(args: Sequence[cst.Arg]) -> Iterator[tuple[str, cst.Arg]]:
    """Arguments with their keyword, or their position as text."""
    count = 0
    for arg in args:
        if arg.keyword is not None:
            yield arg.keyword.value, arg
        else:
            yield str(count), arg
            count += 1


def _may_be_rate(source: Source, arg: cst.Arg) -> bool:
    if arg.keyword is not None and _DROP.search(arg.keyword.value):
        return True
    for one in _texts(source, arg.value):
        if RATE.search(one):
            return True
    return isinstance(arg.value, cst.Float)


def _texts(source: Source, value: cst.BaseExpression) -> Iterator[str]:
    if isinstance(value, (cst.Name, cst.Attribute)):
        yield dotted_text(value)
    elif isinstance(value, cst.IfExp):
        yield from _texts(source, value.body)
        yield from _texts(source, value.orelse)
