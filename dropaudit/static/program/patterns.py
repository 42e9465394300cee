"""Patterns of dotted names, as users write them in settings."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a dotted name, or its last part, matches one of `patterns`.

    >>> matches_any("company.engine.BaseLoop", ["*Loop"]), matches_any("a.B", ["c.*"])
    (True, False)
    """
    last = name.rpartition(".")[2]
    return any(fnmatchcase(name, one) or fnmatchcase(last, one) for one in patterns)
