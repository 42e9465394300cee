"""Under which tests the calls of a body run, and which of these ask for train or eval mode."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from dropaudit.static.program.code import (
    Assign,
    Attribute,
    Call,
    Choice,
    Constant,
    Do,
    Expression,
    If,
    Leave,
    Loop,
    Mix,
    Name,
    Not,
    Return,
    Span,
    Statement,
    Try,
    With,
    within,
)
from dropaudit.static.purpose import MODE_WORD

_WORD = re.compile(r"[A-Za-z_]\w*")

Tests: TypeAlias = tuple[tuple[Expression, bool], ...]


@dataclass(frozen=True, slots=True)
class Gated:
    """A call, or an assignment, and the tests that hold where it runs."""

    node: Call | Assign
    tests: Tests

    @property
    def hears_mode(self) -> bool:
        """Whether one of the tests asks for the mode."""
        return any(names_mode(test) for test, _ in self.tests)


def gated(body: tuple[Statement, ...], tests: Tests = ()) -> Iterator[Gated]:
    """The calls and assignments of a body in source order; `break` and the like end a branch."""
    for statement in body:
        match statement:
            case If(body=inner, orelse=orelse):
                yield from _calls(statement.test, tests)
                test = _read_whole(statement)
                yield from gated(inner, (*tests, (test, True)))
                yield from gated(orelse, (*tests, (test, False)))
                if _leaves(inner):
                    tests = (*tests, (test, False))
                if _leaves(orelse):
                    tests = (*tests, (test, True))
            case Loop(source=source, body=inner, orelse=orelse):
                yield from _calls(source, tests)
                yield from gated(inner, tests)
                yield from gated(orelse, tests)
            case With(items=items, body=inner):
                for value, _ in items:
                    yield from _calls(value, tests)
                yield from gated(inner, tests)
            case Try(body=inner, handlers=handlers, orelse=orelse, final=final):
                for part in (inner, *handlers, orelse, final):
                    yield from gated(part, tests)
            case Assign(value=value):
                yield from _calls(value, tests)
                yield Gated(statement, tests)
            case Do(value=value):
                yield from _calls(value, tests)
            case Return(value=returned) if returned is not None:
                yield from _calls(returned, tests)


def implied(tests: Iterable[tuple[Expression, bool]]) -> Iterator[tuple[Expression, bool]]:
    """What must be true, or must be false, for the tests to come out as they do."""
    stack = list(tests)
    while stack:
        test, truth = stack.pop()
        match test:
            case Not(value=value):
                stack.append((value, not truth))
            case Choice(test=first, left=left, right=right) if not truth and first == left:
                stack.extend(((right, False), (first, False)))  # `first or right` is false
            case Choice(test=first, left=left, right=right) if truth and first == right:
                stack.extend(((left, True), (first, True)))  # `first and left` is true
            case _:
                yield test, truth


def names_mode(expression: Any) -> bool:
    """Whether something in an expression goes by the name of a mode."""
    for node in within(expression):
        match node:
            case Name(name=word) | Attribute(name=word) if MODE_WORD.match(word):
                return True
            case Constant(value=str(word)) if MODE_WORD.match(word):
                return True
    return False


def _calls(expression: Expression, tests: Tests) -> Iterator[Gated]:
    stack: list[tuple[Any, Tests]] = [(expression, tests)]
    while stack:
        node, around = stack.pop()
        match node:
            case Choice(test=test, left=left, right=right):
                if right != test:
                    stack.append((right, (*around, (test, False))))
                if left != test:  # else it is `test or right`, and `test` is evaluated once
                    stack.append((left, (*around, (test, True))))
                stack.append((test, around))
                continue
            case Call():
                yield Gated(node, around)
        stack.extend((one, around) for one in reversed(_parts(node)))


def _read_whole(statement: If) -> Expression:
    """The test of a branch; arithmetic forgets names, so those of a mode are read in its text."""
    if names_mode(statement.test):
        return statement.test
    words = [word for word in _WORD.findall(statement.text) if MODE_WORD.match(word)]
    return Mix((statement.test, Name(words[0]))) if words else statement.test


def _leaves(body: tuple[Statement, ...]) -> bool:
    return bool(body) and isinstance(body[-1], (Return, Leave))


def _parts(node: Any) -> list[Any]:
    if isinstance(node, tuple):
        return list(node)
    if node is None or isinstance(node, (str, int, float, Span)):
        return []
    return [getattr(node, one.name) for one in fields(node)]
