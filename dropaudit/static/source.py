"""A parsed file, and the questions that rules ask of it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import libcst as cst

from dropaudit.static.lineages import canonical
from dropaudit.static.names import Binding, Kind, Scope, bind
from dropaudit.static.positions import spans
from dropaudit.static.record import Options
from dropaudit.static.walk import children

if TYPE_CHECKING:
    from dropaudit.static.facts import ClassFacts
    from dropaudit.static.masks import MaskReader
    from dropaudit.static.modes import Modes

_SCOPES = (cst.FunctionDef, cst.ClassDef, cst.Lambda, cst.ListComp, cst.SetComp, cst.DictComp)
_SCOPE_TYPES = frozenset((*_SCOPES, cst.GeneratorExp))
_INDEXED = frozenset((cst.Call, cst.ClassDef, cst.FunctionDef, cst.Lambda, cst.Attribute))
_CONVENTIONAL = {"nn": "torch.nn", "F": "torch.nn.functional", "torch": "torch"}
_STAR_NAMES = re.compile(
    r"dropout\w*|\w*Dropout\w*|ModuleList|Sequential|Module|LSTM|GRU|RNN|Linear"
)

_OUTSIDE = (cst.Decorator, cst.Annotation, cst.Arg)

FunctionLike = (cst.FunctionDef, cst.Lambda)


@dataclass(frozen=True)
class Change:
    """Text to put before, after or in place of a node, or before a call's closing parenthesis.

    `whole` is in place of a node with its parentheses, or of a line with its indent and end.
    """

    node: cst.CSTNode
    where: Literal["before", "after", "replace", "whole", "inside"]
    text: str


@dataclass(frozen=True)
class Report:
    """What a check yields: a node and a message; the scanner turns it into a finding.

    With `about` it is a claim: it stands if the check of the rule over the program says so.
    """

    node: cst.CSTNode
    message: str
    changes: tuple[Change, ...] = ()
    safe: bool = False
    title: str = ""
    about: tuple[str, ...] = ()


class Parents:
    """Node to the node around it. Nodes hash in Python, which is slow: `by_id` is for loops."""

    def __init__(self) -> None:
        self.by_id: dict[int, cst.CSTNode] = {}

    def get(self, node: cst.CSTNode) -> cst.CSTNode | None:
        return self.by_id.get(id(node))

    def __getitem__(self, node: cst.CSTNode) -> cst.CSTNode:
        return self.by_id[id(node)]

    def __contains__(self, node: cst.CSTNode) -> bool:
        return id(node) in self.by_id


class Source:
    """One file: its tree, parents, scopes and an index of nodes by type.

    Raises `libcst.ParserSyntaxError` for what is not Python, `UnicodeError` and `LookupError`
    for what cannot be decoded.
    """

    def __init__(
        self,
        path: str,
        data: bytes,
        options: Options = Options(),  # noqa: B008 (frozen)
        cell_ends: frozenset[int] = frozenset(),
    ) -> None:
        self.path = path
        self.options = options
        self.cell_ends = cell_ends  # of a notebook: last line of each code cell
        self.module = cst.parse_module(data)
        self.parents = Parents()
        self.scopes: dict[cst.CSTNode, Scope] = {}
        self.nodes: defaultdict[type, list[Any]] = defaultdict(list)
        # by id, since nodes hash in Python: where the scope is not that of the parent; answers
        self._starts: dict[int, Scope] = {}
        self._owners: dict[int, cst.FunctionDef | cst.ClassDef | None] = {}
        self._names: dict[int, str] = {}
        self.memo: dict[Any, Any] = {}  # answers of other modules, by whatever key they choose
        self._facts: dict[cst.ClassDef, ClassFacts] = {}
        self._walk()

    def _walk(self) -> None:
        root = Scope(self.module, None)
        self.scopes[self.module] = root
        stack: list[tuple[cst.CSTNode, Scope]] = [(self.module, root)]
        parents, nodes, starts = self.parents.by_id, self.nodes, self._starts
        while stack:
            node, scope = stack.pop()
            kind = type(node)
            nodes[kind].append(node)
            if kind is cst.FunctionDef or kind is cst.ClassDef:
                what = Kind.FUNCTION if kind is cst.FunctionDef else Kind.CLASS
                scope.bind(node.name.value, Binding(what, node))  # type: ignore[attr-defined]
            else:
                bind(node, scope)
            below = children(node)
            inner = scope
            outside: tuple[Any, ...] = ()  # evaluated in the scope around
            if kind in _SCOPE_TYPES:
                inner = self.scopes[node] = Scope(node, scope)
                outside = tuple(c for c in below if isinstance(c, _OUTSIDE))
                starts.update((id(child), inner) for child in below)
            elif kind is cst.Param:
                outside = (node.default, node.annotation)  # type: ignore[attr-defined]
            elif kind is cst.CompFor and type(parents[id(node)]) in _SCOPE_TYPES:
                outside = (node.iter,)  # type: ignore[attr-defined]
            for child in reversed(below):
                parents[id(child)] = node
                if outside and child in outside:
                    starts[id(child)] = inner.parent or inner
                    stack.append((child, inner.parent or inner))
                else:
                    stack.append((child, inner))

    def release(self) -> None:
        """Give back the memory now: what knows this source is known by it, and so would wait."""
        vars(self).clear()

    # -- where a node stands ---------------------------------------------------------------

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes around `node`, from the inside out."""
        above = self.parents.by_id
        parent = above.get(id(node))
        while parent is not None:
            yield parent
            parent = above.get(id(parent))

    def enclosing(self, node: cst.CSTNode, kinds: Any) -> Any:
        """The innermost node of one of `kinds` around `node`, or None."""
        return next((a for a in self.ancestors(node) if isinstance(a, kinds)), None)

    def function_of(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The innermost `def` around `node`, through lambdas and comprehensions."""
        found = self._owner_of(node)
        return found if isinstance(found, cst.FunctionDef) else None

    def method_of(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """The outermost `def` around `node` below the innermost class, if there is a class."""
        last, owner = None, self._owner_of(node)
        while isinstance(owner, cst.FunctionDef):
            last, owner = owner, self._owner_of(owner)
        return None if owner is None else last

    def class_of(self, node: cst.CSTNode) -> ClassFacts | None:
        """The facts of the innermost class around `node`."""
        owner = self._owner_of(node)
        while isinstance(owner, cst.FunctionDef):
            owner = self._owner_of(owner)
        return None if owner is None else self.facts(owner)

    def _owner_of(self, node: cst.CSTNode) -> cst.FunctionDef | cst.ClassDef | None:
        """The innermost `def` or `class` around `node`."""
        above, owners = self.parents.by_id, self._owners
        if id(node) not in above:
            return None
        trail: list[int] = []
        owner: cst.FunctionDef | cst.ClassDef | None = None
        at: cst.CSTNode | None = node
        while at is not None:
            if id(at) in owners:
                owner = owners[id(at)]
                break
            trail.append(id(at))
            at = above.get(id(at))
            if type(at) is cst.FunctionDef or type(at) is cst.ClassDef:
                owner = at
                break
        owners.update(dict.fromkeys(trail, owner))
        return owner

    def scope_of(self, node: cst.CSTNode) -> Scope:
        """The scope in which `node` is evaluated."""
        above, starts = self.parents.by_id, self._starts
        scope = self.scopes[self.module]
        if id(node) not in above:
            return scope
        trail: list[int] = []
        at: cst.CSTNode | None = node
        while at is not None:
            if id(at) in starts:
                scope = starts[id(at)]
                break
            trail.append(id(at))
            at = above.get(id(at))
        starts.update(dict.fromkeys(trail, scope))
        return scope

    def statement_of(self, node: cst.CSTNode) -> cst.CSTNode:
        """The small statement (or compound statement's head) that `node` is part of."""
        kinds = (cst.BaseSmallStatement, cst.BaseCompoundStatement)
        return node if isinstance(node, kinds) else self.enclosing(node, kinds) or node

    def ends_a_cell(self, statement: cst.CSTNode) -> bool:
        """Whether `statement` is the last of a notebook's cell, whose value is shown."""
        if not self.cell_ends:
            return False
        line = self.enclosing(statement, cst.SimpleStatementLine)
        if line is None or self.parents.get(line) is not self.module:
            return False
        if line.body[-1] is not statement:
            return False
        text, found = spans(self.module, [statement])
        stop = found[statement].outer_stop
        rest = text[stop:].split("\n")
        line_number = text.count("\n", 0, stop) + 1
        for offset, following in enumerate(rest):
            if offset and following.strip() and not following.lstrip().startswith("#"):
                return False
            if line_number + offset in self.cell_ends:
                return True
        return True

    # -- names -----------------------------------------------------------------------------

    def bindings(self, name: cst.Name) -> list[Binding]:
        """Everything that `name` may stand for, in its innermost binding scope."""
        found = self.scope_of(name).lookup(name.value)
        return [] if found is None else found[1]

    def name_of(self, node: cst.CSTNode | None) -> str:
        """The dotted name that `node` was imported as; empty when there is no single answer.

        Names that nothing in the file binds (builtins) are returned as they are.
        """
        known = self._names.get(id(node))
        if known is None:
            known = self._name_of(node, 0)
            if node is not None and node in self.parents:  # else its id may be that of another
                self._names[id(node)] = known
        return known

    def _name_of(self, node: cst.CSTNode | None, _depth: int) -> str:
        parts: list[str] = []
        while isinstance(node, cst.Attribute):
            parts.append(node.attr.value)
            node = node.value
        if not isinstance(node, cst.Name):
            return ""
        head = self._head(node, _depth)
        return canonical(".".join([head, *reversed(parts)])) if head else ""

    def _head(self, name: cst.Name, depth: int) -> str:
        bindings = self.bindings(name)
        if not bindings:
            stars = self.scopes[self.module].stars
            if stars:
                for star in stars:
                    if star in _CONVENTIONAL.values() and _STAR_NAMES.fullmatch(name.value):
                        return f"{star}.{name.value}"
                return _CONVENTIONAL.get(name.value, name.value)
            return name.value
        imports = [b for b in bindings if b.kind is Kind.IMPORT]
        if imports:
            rest = (b for b in bindings if b.kind is not Kind.IMPORT)
            if not all(b.kind is Kind.ASSIGNMENT and _is_none(b.value) for b in rest):
                return ""
            if self._always_runs(imports[-1].node):
                return imports[-1].dotted
            return max((b.dotted for b in imports), key=lambda d: d.startswith("torch"))
        one = bindings[0]
        if len(bindings) == 1 and one.kind is Kind.ASSIGNMENT and depth < 4:
            return self._name_of(one.value, depth + 1)
        return ""

    def _always_runs(self, statement: cst.CSTNode) -> bool:
        """Whether a small statement stands under no condition in its module or function."""
        block = self.parents[self.parents[statement]]
        return isinstance(block, cst.Module) or isinstance(self.parents[block], cst.FunctionDef)

    def definition(self, node: cst.CSTNode | None) -> cst.ClassDef | cst.FunctionDef | None:
        """The one class or function of this file that `node`, a name or `self.name`, stands for."""
        if isinstance(node, cst.Name):
            bindings = self.bindings(node)
            if len(bindings) == 1 and bindings[0].kind in (Kind.CLASS, Kind.FUNCTION):
                found = bindings[0].node
                return found if isinstance(found, (cst.ClassDef, cst.FunctionDef)) else None
        attribute = self_attribute(node)
        if attribute and node is not None and (facts := self.class_of(node)) is not None:
            return facts.method(attribute)
        return None

    # -- calls -----------------------------------------------------------------------------

    def argument(self, call: cst.Call, name: str, position: int = -1) -> cst.Arg | None:
        """The argument of `call` that is called `name` or stands at `position`."""
        for at, arg in enumerate(call.args):
            if arg.keyword is not None and arg.keyword.value == name:
                return arg
            if arg.keyword is None and not arg.star and at == position:
                return arg
        return None

    def has_star(self, call: cst.Call) -> bool:
        """Whether `call` passes arguments that cannot be seen: `*args` or `**options`."""
        return any(arg.star for arg in call.args)

    @cached_property
    def calls_by_name(self) -> dict[str, list[cst.Call]]:
        """The last part of what is called to the calls in this file."""
        found: dict[str, list[cst.Call]] = {}
        for call in self.nodes[cst.Call]:
            match call.func:
                case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
                    found.setdefault(name, []).append(call)
        return found

    @cached_property
    def attributes_by_name(self) -> dict[str, list[cst.Attribute]]:
        """The last part of an attribute to the places in this file that name it."""
        found: dict[str, list[cst.Attribute]] = {}
        for node in self.nodes[cst.Attribute]:
            found.setdefault(node.attr.value, []).append(node)
        return found

    def callers(self, function: cst.FunctionDef) -> list[cst.Call]:
        """The calls in this file that go by the name of `function`, its own left out."""
        calls = self.calls_by_name.get(function.name.value, [])
        return [c for c in calls if self.function_of(c) is not function]

    # -- more ------------------------------------------------------------------------------

    def facts(self, node: cst.ClassDef) -> ClassFacts:
        """What is known of a class of this file."""
        from dropaudit.static.facts import ClassFacts

        if node not in self._facts:
            self._facts[node] = ClassFacts(node, self)
        return self._facts[node]

    @cached_property
    def modes(self) -> Modes:
        """The questions about train and eval mode."""
        from dropaudit.static.modes import Modes

        return Modes(self)

    @cached_property
    def masks(self) -> MaskReader:
        """The random masks of each function."""
        from dropaudit.static.masks import MaskReader

        return MaskReader(self)

    def text(self, node: cst.CSTNode) -> str:
        """The source of `node`, whitespace around it removed."""
        return self.module.code_for_node(node).strip()


def self_attribute(node: cst.CSTNode | None) -> str:
    """`name` for `self.name`, else the empty string."""
    if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name):
        return node.attr.value if node.value.value == "self" else ""
    return ""


def number(node: cst.CSTNode | None) -> float | None:
    """The value of a literal number, with its sign, else None.

    >>> number(cst.parse_expression("-0.5"))
    -0.5
    """
    sign = 1.0
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        sign, node = -1.0, node.expression
    if isinstance(node, (cst.Integer, cst.Float)):
        return sign * float(node.evaluated_value)
    return None


def is_name(node: cst.CSTNode | None, name: str) -> bool:
    """Whether `node` is the plain name `name`, such as True."""
    return isinstance(node, cst.Name) and node.value == name


def statements(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The statements in the body of a compound statement, simple lines taken apart."""
    body = getattr(node, "body", node)
    body = getattr(body, "body", body)
    found: list[cst.CSTNode] = []
    for statement in body if isinstance(body, (list, tuple)) else [body]:
        found.extend(
            statement.body if isinstance(statement, cst.SimpleStatementLine) else [statement]
        )
    return found


def _is_none(node: cst.CSTNode | None) -> bool:
    return is_name(node, "None") or is_name(node, "False")
