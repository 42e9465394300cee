"""Edits that give a mask its scale, turn it round, or switch it off in evaluation."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.maskcallees import callee
from dropaudit.static.maskmodes import mode_parameter
from dropaudit.static.maskuses import DropoutUse, Use
from dropaudit.static.source import Change, Source
from dropaudit.static.walk import descend

_TURNED = {
    cst.LessThan: ">",
    cst.LessThanEqual: ">",
    cst.GreaterThan: "<",
    cst.GreaterThanEqual: "<",
}


def divided(source: Source, use: Use) -> tuple[Change, ...]:
    """Divide by the keep probability, where it has a name and the product can be divided."""
    node, keep = use.node, use.keep_text
    if not keep or not use.in_reach:
        return ()
    match node:
        case cst.BinaryOperation():
            text = source.text(node.with_changes(lpar=(), rpar=()))
            return (Change(node, "replace", f"{text} / {keep}"),)
        case cst.AugAssign(value=value):
            text = source.text(value)
            if not isinstance(value, (cst.Name, cst.Attribute, cst.Call)) and not value.lpar:
                text = f"({text})"
            return (Change(value, "replace", f"{text} / {keep}"),)
        case cst.Call(func=cst.Attribute(attr=cst.Name(value="mul_" | "masked_fill_"))):
            divisor = keep[1:-1] if keep.startswith("(") else keep
            return (Change(node, "after", f".div_({divisor})"),)
        case cst.Call():
            parent = source.parents[node]
            plain = (cst.Return, cst.Assign, cst.Arg, cst.AnnAssign, cst.Element)
            if isinstance(parent, plain) or (
                isinstance(parent, cst.BinaryOperation)
                and isinstance(parent.operator, (cst.Add, cst.Subtract))
            ):
                return (Change(node, "after", f" / {keep}"),)
    return ()


def rescaled(source: Source, use: Use, what: str, node: cst.CSTNode) -> tuple[Change, ...]:
    """Put the right scale in place of the wrong one, `what` as `verdict` calls it, at `node`."""
    if what == "twice":
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.Divide):
            return (Change(node, "replace", source.text(node.left)),)
        return ()
    if not use.keep_text or not use.in_reach:
        return ()
    if source.function_of(node) is not source.function_of(use.node):
        return ()
    right = _right(node)
    if right is None:
        return ()
    divides = _divides(node)
    if what == "drop":
        return _divisor(source, right, use.keep_text) if divides else ()
    if divides:
        return ()
    if what == "keep" and source.text(right).strip("()") == use.keep_text.strip("()"):
        return _into_division(node)
    if what == "dropped":
        turned = _into_division(node)
        return (*turned, *_divisor(source, right, use.keep_text)) if turned else ()
    return ()


def turned(source: Source, found: DropoutUse) -> tuple[Change, ...]:
    """Keep what was dropped: turn the comparison, or draw with the other probability."""
    use = found.use
    if use.via is not None or sum(u.draw is use.draw for u in found.masks.uses) != 1:
        return ()
    for around in source.ancestors(use.draw):
        if isinstance(around, cst.Comparison) and len(around.comparisons) == 1:
            operator = around.comparisons[0].operator
            text = _TURNED.get(type(operator))
            return (Change(operator, "replace", text),) if text else ()
        if not isinstance(around, (cst.Call, cst.Attribute, cst.Arg)):
            break
    name = use.keep_text
    if not re.fullmatch(r"[\w.]+", name):
        return ()
    same = [
        n
        for n in descend(use.draw)
        if isinstance(n, (cst.Name, cst.Attribute)) and source.text(n) == name
    ]
    if len(same) == 1 and isinstance(source.parents[same[0]], cst.Arg):
        return (Change(same[0], "replace", f"1 - {name}"),)
    return ()


def gated(source: Source, node: cst.CSTNode, use: Use | None) -> tuple[Change, ...]:
    """Ask `self.training` first: in the call of a helper, or before the mask is drawn."""
    if isinstance(node, cst.Call) and (changes := _told(source, node)):
        return changes
    function = source.function_of(node)
    if function is None or use is None or not isinstance(use.data, cst.Name):
        return ()
    leaves: cst.SimpleStatementLine | None = source.enclosing(node, cst.SimpleStatementLine)
    last: cst.SimpleStatementLine | None = source.enclosing(use.node, cst.SimpleStatementLine)
    body = function.body
    if leaves is None or last is None or source.parents.get(leaves) is not body:
        return ()
    if not isinstance(body, cst.IndentedBlock) or body.body[-1] is not last:
        return ()
    if len(last.body) != 1 or len(leaves.body) != 1:
        return ()
    ending = last.body[-1]
    if not isinstance(ending, cst.Return) or not _is_product(ending.value, use):
        return ()
    bindings = source.bindings(use.data)
    if len(bindings) != 1 or not isinstance(bindings[0].node, cst.Param):
        return ()
    indent, step = _indent(source, leaves), source.module.default_indent
    newline = source.module.default_newline
    text = f"{indent}if not self.training:{newline}{indent}{step}return {use.data.value}{newline}"
    return (Change(leaves, "before", text),)


def _is_product(returned: cst.CSTNode | None, use: Use) -> bool:
    """Whether what is returned is the product with the mask, perhaps scaled."""
    while returned is not None and returned is not use.node:
        match returned:
            case cst.BinaryOperation(
                left=left, operator=cst.Multiply() | cst.Divide(), right=right
            ):
                inside = any(n is use.node for n in descend(left))
                returned = left if inside else right
            case _:
                return False
    return returned is not None


def _told(source: Source, call: cst.Call) -> tuple[Change, ...]:
    """`training=self.training` for a helper that takes the mode and was not told."""
    target = callee(source, call)
    mode = mode_parameter(target.function) if target is not None else None
    if target is None or mode is None or mode[0] in target.given or not call.args:
        return ()
    if not re.fullmatch(r"(is_)?training|train", mode[0]):
        return ()
    return (Change(call.args[-1].value, "after", f", {mode[0]}=self.training"),)


def _right(node: cst.CSTNode) -> cst.BaseExpression | None:
    match node:
        case cst.BinaryOperation(right=right):
            return right
        case cst.AugAssign(value=value):
            return value
        case cst.Call(func=cst.Attribute(), args=[*_, cst.Arg(value=value)]):
            return value
    return None


def _divides(node: cst.CSTNode) -> bool:
    match node:
        case cst.BinaryOperation(operator=operator) | cst.AugAssign(operator=operator):
            return isinstance(operator, (cst.Divide, cst.DivideAssign))
        case cst.Call(func=cst.Attribute(attr=cst.Name(value=name))):
            return name.startswith("div")
    return False


def _divisor(source: Source, node: cst.BaseExpression, keep: str) -> tuple[Change, ...]:
    held = isinstance(source.parents[node], cst.Arg) or bool(getattr(node, "lpar", ()))
    bare = keep.startswith("(") and held
    return (Change(node, "replace", keep[1:-1] if bare else keep),)


def _into_division(node: cst.CSTNode) -> tuple[Change, ...]:
    match node:
        case cst.BinaryOperation(operator=cst.Multiply() as operator):
            return (Change(operator, "replace", "/"),)
        case cst.AugAssign(operator=cst.MultiplyAssign() as operator):
            return (Change(operator, "replace", "/="),)
        case cst.Call(func=cst.Attribute(attr=cst.Name(value="mul" | "mul_") as name)):
            return (Change(name, "replace", name.value.replace("mul", "div")),)
    return ()


def _indent(source: Source, line: cst.CSTNode) -> str:
    blocks = [a for a in source.ancestors(line) if isinstance(a, cst.IndentedBlock)]
    default = source.module.default_indent
    return "".join(default if b.indent is None else b.indent for b in reversed(blocks))
