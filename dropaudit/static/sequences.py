"""Which module runs right before another one, in a Sequential or a list that is built in place."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.flow import preceding
from dropaudit.static.source import Source, statements

_ADDING = frozenset(["append", "add_module", "register_module"])


def runs_before(source: Source, module: cst.BaseExpression) -> Iterator[cst.BaseExpression]:
    """The expressions for the modules that may run right before `module`, an entry of a container.

    Looks at Sequential(...), lists, OrderedDict, dicts, `layers.append`, `layers += [...]`,
    `add_module`. Yields nothing where `module` comes first or the order cannot be seen.
    """
    node: cst.CSTNode = module
    parent = source.parents.get(node)
    while isinstance(parent, cst.IfExp):
        node, parent = parent, source.parents.get(parent)
    match parent:
        case cst.Arg():
            yield from _before_argument(source, parent)
        case cst.Element():
            yield from _before_element(source, parent)
        case cst.DictElement():
            entries = source.parents[parent]
            if isinstance(entries, cst.Dict):
                at = entries.elements.index(parent)
                if at and isinstance(entries.elements[at - 1], cst.DictElement):
                    yield entries.elements[at - 1].value


def last_of(source: Source, container: cst.BaseExpression) -> cst.BaseExpression | None:
    """The last entry of a list, tuple of pairs, Sequential or OrderedDict that is written down."""
    match container:
        case cst.List(elements=[*_, last]) if isinstance(last, cst.Element):
            return _entry(last.value)
        case cst.Dict(elements=[*_, cst.DictElement(value=value)]):
            return value
        case cst.Call(func=func, args=[*_, last]) if not last.star:
            name = source.name_of(func).rsplit(".", 1)[-1]
            if name in ("Sequential", "OrderedDict", "list"):
                return last_of(source, last.value) or last.value
    return None


def _before_argument(source: Source, arg: cst.Arg) -> Iterator[cst.BaseExpression]:
    call = source.parents[arg]
    if not isinstance(call, cst.Call):
        return
    if isinstance(call.func, cst.Attribute) and call.func.attr.value in _ADDING:
        if call.func.attr.value != "append" and not _is_ordered(source, call.func.value):
            return
        yield from _before_addition(source, call, source.text(call.func.value))
        return
    name = source.name_of(call.func) or source.text(call.func)
    if not name.endswith(("Sequential", "OrderedDict")) and not _is_super_sequential(source, call):
        return
    at = call.args.index(arg)
    if at and not call.args[at - 1].star:
        yield call.args[at - 1].value


def _before_element(source: Source, element: cst.Element) -> Iterator[cst.BaseExpression]:
    entries = source.parents[element]
    if isinstance(entries, cst.Tuple):
        match entries.elements:
            case [cst.Element(value=cst.SimpleString() | cst.FormattedString()), second]:
                above = source.parents[entries]
                if second is element and isinstance(above, cst.Element):
                    yield from _before_element(source, above)
        return
    if not isinstance(entries, cst.List):
        return
    at = entries.elements.index(element)
    if at:
        previous = entries.elements[at - 1]
        if isinstance(previous, cst.Element):
            yield _entry(previous.value)
        return
    node: cst.CSTNode = entries
    parent = source.parents[node]
    while isinstance(parent, cst.IfExp):
        node, parent = parent, source.parents[parent]
    match parent:
        case cst.AugAssign(target=target, operator=cst.AddAssign()):
            yield from _before_addition(source, parent, source.text(target))
        case cst.Arg():
            call = source.parents[parent]
            match call:
                case cst.Call(func=cst.Attribute(value=receiver, attr=cst.Name(value="extend"))):
                    yield from _before_addition(source, call, source.text(receiver))
                case cst.Call(args=args) if parent.star == "*":
                    at = args.index(parent)
                    if at and not args[at - 1].star:
                        yield args[at - 1].value


def _before_addition(
    source: Source, addition: cst.CSTNode, receiver: str
) -> Iterator[cst.BaseExpression]:
    for statement in preceding(source, source.statement_of(addition)):
        found, sure = _last_added(source, statement, receiver)
        yield from found
        if sure:
            return


def _last_added(
    source: Source, statement: cst.CSTNode, receiver: str
) -> tuple[list[cst.BaseExpression], bool]:
    """What `statement` may leave as the last entry of `receiver`, and whether it surely does."""
    match statement:
        case cst.Expr(
            value=cst.Call(func=cst.Attribute(value=to, attr=cst.Name(value=verb))) as call
        ):
            if source.text(to) != receiver:
                return [], False
            if verb in _ADDING and call.args:
                return [_entry(call.args[-1].value)], True
            if verb == "extend" and call.args:
                last = last_of(source, call.args[0].value)
                return ([] if last is None else [last]), True
        case cst.AugAssign(target=to, value=value) if source.text(to) == receiver:
            last = last_of(source, value)
            return ([] if last is None else [last]), True
        case cst.Assign(targets=[target], value=value) if source.text(target.target) == receiver:
            if isinstance(value, cst.BinaryOperation):
                value = value.right
            last = last_of(source, value)
            return ([] if last is None else [last]), True
        case cst.If(orelse=orelse):
            one = _last_in(source, statement, receiver)
            other = ([], False) if orelse is None else _last_added(source, orelse, receiver)
            return [*one[0], *other[0]], one[1] and other[1]
        case cst.Else() | cst.With():
            return _last_in(source, statement, receiver)
        case cst.For() | cst.While():
            return _last_in(source, statement, receiver)[0], False
    return [], False


def _last_in(
    source: Source, block: cst.CSTNode, receiver: str
) -> tuple[list[cst.BaseExpression], bool]:
    found: list[cst.BaseExpression] = []
    for statement in reversed(statements(block)):
        more, sure = _last_added(source, statement, receiver)
        found.extend(more)
        if sure:
            return found, True
    return found, False


def _entry(value: cst.BaseExpression) -> cst.BaseExpression:
    """The module of a ("name", module) pair, else `value` itself."""
    match value:
        case cst.Tuple(elements=[cst.Element(value=cst.SimpleString()), cst.Element(value=module)]):
            return module
    return value


def _is_ordered(source: Source, receiver: cst.BaseExpression) -> bool:
    """Whether modules added to `receiver` run in that order: not so for an ordinary `self`."""
    if not (isinstance(receiver, cst.Name) and receiver.value == "self"):
        return True
    return _in_sequential(source, receiver)


def _is_super_sequential(source: Source, call: cst.Call) -> bool:
    match call.func:
        case cst.Attribute(
            value=cst.Call(func=cst.Name(value="super")), attr=cst.Name(value="__init__")
        ):
            return _in_sequential(source, call)
    return False


def _in_sequential(source: Source, node: cst.CSTNode) -> bool:
    facts = source.class_of(node)
    return facts is not None and any(b.endswith("Sequential") for b in facts.foreign_bases)


def is_in_order(source: Source, module: cst.BaseExpression) -> bool:
    """Whether `module` is built into a Sequential, directly or through a list that is starred."""
    for around in source.ancestors(module):
        match around:
            case cst.Call(func=cst.Attribute(value=receiver, attr=cst.Name(value=verb))) if (
                verb in (*_ADDING, "extend")
            ):
                return _is_starred(source, receiver)
            case cst.Call(func=func):
                name = source.name_of(func) or source.text(func)
                if name.rsplit(".", 1)[-1] not in ("OrderedDict", "dict", "list"):
                    return name.endswith("Sequential") or _is_super_sequential(source, around)
            case cst.AugAssign(target=target):
                return _is_starred(source, target)
            case cst.Assign(targets=[one]):
                return _is_starred(source, one.target)
            case cst.BaseStatement() | cst.BaseSmallStatement() | cst.Lambda():
                return False
    return False


def _is_starred(source: Source, receiver: cst.BaseExpression) -> bool:
    """Whether the function around makes a Sequential of all that `receiver` holds."""
    text, function = source.text(receiver), source.function_of(receiver)
    return any(
        arg.star == "*" and source.text(arg.value) == text
        for call in source.calls_by_name.get("Sequential", [])
        if source.function_of(call) is function
        for arg in call.args
    )
