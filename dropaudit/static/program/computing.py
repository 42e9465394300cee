"""What values say by themselves: truth, comparisons, the elements of containers."""

from __future__ import annotations

from dropaudit.static.program.values import (
    UNKNOWN,
    Class,
    Function,
    Group,
    Object,
    Plain,
    Values,
    one,
    union,
)

_MOST_ITEMS = 24


def truth(values: Values) -> bool | None:
    """Whether values are true or false, where all of them agree.

    >>> truth(one(Plain(0))), truth(UNKNOWN)
    (False, None)
    """
    found = {bool(v.value) if isinstance(v, Plain) else None for v in values}
    if len(found) == 1:
        return found.pop()
    return None


def elements(values: Values) -> Values:
    """What is in containers: the union of all of it."""
    groups = [v for v in values if isinstance(v, Group)]
    if len(groups) != len(values) or not groups:
        return UNKNOWN
    parts = [item for group in groups for item in group.items]
    return union(*parts) if parts else UNKNOWN


def unpacked(values: Values, count: int) -> list[Values]:
    groups = [v for v in values if isinstance(v, Group)]
    if len(values) == len(groups) == 1 and len(groups[0].items) == count:
        return list(groups[0].items)
    return [UNKNOWN] * count


def mixed(parts: list[Values]) -> Values:
    """Of an expression that is not followed, what was computed in it that may still matter."""
    kept = [v for values in parts for v in values if isinstance(v, Group)]
    if len(kept) > 1 and len(kept) == len(parts):  # `models + [model]`
        return one(Group(tuple(item for group in kept for item in group.items)[:_MOST_ITEMS]))
    return one(kept[0]) if len(set(kept)) == 1 else UNKNOWN


def negated(values: Values) -> Values:
    known = truth(values)
    return UNKNOWN if known is None else one(Plain(not known))


def compared(left: Values, how: str, right: Values) -> Values:
    if len(left) != 1 or len(right) != 1:
        return UNKNOWN
    (a,), (b,) = left, right
    if isinstance(a, Plain) and isinstance(b, Plain):
        same = a.value == b.value
    elif isinstance(b, Plain) and b.value is None and isinstance(a, (Object, Function, Class)):
        if isinstance(a, Object):
            return UNKNOWN
        same = False
    else:
        return UNKNOWN
    return one(Plain(same if how in ("is", "==") else not same))
