"""The table of an audit: one site a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

from dropaudit.findings import Location
from dropaudit.runtime.trace import Forward, Site
from dropaudit.runtime.world import ranks_text

FEW = 64
"""Fewer informative elements than this say nothing."""
_HEAD = ("site", "line", "what", "p", "calls", "drop", "scale", "backward", "eval")
_RIGHT = ("p", "calls", "drop", "scale")
_NAMES = 3
"""How many of the columns are names; the others are figures, and short."""


def table(sites: Sequence[Site], width: int) -> str:
    """The sites as a table, one a row; one in two rows if names are too long for `width` columns.

    "drop" and "scale" are what was measured in training: the share of draws that dropped, and
    y / x where an element was kept. "backward" says whether the gradient used the forward pass's
    mask, on how many elements (or inner products) that was compared, or in how many passes of all
    it did not. "eval" says what the calls in eval mode did.
    """
    rows = [_HEAD, *(_cells(site) for site in sites)]
    if sum(_widths(rows)) + 2 * (len(_HEAD) - 1) <= width:
        widths = _widths(rows)
        return "\n".join(_line(row, widths) for row in rows)
    widths = _widths([row[_NAMES:] for row in rows])
    lines = ["  ".join(_HEAD[:_NAMES]), "    " + _line(_HEAD[_NAMES:], widths)]
    for row in rows[1:]:
        lines += ["  ".join(row[:_NAMES]), "    " + _line(row[_NAMES:], widths)]
    return "\n".join(lines)


def place(where: Location) -> str:
    """A location as text, the model itself and what is outside of it by a name.

    >>> place(Location("net.py", 3, 1, 3, 1, module=""))
    '(the model) at net.py:3'
    """
    return str(where if where.module is None else replace(where, module=_module(where.module)))


def many(count: int, noun: str) -> str:
    """A count with its noun.

    >>> many(1, "site"), many(1200, "site")
    ('1 site', '1,200 sites')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def size(amount: int) -> str:
    """Bytes, as a person reads them.

    >>> size(512), size(1_300_000)
    ('512 B', '1.2 MiB')
    """
    value, units = float(amount), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _module(path: str) -> str:
    special = {"": "(the model)", "?": "(not in the model)", "-": "(no module)"}
    return special.get(path, path)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        cell.rjust(width) if head in _RIGHT else cell.ljust(width)
        for cell, width, head in zip(cells, widths, _HEAD[-len(cells) :], strict=True)
    )
    return "  ".join(padded).rstrip()


def _cells(site: Site) -> tuple[str, ...]:
    return (
        _module(site.module) + (f" [{ranks_text(site.ranks)}]" if site.ranks else ""),
        _place(site),
        site.function,
        _p(site),
        f"{site.training.calls:,}",
        _ratio(site.training),
        "-" if site.training.scale is None else f"{site.training.scale:.4f}",
        _backward(site),
        _eval(site),
    )


def _place(site: Site) -> str:
    return f"{PurePath(site.where.path).name}:{site.where.line}"


def _p(site: Site) -> str:
    if site.p_least is not None and site.p_most is not None and site.p_least != site.p_most:
        return f"{site.p_least:.4g}..{site.p_most:.4g}"
    return "?" if site.p is None else f"{site.p:.4g}"


def _ratio(forward: Forward) -> str:
    return f"{forward.drops / forward.draws:.4f}" if forward.draws else "-"


def _backward(site: Site) -> str:
    """The verdict of the comparison of masks, with what stands behind it."""
    backward = site.backward
    if not backward.calls:
        return "no gradient" if site.no_gradient else "-"
    if backward.faulty:
        return f"WRONG {backward.faulty:,} of {backward.calls:,}"
    compared = backward.elements or backward.products
    if backward.elements and backward.elements < FEW:
        return f"too few: {compared:,}"
    return f"same {compared:,}" if compared else "not seen"


def _eval(site: Site) -> str:
    forward = site.eval
    if not forward.calls:
        return "-"
    if not forward.acted:
        return f"same {forward.calls:,}"
    what = "DROPS" if forward.drops or not forward.draws else "changes"
    return f"{what} {forward.acted:,} of {forward.calls:,}"
