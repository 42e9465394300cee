"""From the bytes of a file to its facts, by Python's own parser: a tenth of the time of libcst.

No position is edited here and no comment is kept, so the plain tree is enough. What this Python
cannot parse raises `SyntaxError`, also where libcst can.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any

from dropaudit.static.program.code import (
    Argument,
    Assign,
    Attribute,
    Call,
    Choice,
    Compare,
    Constant,
    Define,
    Do,
    Each,
    Element,
    Expression,
    If,
    Import,
    Inner,
    Leave,
    Loop,
    Mix,
    Name,
    Not,
    Return,
    Several,
    Span,
    Statement,
    Top,
    Try,
    With,
    called_names,
    packed,
)
from dropaudit.static.program.facts import (
    ClassFacts,
    FileFacts,
    FunctionFacts,
    Held,
    Parameter,
)

_WORDS = re.compile(rb"torch|model|\bnn\b|[Mm]odule|\.eval\(|backward|^\s*(from|import)\s+\.", re.M)
_SHORT = 4096  # bytes of a file that may do nothing but pass names on
_LONGEST_TEXT = 80
_MOST_ITEMS = 24
_NOTHING = Mix(())
_OPERATORS: dict[type[ast.cmpop], str] = {
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


def may_hold_facts(data: bytes) -> bool:
    """Whether a file can have facts; those of any other are empty."""
    return _WORDS.search(data) is not None or (len(data) < _SHORT and b"import" in data)


def read_facts(data: bytes) -> FileFacts:
    """The facts of a file. Raises `SyntaxError` or `ValueError` for what Python cannot parse.

    >>> facts = read_facts(b"from torch import nn\\nclass Net(nn.Module):\\n    pass\\n")
    >>> facts.classes[0].bases
    ('nn.Module',)
    """
    if not may_hold_facts(data):
        return FileFacts()  # a table, a parser, a test of something else: no model passes here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(data)
    return _Reader(data).file(tree)


class _Reader:
    """Collects the classes and functions of one file while it converts their bodies."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.splitlines()
        ends = map(len, data.splitlines(keepends=True))
        self._starts = [0, *accumulate(ends)]
        self._plain = b"\r" not in data
        self._inner: dict[str, None] = {}
        self._classes: list[ClassFacts] = []
        self._functions: list[FunctionFacts] = []

    def file(self, tree: ast.Module) -> FileFacts:
        imports, stars = _imports(tree)
        body = self._block(tree.body, "")
        where = Span(1, 1, max(len(self._lines), 1), 1)
        assigned = _assigned(_own_nodes(tree.body))
        calls = called_names(body)
        self._functions.append(FunctionFacts("", (), (), calls, assigned, (), packed(body), where))
        return FileFacts(
            imports,
            stars,
            _exports(tree),
            tuple(self._classes),
            tuple(self._functions),
            any(_is_main(one) for one in tree.body),
            tuple(self._inner),
        )

    # -- definitions -----------------------------------------------------------------------

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef, around: str) -> Define:
        self._function(node, around, node.body, is_method=False)
        return Define(node.name, _below(around, node.name), False)

    def _function(
        self,
        node: ast.FunctionDef | ast.AsyncFunctionDef,
        around: str,
        statements: Sequence[ast.stmt],
        *,
        is_method: bool,
    ) -> None:
        qualified = _below(around, node.name)
        body = self._block(statements, qualified)
        elsewhere, generator = [], False
        own = tuple(_own_nodes(statements))
        for one in own:
            if isinstance(one, (ast.Global, ast.Nonlocal)):
                elsewhere.extend(one.names)
            generator = generator or isinstance(one, (ast.Yield, ast.YieldFrom))
        facts = FunctionFacts(
            qualified,
            self._parameters(node.args, around),
            tuple(map(_decorator, node.decorator_list)),
            called_names(body),
            _assigned(own),
            tuple(elsewhere),
            packed(body),
            self._span(node),
            is_method,
            generator,
            self._top(statements, node.lineno),
        )
        self._functions.append(facts)

    def _lambda(self, node: ast.Lambda, around: str) -> Inner:
        qualified = _below(around, f"<lambda {node.lineno}:{node.col_offset}>")
        body = (Return(self._value(node.body, qualified), node.lineno),)
        facts = FunctionFacts(
            qualified,
            self._parameters(node.args, around),
            (),
            called_names(body),
            (),
            (),
            packed(body),
            self._span(node),
        )
        self._functions.append(facts)
        return Inner(qualified)

    def _parameters(self, args: ast.arguments, around: str) -> tuple[Parameter, ...]:
        plain = [*args.posonlyargs, *args.args]
        missing: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults))
        found = [
            Parameter(one.arg, None if default is None else self._value(default, around))
            for one, default in zip(plain, [*missing, *args.defaults], strict=True)
        ]
        if args.vararg is not None:
            found.append(Parameter("*" + args.vararg.arg))
        for one, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
            value = None if default is None else self._value(default, around)
            found.append(Parameter(one.arg, value, True))
        if args.kwarg is not None:
            found.append(Parameter("**" + args.kwarg.arg))
        return tuple(found)

    def _class(self, node: ast.ClassDef, around: str) -> Define:
        qualified = _below(around, node.name)
        held: list[Held] = []
        methods: list[str] = []
        fields: list[str] = []
        for one in _class_body(node.body):
            match one:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    methods.append(one.name)
                    self._function(one, qualified, one.body, is_method=True)
                    held.extend(self._held(one, qualified))
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    held.append(Held(name, self._value(value, qualified), "", one.lineno))
                case ast.AnnAssign(target=ast.Name(id=name), value=value):
                    fields.append(name)
                    if value is not None:
                        held.append(Held(name, self._value(value, qualified), "", one.lineno))
                case ast.ClassDef():
                    self._class(one, qualified)
        reads, dynamic = _reads(node)
        facts = ClassFacts(
            qualified,
            tuple(_dotted_or_text(base) for base in node.bases),
            tuple(k.arg for k in node.keywords if k.arg),
            tuple(map(_decorator, node.decorator_list)),
            tuple(held),
            tuple(dict.fromkeys(methods)),
            reads,
            dynamic,
            self._span(node),
            tuple(fields),
        )
        self._classes.append(facts)
        return Define(node.name, qualified, True)

    def _held(self, method: ast.FunctionDef | ast.AsyncFunctionDef, around: str) -> Iterator[Held]:
        first = next(iter((*method.args.posonlyargs, *method.args.args)), None)
        if first is None:
            return
        inside = _below(around, method.name)
        for node in _own_nodes(method.body):
            match node:
                case ast.Assign(targets=targets, value=value):
                    pass
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    targets = [target]
                case _:
                    continue
            for to in targets:
                match to:
                    case ast.Attribute(value=ast.Name(id=first.arg), attr=name):
                        yield Held(name, self._bare(value, inside), method.name, node.lineno)
                    case ast.Tuple(elts=each) | ast.List(elts=each):
                        for one in each:
                            match one:
                                case ast.Attribute(value=ast.Name(id=first.arg), attr=name):
                                    yield Held(name, _NOTHING, method.name, node.lineno)

    def _bare(self, value: ast.expr, around: str) -> Expression:
        """A value converted a second time: the lambdas in it are known already."""
        known = len(self._functions)
        converted = self._value(value, around)
        del self._functions[known:]
        return converted

    # -- statements ------------------------------------------------------------------------

    def _block(self, statements: Sequence[ast.stmt], around: str) -> tuple[Statement, ...]:
        return tuple(chain.from_iterable(self._statement(one, around) for one in statements))

    def _statement(self, node: Any, around: str) -> Iterator[Statement]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield self._define(node, around)
            case ast.ClassDef():
                yield self._class(node, around)
            case ast.Assign(targets=targets, value=value):
                yield Assign(
                    tuple(self._target(one, around) for one in targets),
                    self._value(value, around),
                    node.lineno,
                )
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                one = self._target(target, around)
                yield Assign((one,), self._value(value, around), node.lineno)
            case ast.AugAssign(target=ast.Name() | ast.Attribute() as target, value=value):
                one = self._value(target, around)
                yield Assign((one,), Mix((one, self._value(value, around))), node.lineno)
            case ast.Expr(value=value) | ast.AugAssign(value=value):
                inside = self._value(value, around)
                if inside != _NOTHING and not isinstance(inside, (Constant, Name)):
                    yield Do(inside, node.lineno)
            case ast.Return(value=value):
                result = None if value is None else self._value(value, around)
                yield Return(result, node.lineno)
            case ast.If(test=test, body=body, orelse=orelse):
                yield If(
                    self._value(test, around),
                    self._text(test),
                    self._block(body, around),
                    self._block(orelse, around),
                    node.lineno,
                )
            case ast.For() | ast.AsyncFor():
                yield Loop(
                    self._target(node.target, around),
                    self._value(node.iter, around),
                    self._block(node.body, around),
                    self._block(node.orelse, around),
                    node.lineno,
                    self._top(node.body, node.lineno),
                )
            case ast.While(test=test, body=body, orelse=orelse):
                yield Loop(
                    None,
                    self._value(test, around),
                    self._block(body, around),
                    self._block(orelse, around),
                    node.lineno,
                    self._top(body, node.lineno),
                )
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                yield With(
                    tuple(
                        (
                            self._value(one.context_expr, around),
                            self._optional(one.optional_vars, around),
                        )
                        for one in items
                    ),
                    self._block(body, around),
                    node.lineno,
                )
            case ast.Match(subject=subject, cases=cases):
                yield from self._match(subject, cases, around)
            case ast.Break():
                yield Leave("break")
            case ast.Continue():
                yield Leave("continue")
            case ast.Raise(exc=raised):
                if raised is not None and (inside := self._value(raised, around)) != _NOTHING:
                    yield Do(inside, node.lineno)
                yield Leave("raise")
            case ast.Import() | ast.ImportFrom():
                if around:  # those of the module are in the table of the file
                    found = tuple(_imported(node))
                    self._inner.update((one.dotted, None) for one in found)
                    yield from found
            case ast.Delete() | ast.Pass() | ast.Global() | ast.Nonlocal():
                return
            case ast.Assert(test=test):
                yield Do(self._value(test, around), node.lineno)
            case _ if hasattr(node, "handlers"):  # try, and from 3.11 on try with `except*`
                yield Try(
                    self._block(node.body, around),
                    tuple(self._block(one.body, around) for one in node.handlers),
                    self._block(node.orelse, around),
                    self._block(node.finalbody, around),
                )

    def _optional(self, node: ast.expr | None, around: str) -> Expression | None:
        return None if node is None else self._target(node, around)

    def _match(
        self, subject: ast.expr, cases: Sequence[ast.match_case], around: str
    ) -> Iterator[Statement]:
        rest: tuple[Statement, ...] = ()
        for number, case in reversed(list(enumerate(cases))):
            body = self._block(case.body, around)
            text = f"{self._text(subject)} case {number}"
            test = self._test_of_case(subject, case, around)
            if case.guard is None and isinstance(case.pattern, ast.MatchAs):
                rest = body if case.pattern.pattern is None else rest
                continue
            rest = (If(test, text, body, rest, subject.lineno),)
        yield from rest

    def _test_of_case(self, subject: ast.expr, case: ast.match_case, around: str) -> Expression:
        """The comparison that a case of a constant makes; of others what happens in it."""
        value = self._value(subject, around)
        match case:
            case ast.match_case(pattern=ast.MatchValue(value=ast.Constant() as one), guard=None):
                return Compare(value, "==", self._value(one, around))
            case ast.match_case(pattern=ast.MatchSingleton(value=one), guard=None):
                return Compare(value, "is", Constant(one))
        guard = () if case.guard is None else (self._value(case.guard, around),)
        return Mix((value, *guard))

    def _target(self, node: ast.expr, around: str) -> Expression:
        if isinstance(node, ast.Starred):
            node = node.value
        if isinstance(node, (ast.Tuple, ast.List)):
            return Several(tuple(self._target(one, around) for one in node.elts))
        return self._value(node, around)

    # -- expressions -----------------------------------------------------------------------

    def _value(self, node: ast.expr, around: str) -> Expression:
        match node:
            case ast.Name(id=name):
                return Name(name)
            case ast.Attribute(value=value, attr=name):
                return Attribute(self._value(value, around), name)
            case ast.Call():
                return self._call(node, around)
            case ast.Constant(value=bool() | int() | float() | None as plain):
                return Constant(plain)
            case ast.Constant(value=str(text)) if len(text) <= _LONGEST_TEXT:
                return Constant(text)
            case ast.Subscript(value=value, slice=index):
                calls = self._parts(ast.Expr(index), around)
                inside = self._value(value, around)
                return Element(inside) if not calls else Element(Mix((inside, *calls)))
            case ast.Tuple(elts=each) | ast.List(elts=each) | ast.Set(elts=each):
                return self._several(each, around)
            case ast.Dict(values=each):
                return self._several(each, around)
            case ast.IfExp(test=test, body=left, orelse=right):
                return Choice(*(self._value(one, around) for one in (test, left, right)))
            case ast.BoolOp(op=op, values=[*first, last]):
                return self._junction(isinstance(op, ast.Or), first, last, around)
            case ast.UnaryOp(op=ast.Not(), operand=value):
                return Not(self._value(value, around))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return Constant(-number)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
                sides = self._value(left, around), self._value(right, around)
                return Compare(sides[0], _OPERATORS[type(op)], sides[1])
            case ast.Lambda():
                return self._lambda(node, around)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return self._each(node.generators, node.elt, around)
            case ast.DictComp():
                return self._each(node.generators, node.value, around)
            case ast.Starred(value=value) | ast.Await(value=value):
                return self._value(value, around)
            case ast.NamedExpr(value=value):
                return self._value(value, around)
        parts = self._parts(node, around)
        return Mix(parts) if parts else _NOTHING

    def _junction(
        self, either: bool, first: Sequence[ast.expr], last: ast.expr, around: str
    ) -> Expression:
        """`a or b` as `a if a else b`, `a and b` as `b if a else a`."""
        result = self._value(last, around)
        for one in reversed(first):
            left = self._value(one, around)
            result = Choice(left, *((left, result) if either else (result, left)))
        return result

    def _call(self, node: ast.Call, around: str) -> Call:
        positional = (
            Argument("*" if isinstance(one, ast.Starred) else "", self._value(one, around))
            for one in node.args
        )
        named = (Argument(k.arg or "**", self._value(k.value, around)) for k in node.keywords)
        function = self._value(node.func, around)
        return Call(function, (*positional, *named), self._span(node))

    def _several(self, each: Sequence[ast.expr | None], around: str) -> Several:
        values = [one for one in each if one is not None]
        if len(values) > _MOST_ITEMS:
            values = [one for one in values if not isinstance(one, ast.Constant)][:_MOST_ITEMS]
        return Several(tuple(self._value(one, around) for one in values))

    def _each(self, parts: Sequence[ast.comprehension], value: ast.expr, around: str) -> Expression:
        result = self._value(value, around)
        for one in reversed(parts):
            target = self._target(one.target, around)
            result = Each(target, self._value(one.iter, around), result)
        return result

    def _parts(self, node: ast.AST, around: str) -> tuple[Expression, ...]:
        """What happens inside an expression that is not followed: calls and comprehensions."""
        found: list[Expression] = []
        stack = list(reversed(list(ast.iter_child_nodes(node))))
        while stack:
            one = stack.pop()
            if isinstance(one, (ast.Call, ast.ListComp, ast.GeneratorExp, ast.Lambda)):
                found.append(self._value(one, around))
            else:
                stack.extend(reversed(list(ast.iter_child_nodes(one))))
        return tuple(found)

    # -- places ----------------------------------------------------------------------------

    def _span(self, node: Any) -> Span:
        line, end_line = node.lineno, node.end_lineno or node.lineno
        column = self._column(line, node.col_offset)
        return Span(line, column, end_line, self._column(end_line, node.end_col_offset or 0))

    def _top(self, body: Sequence[ast.stmt], header: int) -> Top | None:
        """The line of the first statement of a block, if it is indented by blanks alone."""
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and body[1:]:
            first = body[1]
        line = min([first.lineno, *(one.lineno for one in getattr(first, "decorator_list", ()))])
        blanks = self._lines[line - 1][: first.col_offset]
        if line <= header or blanks.strip(b" ") or not self._plain:
            return None
        return Top(self._starts[line - 1], first.col_offset)

    def _column(self, line: int, offset: int) -> int:
        text = self._lines[line - 1][:offset] if line <= len(self._lines) else b""
        return (offset if text.isascii() else len(text.decode("utf-8", "replace"))) + 1

    def _text(self, node: ast.expr) -> str:
        if node.lineno == node.end_lineno:
            line = self._lines[node.lineno - 1]
            return line[node.col_offset : node.end_col_offset].decode("utf-8", "replace")
        return ast.unparse(node)


