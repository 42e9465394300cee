"""Whether a tensor that an in-place dropout has overwritten is used again as if it had not been.

The result of an in-place call is its input: from the values alone, `x + drop(x)` cannot be told
from `y = drop(x); y + y`. The compiled code of the caller tells: which local name was handed in,
whether the result takes its place, and whether it, or another name for the same tensor, is read
afterwards.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from torch import Tensor, nn

from dropaudit.runtime.places import is_users

_LEVELS = 4
_ENDS = ("STORE_", "POP_TOP", "RETURN_", "RESUME", "POP_JUMP", "JUMP")


def is_used_again(x: Tensor, modules: Sequence[nn.Module], arguments: Sequence[Any]) -> bool:
    """Whether a caller goes on to read `x`, which a call on top of the stack has overwritten.

    Args:
        modules: the modules that run, outermost first, the site itself last if it is one.
        arguments: the positional arguments of each.
    """
    frame: FrameType | None = sys._getframe(1)
    level = len(modules)
    for _ in range(_LEVELS):
        while frame is not None and not is_users(frame.f_code):
            frame = frame.f_back
        if frame is None:
            return False
        # Containers of torch hand their input on; one that was given another tensor made this one.
        while level and type(modules[level - 1]).__module__.startswith("torch."):
            level -= 1
            if not _takes(arguments[level], x):
                return False
        if reads_again(frame.f_code, frame.f_lasti):
            return True
        level -= 1
        if level < 0 or not _takes(arguments[level], x):
            return False
        frame = frame.f_back
    return False


@lru_cache(maxsize=1024)
def reads_again(code: CodeType, at: int) -> bool:
    """Whether the name handed to the call at byte offset `at` is read again, though not replaced.

    >>> def residual(drop, x):
    ...     return x + drop(x)
    >>> def chain(drop, x):
    ...     x = drop(x)
    ...     return x + x
    >>> def call_of(function):
    ...     steps = dis.get_instructions(function)
    ...     return next(step.offset for step in steps if step.opname.startswith("CALL"))
    >>> [reads_again(f.__code__, call_of(f)) for f in (residual, chain)]
    [True, False]
    """
    instructions = list(dis.get_instructions(code))
    here = next((n for n, each in enumerate(instructions) if each.offset == at), None)
    if here is None:
        return False
    before, after = instructions[:here], instructions[here + 1 :]
    start = _statement(before)
    handed = [name for each in before[start:] for name in _loaded(each)]
    if not handed:
        return False
    name = handed[-1]
    if handed.count(name) > 1:  # x + drop(x): the first x waits on the stack
        return True
    target = _stored(after[0]) if after else None
    if target != name and _read_before_stored(name, after):
        return True
    return any(
        alias != target and _read_before_stored(alias, after) for alias in _aliases(name, before)
    )


def _takes(arguments: Any, x: Tensor) -> bool:
    return any(each is x for each in arguments)


def _statement(before: list[dis.Instruction]) -> int:
    """Where the statement begins that the call stands in."""
    for n in range(len(before) - 1, -1, -1):
        if before[n].opname.startswith(_ENDS):
            return n + 1
    return 0


def _loaded(instruction: dis.Instruction) -> tuple[str, ...]:
    if not instruction.opname.startswith("LOAD_FAST"):
        return ()
    value = instruction.argval
    names = value if isinstance(value, tuple) else (value,)
    return tuple(name for name in names if name != "self")


def _stored(instruction: dis.Instruction) -> str | None:
    if not instruction.opname.startswith("STORE_FAST"):
        return None
    value = instruction.argval
    return str(value[0] if isinstance(value, tuple) else value)


def _read_before_stored(name: str, after: list[dis.Instruction]) -> bool:
    for each in after:
        if name in _loaded(each):
            return True
        if _stored(each) == name:
            return False
    return False


def _aliases(name: str, before: list[dis.Instruction]) -> list[str]:
    """Names that were last set to what `name` still is."""
    found: list[str] = []
    for first, second in pairwise(before):
        stored = _stored(second)
        if stored is None:
            continue
        if stored == name:
            found.clear()
        elif stored in found:
            found.remove(stored)
        if _loaded(first)[-1:] == (name,) and stored != name:
            found.append(stored)
    return found
