"""A few lines of source with the reported range marked under them."""

from __future__ import annotations

from collections.abc import Sequence

from dropaudit.findings import Location
from dropaudit.reporting.terminal import printable, style, width

_AROUND = 2  # lines of context on either side
_HEAD, _TAIL = 4, 2  # lines that are kept of a range that is longer than both
_WIDEST = 160  # columns of source


def frame(where: Location, lines: Sequence[str], label: str, color: bool = False) -> str:
    """The lines around `where`, carets under its range; empty where there are no such lines.

    >>> print(frame(Location("net.py", 2, 5, 2, 8), ["import a", "x = foo", ""], "DRP401"), end="")
      |
    1 | import a
    2 | x = foo
      |     ^^^ DRP401
      |
    """
    if not 0 < where.line <= len(lines):
        return ""
    last = min(max(where.end_line, where.line), len(lines))
    if where.end_column <= 1 and last > where.line:  # the end is exclusive
        last -= 1
    shown = _shown(where.line, last, lines)
    gutter = len(str(shown[-1]))
    bar = style("|", color, fg="blue", bold=True)
    rows = [f"{'':{gutter}} {bar}"]
    multiple = last > where.line
    crop = _crop(where, lines) if not multiple else 0
    previous = shown[0] - 1
    for number in shown:
        if number > previous + 1:
            rows.append(style("." * 3, color, fg="blue", bold=True))
        previous = number
        margin = ""
        if multiple:
            margin = "  "
            inside = where.line < number <= last or (
                number == where.line and _starts_line(where, lines)
            )
            if inside:
                margin = ("/" if number == where.line else "|") + " "
                margin = style(margin, color, fg="red", bold=True)
        text = _cropped(printable(_expanded(lines[number - 1])), crop)
        head = style(f"{number:>{gutter}}", color, fg="blue", bold=True)
        rows.append(f"{head} {bar} {margin}{text}".rstrip())
        mark = _mark(number, where, last, lines, crop, multiple)
        if mark:
            mark += f" {label}" if number == last else ""
            rows.append(f"{'':{gutter}} {bar} {style(mark, color, fg='red', bold=True)}")
    rows.append(f"{'':{gutter}} {bar}")
    return "\n".join(rows) + "\n"


def _shown(first: int, last: int, lines: Sequence[str]) -> list[int]:
    """The numbers of the lines to show: the range, context that is not blank at its edges."""
    top, bottom = max(first - _AROUND, 1), min(last + _AROUND, len(lines))
    while top < first and not lines[top - 1].strip():
        top += 1
    while bottom > last and not lines[bottom - 1].strip():
        bottom -= 1
    inside = list(range(first, last + 1))
    if len(inside) > _HEAD + _TAIL + 1:
        inside = inside[:_HEAD] + inside[-_TAIL:]
    return [*range(top, first), *inside, *range(last + 1, bottom + 1)]


def _mark(
    number: int, where: Location, last: int, lines: Sequence[str], crop: int, multiple: bool
) -> str:
    """What stands under line `number`: carets, or the corner of a range of several lines."""
    line = lines[number - 1]
    if not multiple:
        if number != where.line:
            return ""
        start = _display(line, where.column)
        stop = _display(line, where.end_column) if where.end_line == where.line else start
        start, stop = (at - crop + (1 if crop else 0) for at in (start, stop))
        room = _WIDEST + 1 - start
        return " " * start + "^" * min(max(stop - start, 1), max(room, 1))
    if number == where.line and not _starts_line(where, lines):
        return " " + "_" * (min(_display(line, where.column), _WIDEST) + 1) + "^"
    if number == last:
        end = len(line) + 1 if last < where.end_line else where.end_column
        return "|" + "_" * min(max(_display(line, end), 1), _WIDEST) + "^"
    return ""


def _starts_line(where: Location, lines: Sequence[str]) -> bool:
    return not lines[where.line - 1][: where.column - 1].strip()


def _display(line: str, column: int) -> int:
    """The columns of the terminal that the characters before `column` take."""
    return width(printable(_expanded(line[: column - 1])))


def _expanded(line: str) -> str:
    return line.replace("\t", "    ")


def _crop(where: Location, lines: Sequence[str]) -> int:
    """How many columns to leave out on the left, so that a range far to the right is seen."""
    line = lines[where.line - 1]
    if width(printable(_expanded(line))) <= _WIDEST:
        return 0
    return max(_display(line, where.column) - _WIDEST // 2, 0)


def _cropped(text: str, crop: int) -> str:
    """`text` from display column `crop` on, as wide as a frame may be."""
    if width(text) <= _WIDEST and not crop:
        return text
    kept, at = "", 0
    for character in text:
        if crop <= at < crop + _WIDEST:
            kept += character
        at += width(character)
    return ("…" if crop else "") + kept + ("…" if at > crop + _WIDEST else "")
