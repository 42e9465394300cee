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
_FACTS = frozenset({"shape", "size", "dim", "ndim", "dtype", "device", "numel", "requires_grad"})
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
        names = read_again(frame.f_code, frame.f_lasti)
        # The locals are looked at last: on older Pythons that keeps them alive to the frame's end.
        if names and any(frame.f_locals.get(name) is x for name in names):
            return True
        level -= 1
        if level < 0 or not _takes(arguments[level], x):
            return False
        frame = frame.f_back
    return False


@lru_cache(maxsize=1024)
def read_again(code: CodeType, at: int) -> tuple[str, ...]:
    """Names around the call at byte offset `at` whose values are read after it all the same.

    A name that the result takes the place of is none of them. Which of the names holds the tensor
    that was handed in, the code does not tell.

    >>> def residual(drop, x):
    ...     return x + drop(x)
    >>> def chain(drop, x):
    ...     x = drop(x)
    ...     return x + x
    >>> def call_of(function):
    ...     steps = dis.get_instructions(function)
    ...     return next(step.offset for step in steps if step.opname.startswith("CALL"))
    >>> [read_again(f.__code__, call_of(f)) for f in (residual, chain)]
    [('x',), ()]
    """
    instructions = list(dis.get_instructions(code))
    here = next((n for n, each in enumerate(instructions) if each.offset == at), None)
    if here is None:
        return ()
    before, after = instructions[:here], instructions[here + 1 :]
    target = _stored(after[0]) if after else None
    handed = [name for each in _pairs(before[_statement(before) :]) for name in _read(*each)]
    found: dict[str, None] = {}
    for name in dict.fromkeys(handed):
        if handed.count(name) > 1:  # x + drop(x): the first x waits on the stack
            found[name] = None
        for alias in (name, *_aliases(name, before)):
            if alias != target and _read_before_stored(alias, after):
                found[alias] = None
    return tuple(found)


def _takes(arguments: Any, x: Tensor) -> bool:
    return any(each is x for each in arguments)


def _statement(before: list[dis.Instruction]) -> int:
    """Where the statement begins that the call stands in."""
    for n in range(len(before) - 1, -1, -1):
        if before[n].opname.startswith(_ENDS):
            return n + 1
    return 0


def _pairs(
    instructions: list[dis.Instruction],
) -> list[tuple[dis.Instruction, dis.Instruction | None]]:
    """Each instruction with the one after it."""
    return list(zip(instructions, [*instructions[1:], None], strict=True))


def _read(instruction: dis.Instruction, following: dis.Instruction | None) -> tuple[str, ...]:
    """The names whose values an instruction reads; not one that is only asked for its shape."""
    names = _loaded(instruction)
    if following is None or not following.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
        return names
    return names[:-1] if following.argval in _FACTS else names


def _loaded(instruction: dis.Instruction) -> tuple[str, ...]:
    if not instruction.opname.startswith("LOAD_FAST"):
        return ()
    value = instruction.argval
    return value if isinstance(value, tuple) else (value,)


def _stored(instruction: dis.Instruction) -> str | None:
    if not instruction.opname.startswith("STORE_FAST"):
        return None
    value = instruction.argval
    return str(value[0] if isinstance(value, tuple) else value)


def _read_before_stored(name: str, after: list[dis.Instruction]) -> bool:
    for each, following in _pairs(after):
        if name in _read(each, following):
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
