"""Moving the construction of a module from where it is applied to the constructor of its class."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.facts import ClassFacts
from dropaudit.static.reach import self_in_scope
from dropaudit.static.source import Change, Source, number, self_attribute
from dropaudit.static.walk import descend


def built_once(call: cst.Call, source: Source) -> tuple[Change, ...]:
    """The changes that build `call` in `__init__` and use the attribute instead; none if unsure.

    Sure is: the class has a plain `__init__` that calls that of its base, every argument is a
    number, a flag or an attribute set once, on the top level of that `__init__`, and the names in
    `call.func` mean the same there.
    """
    facts = source.class_of(call)
    if facts is None or not self_in_scope(source, call) or not _imported_above(call, source):
        return ()
    init = facts.methods.get("__init__")
    if init is None or not isinstance(init.body, cst.IndentedBlock):
        return ()
    needed = []
    for arg in call.args:
        name = self_attribute(arg.value)
        if arg.star or not (name or _is_literal(arg.value)):
            return ()
        if name:
            needed.append(name)
    line = _line_after(init.body, needed, facts, source)
    if line is None:
        return ()
    name = _free_name(facts)
    newline = source.module.default_newline
    text = f"{_indent(line, source)}self.{name} = {source.text(call)}{newline}"
    return (Change(line, "after", text), Change(call, "replace", f"self.{name}"))


def _is_literal(node: cst.BaseExpression) -> bool:
    flag = isinstance(node, cst.Name) and node.value in ("True", "False")
    return flag or number(node) is not None


def _imported_above(call: cst.Call, source: Source) -> bool:
    head: cst.CSTNode = call.func
    while isinstance(head, cst.Attribute):
        head = head.value
    if not isinstance(head, cst.Name):
        return False
    found = source.scope_of(call).lookup(head.value)
    return found is None or found[0].node is source.module


def _line_after(
    body: cst.IndentedBlock, needed: list[str], facts: ClassFacts, source: Source
) -> cst.SimpleStatementLine | None:
    """The last line of `__init__` that must come before: the base's call, the attributes."""
    last, initialized = None, False
    left = set(needed)
    if any(len(facts.values(name)) != 1 for name in left):
        return None
    for line in body.body:
        if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
            continue
        statement = line.body[0]
        if isinstance(statement, cst.Expr) and _initializes(statement.value):
            last, initialized = line, True
        if isinstance(statement, (cst.Assign, cst.AnnAssign)):
            targets = (
                [t.target for t in statement.targets]
                if isinstance(statement, cst.Assign)
                else [statement.target]
            )
            names = {self_attribute(t) for t in targets} & left
            if names:
                left -= names
                last = line if initialized else last
    return last if initialized and not left and source.module.has_trailing_newline else None


def _initializes(node: cst.BaseExpression) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("__init__"))):
            return True
    return False


def _free_name(facts: ClassFacts) -> str:
    taken = {n.value for f in facts.lineage for n in descend(f.node) if isinstance(n, cst.Name)}
    names = ("dropout", *(f"dropout_{n}" for n in range(2, 1000)))
    return next(name for name in names if name not in taken)


def _indent(line: cst.SimpleStatementLine, source: Source) -> str:
    blocks = [a for a in source.ancestors(line) if isinstance(a, cst.IndentedBlock)]
    default = source.module.default_indent
    return "".join(default if b.indent is None else b.indent for b in reversed(blocks))
