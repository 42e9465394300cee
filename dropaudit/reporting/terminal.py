"""Text that is safe and aligned on a terminal: control characters shown, widths known, colors."""

from __future__ import annotations

from unicodedata import combining, east_asian_width

_CONTROL = {c: chr(0x2400 + c) for c in range(32)} | {127: "\u2421"}
_CONTROL |= dict.fromkeys([*range(128, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "�")
_CONTROL |= dict.fromkeys([0x2028, 0x2029], "�")


def printable(text: str) -> str:
    """`text` with every character replaced that could steer a terminal or cannot be encoded.

    A scanned file, or its name, may hold escape sequences.

    >>> printable("a\\x1b[31mb")
    'a␛[31mb'
    """
    shown = text.translate(_CONTROL)
    return shown.encode("utf-8", "backslashreplace").decode("utf-8")


def width(text: str) -> int:
    """The number of terminal columns that `text` takes.

    >>> width("日本"), width("é")
    (4, 1)
    """
    return sum(_columns(character) for character in text)


def style(text: str, color: bool, **how: bool | str) -> str:
    """`text` with escape codes if `color`."""
    if not color:
        return text
    from click import style as styled

    return styled(text, **how)  # type: ignore[arg-type]


def _columns(character: str) -> int:
    if combining(character) or character in "\u200b\u200c\u200d\ufe0e\ufe0f":
        return 0
    return 2 if east_asian_width(character) in "WF" else 1
