"""Comments that silence findings: found in a file, applied to its record, judged if unused.

x = F.dropout(x, p)  # noqa: DRP201
x = F.dropout(x, p)  # dropaudit: ignore[DRP201] Monte-Carlo dropout
# dropaudit: file-ignore[DRP201]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from dropaudit.catalogue import across_files, names
from dropaudit.findings import Edit, Finding, Fix, Location, Severity
from dropaudit.selection import UNCHECKED, nearest
from dropaudit.static.comments import Comment, Comments
from dropaudit.static.record import FileRecord, Suppression

UNUSED = "DRP001"

Locate = Callable[[int], tuple[int | None, int]]

_HINT = re.compile(rb"noqa|dropaudit[ \t]*:", re.IGNORECASE)
_NOQA = re.compile(
    r"#\s*noqa(?:\s*:(?P<codes>\s*[A-Z]+[0-9]*(?:[,\s]+[A-Z]+[0-9]+)*|\s*(?=$|#))|(?![\w:])(?!\s*:))",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"#\s*dropaudit\s*:\s*(?P<form>file-ignore|ignore)\b(?:\s*\[(?P<codes>[^\]#]*)\])?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\s,]+")
_OURS = re.compile(r"DRP\d*\Z", re.IGNORECASE)


def find(path: str, data: bytes, locate: Locate | None) -> tuple[Suppression, ...]:
    """The suppressions in a Python source; `locate` gives cell and line of a notebook's line.

    >>> [s.codes for s in find("net.py", b"x = 1  # noqa: E501, DRP201\\n", None)]
    [('DRP201',)]
    """
    if _HINT.search(data) is None:
        return ()
    comments = Comments(data)
    found = (
        one
        for comment in comments
        if _HINT.search(comment.text.encode("utf-8", "replace"))
        for one in _in_comment(path, comment, comments, locate or (lambda line: (None, line)))
    )
    return tuple(found)


def apply(record: FileRecord, selected: Callable[[str], bool]) -> list[Finding]:
    """The findings that are selected and not suppressed, and the suppressions that are unused.

    That a file could not be checked is silenced only by its own code, and its suppressions are
    not judged: what they would silence is not known. Nor are the codes of rules across files where
    these saw only a part of the program.
    """
    used: set[tuple[int, str]] = set()
    left = [
        finding
        for finding in record.findings
        if selected(finding.code) and not _silenced(finding, record.suppressions, used)
    ]
    if selected(UNUSED) and not any(f.code == UNCHECKED for f in record.findings):
        known, unsure = names(), across_files() if record.partial else frozenset()

        def judged(code: str) -> bool:
            return selected(code) and code not in unsure

        unused = [
            finding
            for at, suppression in enumerate(record.suppressions)
            if (finding := _unused(suppression, at, used, known, judged)) is not None
        ]
        left += [f for f in unused if not _silenced(f, record.suppressions, used)]
    return sorted(left, key=lambda finding: finding.sort_key)


def segment(text: str, start: int) -> int:
    """The end of the part of a comment that starts with the `#` at `start`.

    >>> segment("# noqa: DRP201  # why", 0)
    14
    """
    following = text.find("#", start + 1)
    return len((text if following < 0 else text[:following]).rstrip())


def noqa_codes(text: str) -> tuple[int, int] | None:
    """Where the codes of the first `# noqa: ...` with codes in a comment start and end.

    >>> noqa_codes("# noqa: E501 # why")
    (8, 12)
    """
    for match in _NOQA.finditer(text):
        codes = match["codes"]
        if codes and codes.strip():
            return match.end() - len(codes.lstrip()), match.end()
    return None


def _in_comment(
    path: str, comment: Comment, comments: Comments, locate: Locate
) -> Iterator[Suppression]:
    for match in _NOQA.finditer(comment.text):
        words = _WORD.findall(match["codes"] or "")
        codes = tuple(word.upper() for word in words if _OURS.match(word))
        if codes or not words:
            yield _suppression(path, comment, match.start(), comments, "noqa", codes, locate)
    for match in _OWN.finditer(comment.text):
        form: Literal["ignore", "file-ignore"] = (
            "file-ignore" if match["form"].lower() == "file-ignore" else "ignore"
        )
        codes = tuple(_code(word) for word in _WORD.findall(match["codes"] or ""))
        yield _suppression(path, comment, match.start(), comments, form, codes, locate)


def _code(word: str) -> str:
    """The code of a rule that is given by name; anything else as it is."""
    by_name = {name: code for code, name in names().items()}
    return by_name.get(word.lower()) or (word.upper() if _OURS.match(word) else word)


def _suppression(
    path: str,
    comment: Comment,
    at: int,
    comments: Comments,
    form: Literal["noqa", "ignore", "file-ignore"],
    codes: tuple[str, ...],
    locate: Locate,
) -> Suppression:
    start = comment.start + at
    stop = comment.start + segment(comment.text, at)
    line = comments.line(start)
    cell, shown = locate(line)
    column = comments.column(start)
    where = Location(path, shown, column, shown, column + stop - start, cell)
    first = shown - (line - comments.statement_lines(line)[0])
    lines = None if form == "file-ignore" else (first, shown)
    first_removed, after_removed = _removal(start, stop, comments)
    edit = Edit(comments.byte(first_removed), comments.byte(after_removed), "")
    text = comments.text[first_removed:after_removed]
    return Suppression(where, form, codes, lines, edit, text)


def _removal(start: int, stop: int, comments: Comments) -> tuple[int, int]:
    """What goes with the comment: no blanks are left at the end of the line, no empty line."""
    first, last, after = comments.line_span(comments.line(start))
    before, rest = comments.text[first:start], comments.text[stop:last]
    if not rest.strip():
        stop = last
        start = first + len(before.rstrip())
        if start == first and not before.rstrip():
            stop = after
    else:  # another comment follows
        stop = stop + len(rest) - len(rest.lstrip())
    return start, stop


def _silenced(
    finding: Finding, suppressions: tuple[Suppression, ...], used: set[tuple[int, str]]
) -> bool:
    silenced = False
    for at, suppression in enumerate(suppressions):
        if not _covers(suppression, finding.where):
            continue
        if not suppression.codes and finding.code not in (UNCHECKED, UNUSED):
            used.add((at, ""))
            silenced = True
        for code in suppression.codes:
            exact = finding.code == code
            if exact or (code and finding.code.startswith(code) and finding.code != UNCHECKED):
                used.add((at, code))
                silenced = True
    return silenced


def _covers(suppression: Suppression, where: Location) -> bool:
    if suppression.lines is None:
        return True
    if suppression.where.cell != where.cell:
        return False
    first, last = suppression.lines
    return first <= where.line <= last or first <= where.end_line <= last


def _unused(
    suppression: Suppression,
    at: int,
    used: set[tuple[int, str]],
    known: Mapping[str, str],
    judged: Callable[[str], bool],
) -> Finding | None:
    if not suppression.codes:
        certain = suppression.form != "noqa" and all(judged(code) for code in _usual(known))
        if not certain or (at, "") in used:
            return None
        return _finding(suppression, "unused suppression: there is nothing to silence", None)
    needless, why = [], []
    for code in dict.fromkeys(suppression.codes):
        meant = [one for one in known if one == code or _is_prefix(code, one)]
        if not meant:
            near = nearest(code, known)
            hint = f" (did you mean {near[0]}?)" if near else ""
            why.append(f"{code} is no rule{hint}")
            needless.append(code)
        elif (at, code) not in used and UNUSED not in meant and all(map(judged, meant)):
            why.append(f"{code} is not reported here")
            needless.append(code)
    return _finding(suppression, f"unused suppression: {', '.join(why)}", needless) if why else None


def _is_prefix(code: str, one: str) -> bool:
    return _OURS.match(code) is not None and one.startswith(code)


def _usual(known: Mapping[str, str]) -> Iterator[str]:
    from dropaudit.catalogue import previews

    return (code for code in known if code not in previews() and code not in (UNCHECKED, UNUSED))


def _finding(suppression: Suppression, message: str, needless: list[str] | None) -> Finding:
    edit, title = suppression.edit, "Remove the comment"
    rest = "" if needless is None else _without(suppression, needless)
    if rest:
        edit, title = Edit(edit.start, edit.stop, rest), "Remove the unused codes"
    help = "Remove the comment, or the code in it that is not needed."
    fix = Fix(title, (edit,), safe=True)
    return Finding(
        UNUSED, "unused-suppression", Severity.WARNING, suppression.where, message, help, fix
    )


def _without(suppression: Suppression, needless: list[str]) -> str:
    """The text of the comment without some codes; empty if no code is left."""
    text = suppression.text
    span = noqa_codes(text) if suppression.form == "noqa" else _own_codes(text)
    if span is None:
        return ""
    words = [w for w in _WORD.findall(text[slice(*span)]) if _code(w) not in needless]
    return text[: span[0]] + ", ".join(words) + text[span[1] :] if words else ""


def _own_codes(text: str) -> tuple[int, int] | None:
    match = _OWN.search(text)
    return None if match is None or match["codes"] is None else match.span("codes")
