"""Dropout that is on in evaluation because it is meant to be, by what its author calls it."""

from __future__ import annotations

import re

_NAME = re.compile(r"(?i:prenet|monte_?carlo|always_?on|bayesian)|(^|[._])MC(?=[A-Z_]|$)")
_TEXT = re.compile(r"(?i)monte[- ]?carlo|\bmc[- ]?drop|bayesian|uncertaint")


def on_purpose(name: str, text: str = "") -> bool:
    """Whether a class of this name and docstring drops in eval on purpose.

    >>> on_purpose("nets.MCDropout"), on_purpose("Dropout", "For Monte Carlo."), on_purpose("Net")
    (True, True, False)
    """
    return bool(_NAME.search(name) or _TEXT.search(text))
