"""Fixes of one file, applied to a fixpoint. Bytes in, bytes out; reads and writes no file."""

from __future__ import annotations

import ast
import io
import math
import tokenize
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dropaudit.findings import Edit, Finding, Location, Severity
from dropaudit.static.record import FileRecord

ROUNDS = 100
_GROWTH = 20_000  # bytes that fixes may add, beyond doubling the file


@dataclass(frozen=True)
class Fixed:
    """The file after its fixes, the findings that were mended, and those that are left."""

    data: bytes
    applied: tuple[Finding, ...]
    remaining: tuple[Finding, ...]


def fix(
    path: str,
    data: bytes,
    record_of: Callable[[bytes], FileRecord],
    wanted: Callable[[FileRecord], list[Finding]],
    unsafe: bool,
) -> Fixed:
    """Mend what `wanted` leaves of the record of `data`, again and again until nothing changes.

    A fix that would break the syntax, or that cannot be written in the encoding of the file, is
    left out; the former is said by a DRP000 finding among those that remain. Fixes that never come
    to an end leave the file as it was, and that is said too.
    """
    file = _File(path, data, record_of)
    now, record = data, record_of(data)
    applied: list[Finding] = []
    seen = {data}
    for _ in range(ROUNDS):
        found = wanted(record)
        fixable = [f for f in found if f.fix is not None and (f.fix.safe or unsafe)]
        step = file.step(now, record, fixable)
        if step.record is None:
            return Fixed(now, tuple(applied), (*found, *(_broken(f) for f in step.broken)))
        if step.data in seen or len(step.data) > 2 * len(data) + _GROWTH:
            break
        now, record = step.data, step.record
        seen.add(now)
        applied += step.mended
    found = wanted(record_of(data))
    return Fixed(data, (), (*found, _endless(path, found)))


@dataclass(frozen=True)
class _Step:
    """One round: the new bytes and their record, None if there was nothing that could be done."""

    data: bytes
    record: FileRecord | None
    mended: Sequence[Finding] = ()
    broken: Sequence[Finding] = ()


class _File:
    def __init__(self, path: str, data: bytes, record_of: Callable[[bytes], FileRecord]) -> None:
        self._path = path
        self._record_of = record_of
        self._parses = _parser(path, data)

    def step(self, data: bytes, record: FileRecord, fixable: Sequence[Finding]) -> _Step:
        """All fixes that go together; one at a time where together they break the file."""
        batch = compatible(fixable)
        broken: list[Finding] = []
        for mended in (batch, *([f] for f in batch if len(batch) > 1)):
            new = self._edited(data, mended)
            if new is None or new == data:
                continue
            if self._parses(new):
                after = self._record_of(new)
                if _unchecked(after) <= _unchecked(record):
                    return _Step(new, after, mended)
            if len(mended) == 1:
                broken += mended
        return _Step(data, None, (), broken)

    def _edited(self, data: bytes, findings: Sequence[Finding]) -> bytes | None:
        """`data` with the edits of `findings`; None if one of them cannot be written there."""
        edits = {e: None for f in findings if f.fix is not None for e in f.fix.edits}
        try:
            if self._path.endswith(".ipynb"):
                from dropaudit.static.notebooks import Notebook

                return Notebook(data).edited(edits)
            return edited(data, edits)
        except ValueError:  # an encoding without the character, a notebook cell out of reach
            return None


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    r"""`data` with `edits`, which must not overlap; new lines end as those of the file do.

    >>> edited(b"a = 1\r\n", [Edit(5, 5, "\nb = 2"), Edit(0, 1, "c")])
    b'c = 1\r\nb = 2\r\n'
    """
    encoding = _encoding(data)
    newline = _newline(data)
    for edit in sorted(edits, reverse=True):
        text = newline.join(edit.text.replace("\r\n", "\n").split("\n"))
        data = data[: edit.start] + text.encode(encoding) + data[edit.stop :]
    return data


def compatible(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, first come first served, whose fixes can be applied together.

    Two fixes may share an edit that is a whole line, such as an import, or a replacement; any
    other touch is a conflict, and the later finding waits for the next round.
    """
    chosen: list[Finding] = []
    taken: dict[Edit, None] = {}
    for finding in findings:
        edits = finding.fix.edits if finding.fix is not None else ()
        if all(_shared(e) if e in taken else not _touches(e, taken) for e in edits):
            chosen.append(finding)
            taken.update(dict.fromkeys(edits))
    return chosen


def _shared(edit: Edit) -> bool:
    return edit.stop > edit.start or "\n" in edit.text


def _touches(edit: Edit, others: Iterable[Edit]) -> bool:
    for other in others:
        empty = edit.start == edit.stop or other.start == other.stop
        if edit.start < other.stop and other.start < edit.stop:
            return True
        if empty and edit.start <= other.stop and other.start <= edit.stop:
            return True
    return False


def _encoding(data: bytes) -> str:
    try:
        found = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
    except SyntaxError as error:
        raise ValueError(str(error)) from error
    return "utf-8" if found == "utf-8-sig" else found


def _newline(data: bytes) -> str:
    first = data.find(b"\n")
    if first < 0:
        return "\r" if b"\r" in data else "\n"
    return "\r\n" if data[first - 1 : first] == b"\r" else "\n"


def _parser(path: str, original: bytes) -> Callable[[bytes], bool]:
    """The strictest parser that takes `original`: Python's, else libcst's (other versions)."""
    if path.endswith(".ipynb"):
        return _notebook_parser(original)
    return _python_parses if _python_parses(original) else _libcst_parses


def _notebook_parser(original: bytes) -> Callable[[bytes], bool]:
    from dropaudit.static.notebooks import Notebook, NotebookError

    def broken(data: bytes) -> float:
        try:
            return len(Notebook(data).broken)
        except NotebookError:
            return math.inf

    allowed = broken(original)
    return lambda data: broken(data) <= allowed


def _python_parses(source: bytes) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _libcst_parses(source: bytes) -> bool:
    from dropaudit.static.calm import is_calm

    if not is_calm(source):  # its parser would recurse without bounds
        return False
    import libcst as cst

    try:
        cst.parse_module(source)
    except (cst.ParserSyntaxError, UnicodeError, LookupError, SyntaxError, RecursionError):
        return False
    return True


def _unchecked(record: FileRecord) -> int:
    return sum(f.code == "DRP000" for f in record.findings)


def _broken(finding: Finding) -> Finding:
    why = f"the fix of {finding.code} breaks the file and was left out; please report this"
    return _drp000(finding.where, why)


def _endless(path: str, found: Sequence[Finding]) -> Finding:
    codes = ", ".join(sorted({f.code for f in found if f.fix is not None})) or "no finding"
    why = f"the fixes of this file ({codes}) do not come to an end, so it was left as it is"
    return _drp000(Location(path, 1, 1, 1, 2), f"{why}; please report this")


def _drp000(where: Location, why: str) -> Finding:
    help = "Mend the line by hand, or suppress the finding."
    return Finding("DRP000", "unchecked", Severity.ERROR, where, why, help)