def _below(around: str, name: str) -> str:
    return f"{around}.{name}" if around else name


def _imports(tree: ast.Module) -> tuple[tuple[Import, ...], tuple[str, ...]]:
    """The imports of a module, those under `try` and `if` too, and its star imports."""
    found: list[Import] = []
    stars: list[str] = []
    for node in _own_nodes(tree.body):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            stars.append("." * node.level + (node.module or ""))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.extend(_imported(node))
    return tuple(found), tuple(stars)


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[Import]:
    for alias in node.names:
        if isinstance(node, ast.Import):
            top = alias.name.partition(".")[0]
            yield Import(alias.asname, alias.name) if alias.asname else Import(top, top)
        elif alias.name != "*":
            origin = "." * node.level + (node.module or "")
            joint = "" if origin.endswith(".") else "."
            yield Import(alias.asname or alias.name, f"{origin}{joint}{alias.name}")


def _exports(tree: ast.Module) -> tuple[str, ...] | None:
    """`__all__` where it is a plain list of names."""
    names: list[str] | None = None
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                names = []
            case ast.AugAssign(target=ast.Name(id="__all__"), value=value) if names is not None:
                pass
            case _:
                continue
        if not isinstance(value, (ast.List, ast.Tuple)):
            return None
        texts = (one.value for one in value.elts if isinstance(one, ast.Constant))
        names.extend(text for text in texts if isinstance(text, str))
    return None if names is None else tuple(names)


