"""What is left of a body once it is known whether some parameters are true."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from dropaudit.static.program.code import (
    Choice,
    Expression,
    If,
    Loop,
    Name,
    Not,
    Statement,
    Try,
    With,
)

Settled: TypeAlias = frozenset[tuple[str, bool]]
"""Parameters that nothing assigns, and whether they are true."""


def left_of(body: tuple[Statement, ...], settled: Settled) -> tuple[Statement, ...]:
    """The statements of `body` that may be reached.

    >>> from dropaudit.static.program.code import Leave
    >>> body = (If(Name("train"), "train", (Leave("break"),), (), 1),)
    >>> left_of(body, frozenset({("train", False)}))
    ()
    """
    found: list[Statement] = []
    for statement in body:
        match statement:
            case If(test=test, body=inner, orelse=orelse):
                known = outcome(test, settled)
                if known is None:
                    inner, orelse = left_of(inner, settled), left_of(orelse, settled)
                    found.append(replace(statement, body=inner, orelse=orelse))
                else:
                    found += left_of(inner if known else orelse, settled)
            case Loop(body=inner) | With(body=inner):
                found.append(replace(statement, body=left_of(inner, settled)))
            case Try(body=inner):
                found.append(replace(statement, body=left_of(inner, settled)))
            case _:
                found.append(statement)
    return tuple(found)


def outcome(test: Expression, settled: Settled) -> bool | None:
    """Whether a test is true, if the parameters alone decide.

    >>> both = Choice(Name("train"), Name("fast"), Name("train"))  # `train and fast`
    >>> outcome(both, frozenset({("train", False)}))
    False
    """
    match test:
        case Name(name):
            return dict(settled).get(name)
        case Not(value):
            known = outcome(value, settled)
            return None if known is None else not known
        case Choice(first, left, right):
            known = outcome(first, settled)
            return None if known is None else outcome(left if known else right, settled)
    return None
