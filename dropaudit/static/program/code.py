"""The little language that the bodies of functions are kept in: plain, small, comparable.

It holds what a model's way through a program needs (names, attributes, calls, constants, the order
and the branches of statements) and forgets the rest: arithmetic and comparisons are `Mix`, text is
nothing. Every record is frozen and made of other records, strings and numbers, so that it can be
stored as JSON and compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Any, TypeAlias

from dropaudit.findings import Edit


@dataclass(frozen=True, slots=True)
class Span:
    """Where something stands: lines and columns count from 1, columns count characters."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Top:
    """Where a statement may be put at the top of a block: a byte of the file, and the blanks."""

    offset: int
    indent: int

    def insertion(self, statement: str) -> Edit:
        """The edit that puts `statement` there."""
        return Edit(self.offset, self.offset, f"{' ' * self.indent}{statement}\n")


# -- expressions ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name:
    """A name that is read, or bound where it is a target."""

    name: str


@dataclass(frozen=True, slots=True)
class Attribute:
    """`value.name`."""

    value: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Element:
    """`value[...]`: something of a container."""

    value: Expression


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a short string, True, False or None."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: `name=value`, `value`, `*value` (name "*") or `**value` ("**")."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`."""

    function: Expression
    arguments: tuple[Argument, ...]
    where: Span


@dataclass(frozen=True, slots=True)
class Several:
    """A tuple, list, set or dictionary (its values) of known things."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`left if test else right`; also `a or b`, of which each may be the value."""

    test: Expression
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Not:
    """`not value`."""

    value: Expression


@dataclass(frozen=True, slots=True)
class Compare:
    """`left how right` with one of the operators `is`, `is not`, `==`, `!=`."""

    left: Expression
    how: str
    right: Expression


@dataclass(frozen=True, slots=True)
class Mix:
    """Any other expression: its parts are evaluated, its value is not followed."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Each:
    """A comprehension: `value` for every element of `source`, bound to `target`."""

    target: Expression
    source: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Inner:
    """A lambda; `name` is the qualified name of its function record."""

    name: str


# -- statements ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    """`target = value`; unpacking keeps `Several` targets."""

    targets: tuple[Expression, ...]
    value: Expression
    line: int


@dataclass(frozen=True, slots=True)
class Do:
    """An expression evaluated for what it does."""

    value: Expression
    line: int


@dataclass(frozen=True, slots=True)
class Return:
    """`return value`; a `yield` is a `Do`, the function goes on."""

    value: Expression | None
    line: int


@dataclass(frozen=True, slots=True)
class If:
    """A branch; `text` is how the test is written, `line` where."""

    test: Expression
    text: str
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Loop:
    """`for target in source`, or `while test` (target None); `top` is None for odd layouts."""

    target: Expression | None
    source: Expression
    body: tuple[Statement, ...]
    orelse: tuple[Statement, ...]
    line: int
    top: Top | None


@dataclass(frozen=True, slots=True)
class With:
    """`with value as target` for each of the items, in order."""

    items: tuple[tuple[Expression, Expression | None], ...]
    body: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Try:
    """`try` with what each handler does, what follows without an error, and what always does."""

    body: tuple[Statement, ...]
    handlers: tuple[tuple[Statement, ...], ...]
    orelse: tuple[Statement, ...]
    final: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """`break`, `continue` or `raise`."""

    how: str


@dataclass(frozen=True, slots=True)
class Define:
    """A function or class defined inside a function; `qualified` names its record."""

    name: str
    qualified: str
    is_class: bool


@dataclass(frozen=True, slots=True)
class Import:
    """`name` is bound to `dotted` (relative imports keep their dots)."""

    name: str
    dotted: str


Expression: TypeAlias = (
    Name
    | Attribute
    | Element
    | Constant
    | Call
    | Several
    | Choice
    | Not
    | Compare
    | Mix
    | Each
    | Inner
)
Statement: TypeAlias = Assign | Do | Return | If | Loop | With | Try | Leave | Define | Import

_KINDS: tuple[type, ...] = (
    *(
        Span,
        Top,
        Name,
        Attribute,
        Element,
        Constant,
        Argument,
        Call,
        Several,
        Choice,
        Not,
        Compare,
        Mix,
    ),
    *(Each, Inner, Assign, Do, Return, If, Loop, With, Try, Leave, Define, Import),
)
_FIELDS = {kind: tuple(one.name for one in fields(kind)) for kind in _KINDS}
_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}


def packed(body: tuple[Statement, ...]) -> str:
    """Statements as JSON text: `[kind, field, ...]` for a record, `[-1, ...]` for a tuple.

    >>> body = (Do(Call(Name("f"), (), Span(1, 1, 1, 4)), 1),)
    >>> unpacked(packed(body)) == body
    True
    """
    return json.dumps(_plain(body), separators=(",", ":"))


def unpacked(text: str) -> tuple[Statement, ...]:
    """The statements that were packed; `ValueError` for anything else."""
    try:
        body = _record(json.loads(text))
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError(f"not a packed body: {error}") from error
    if not isinstance(body, tuple):
        raise ValueError("not a packed body")
    return body


def called_names(body: tuple[Statement, ...]) -> frozenset[str]:
    """The last names of everything that is called: `f` and `step` in `f(); optimizer.step()`."""
    found: set[str] = set()
    stack: list[Any] = [body]
    while stack:
        one = stack.pop()
        if isinstance(one, tuple):
            stack.extend(one)
        elif type(one) in _NUMBER:
            if isinstance(one, Call):
                match one.function:
                    case Name(name) | Attribute(_, name):
                        found.add(name)
            stack.extend(getattr(one, name) for name in _fields(type(one)))
    return frozenset(found)


def within(body: Any) -> Iterator[Any]:
    """Every expression and statement in `body`, itself included, in source order."""
    stack: list[Any] = [body]
    while stack:
        one = stack.pop()
        if isinstance(one, tuple):
            stack.extend(reversed(one))
        elif type(one) in _NUMBER and not isinstance(one, Span):
            yield one
            stack.extend(getattr(one, name) for name in reversed(_fields(type(one))))


def dotted(expression: Expression) -> str:
    """`a.b.c` for attributes on a name, else the empty string.

    >>> dotted(Attribute(Name("self"), "model"))
    'self.model'
    """
    match expression:
        case Name(name):
            return name
        case Attribute(value, name):
            head = dotted(value)
            return f"{head}.{name}" if head else ""
    return ""


def _fields(kind: type) -> tuple[str, ...]:
    return _FIELDS[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [-1, *map(_plain, value)]
    kind = type(value)
    if kind is Span:
        return [_NUMBER[kind], *astuple(value)]
    if kind in _NUMBER:
        return [_NUMBER[kind], *(_plain(getattr(value, name)) for name in _fields(kind))]
    return value


def _record(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind == -1:
        return tuple(map(_record, rest))
    return _KINDS[kind](*map(_record, rest))