def _is_main(node: ast.stmt) -> bool:
    match node:
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return True
    return False


def _class_body(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for one in statements:
        yield one
        if isinstance(one, ast.If):
            yield from _class_body(one.body)
            yield from _class_body(one.orelse)


def _own_nodes(statements: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a body without those of functions and classes in it, in source order."""
    stack = list(reversed(statements))
    while stack:
        node = stack.pop()
        yield node
        if type(node) in _CLOSED:
            continue
        for name in reversed(node._fields):
            value = getattr(node, name, None)
            if isinstance(value, list):
                stack.extend(one for one in reversed(value) if isinstance(one, ast.AST))
            elif isinstance(value, ast.AST) and name != "ctx":
                stack.append(value)


# nodes with nothing inside that belongs to the body around them
_CLOSED = frozenset(
    [
        *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda),
        *(ast.Name, ast.Constant, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom),
    ]
)


def _assigned(nodes: Iterable[ast.AST]) -> tuple[str, ...]:
    """The plain names that a body binds by assignments, loops, `with` and the like."""
    found: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
    return tuple(found)


def _decorator(node: ast.expr) -> str:
    return _dotted_or_text(node.func if isinstance(node, ast.Call) else node)


def _dotted_or_text(node: ast.expr) -> str:
    parts: list[str] = []
    at: ast.expr = node
    while isinstance(at, (ast.Attribute, ast.Subscript)):
        if isinstance(at, ast.Attribute):
            parts.append(at.attr)
        at = at.value
    return ".".join([at.id, *reversed(parts)]) if isinstance(at, ast.Name) else ""


_COMPUTED = frozenset(("vars", "locals"))


def _reads(node: ast.ClassDef) -> tuple[frozenset[str], bool]:
    """The attributes of `self` that a class reads, and whether it reads some by computed names."""
    found: set[str] = set()
    dynamic = False
    for one in ast.walk(node):
        match one:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Load()):
                found.add(name)
                dynamic = dynamic or name == "__dict__"
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name):
                found.add(name)
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id="self"), name, *_]):
                match name:
                    case ast.Constant(value=str(text)):
                        found.add(text)
                    case _:
                        dynamic = True
            case ast.Call(func=ast.Name(id=called)) if called in _COMPUTED:
                dynamic = True
    return frozenset(found), dynamic
