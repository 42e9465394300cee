"""The bytes of one file in, its record out; whatever the bytes are.

Silence means checked: what cannot be decoded, parsed or finished is a DRP000 finding. A file in
which the prefilter finds none of the words that rules declare cannot hold a finding, so it is no
concern of this tool whether it is Python. Facts are read of every file that is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.calm import MAX_BRACKETS, nests_too_deep
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.record import Claim, FileRecord, Options, Suppression
from dropaudit.static.unseen import facts_of

if TYPE_CHECKING:
    from dropaudit.static.notebooks import Broken

MAX_BYTES = 10_000_000

Locate = Callable[[int], tuple[int | None, int]]


class Unreadable(ValueError):
    """Why a file was not read, in words that follow its name."""


def read(path: Path) -> bytes:
    """The bytes of a file; raises `Unreadable`."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1_000_000} MB and was not checked")
    return data


def check(path: str, data: bytes, options: Options) -> FileRecord:
    """Every finding of every rule, and every suppression comment, in one file.

    >>> check("net.py", b"from torch import nn\\n", Options()).findings
    ()
    """
    try:
        return attempt(path, data, options)
    except MemoryError:
        return unchecked(path, "cannot be checked: it takes too much memory")


def attempt(path: str, data: bytes, options: Options) -> FileRecord:
    """As `check`, but `MemoryError` passes: a process in that state had better end."""
    try:
        if len(data) > MAX_BYTES:
            raise Unreadable(f"is larger than {MAX_BYTES // 1_000_000} MB and was not checked")
        return _notebook(path, data, options) if is_notebook(path) else _python(path, data, options)
    except Unreadable as error:
        return unchecked(path, str(error))
    except MemoryError:
        raise
    except RecursionError:
        return unchecked(path, "cannot be checked: an expression in it is too long or too deep")
    except ImportError:  # dropaudit itself is broken, as pool.py says of a worker
        raise
    except Exception as error:  # one file must not stop the others
        why = f"checking failed ({type(error).__name__}: {error}); please report this"
        return unchecked(path, " ".join(why.split()))


def unparsed(path: str, data: bytes) -> FileRecord:
    """The record of a file in which nothing can be found: its comments only."""
    return FileRecord(path, (), _suppressions(path, data, None), facts=FileFacts())


def unchecked(path: str, why: str) -> FileRecord:
    """The record of a file that could not be checked."""
    where = Location(path, 1, 1, 1, 2)
    help = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."
    return FileRecord(path, (Finding("DRP000", "unchecked", Severity.ERROR, where, why, help),))


def is_notebook(path: str) -> bool:
    return os.path.splitext(path)[1].lower() == ".ipynb"


def _python(
    path: str,
    data: bytes,
    options: Options,
    cell_ends: frozenset[int] = frozenset(),
    locate: Locate | None = None,
    cells: tuple[tuple[int, int], ...] = (),
) -> FileRecord:
    from dropaudit.catalogue import rules
    from dropaudit.static.prefilter import joining, prefilter, reading
    from dropaudit.static.scanner import scan_file

    found: list[Finding] = []
    claims: list[Claim] = []
    reads, joins = (prefilter(kind(rules()))(data) for kind in (reading, joining))
    if reads or joins:
        if b"\0" in data:
            raise Unreadable("is not Python: it holds NUL bytes")
        if nests_too_deep(data):
            raise Unreadable(
                f"cannot be parsed: more than {MAX_BRACKETS} brackets are open at once, "
                "which Python refuses too"
            )
    if reads:
        found, claims = scan_file(path, data, options=options, cell_ends=cell_ends)
    facts, unseen = facts_of(data)
    if unseen and joins and not any(finding.code == "DRP000" for finding in found):
        found = sorted(
            [*found, unseen.finding(path, data, reads)], key=lambda finding: finding.sort_key
        )
    comments = _suppressions(path, data, locate)
    return FileRecord(path, tuple(found), comments, tuple(claims), facts, cells, joins)


def _notebook(path: str, data: bytes, options: Options) -> FileRecord:
    from dropaudit.static.notebooks import Notebook, NotebookError

    try:
        notebook = Notebook(data)
    except NotebookError as error:
        raise Unreadable(str(error)) from error
    record = _python(
        path, notebook.source, options, notebook.cell_ends, notebook.locate, notebook.starts
    )
    record = replace(record, findings=tuple(map(record.located, record.findings)))
    broken = tuple(_broken_cell(path, cell) for cell in notebook.broken)
    if not broken or not _may_report("\n".join(notebook.cells).encode("utf-8", "replace")):
        return record
    findings = sorted((*record.findings, *broken), key=lambda finding: finding.sort_key)
    return replace(record, findings=tuple(findings))


def _broken_cell(path: str, broken: Broken) -> Finding:
    where = Location(path, broken.line, broken.column, broken.line, broken.column + 1, broken.cell)
    help = "Mend the cell, or exclude the notebook with `exclude` in `[tool.dropaudit]`."
    why = f"cannot be parsed, the other cells were checked: {broken.why}"
    return Finding("DRP000", "unchecked", Severity.ERROR, where, why, help)


def _may_report(data: bytes) -> bool:
    from dropaudit.catalogue import rules
    from dropaudit.static.prefilter import prefilter

    return prefilter(rules())(data)


def read_apart(path: str, data: bytes) -> FileFacts | None:
    """The facts of a file that is not reported on; None where there are none."""
    if len(data) > MAX_BYTES:
        return None
    try:
        if is_notebook(path):
            from dropaudit.static.notebooks import Notebook

            data = Notebook(data).source
        return facts_of(data)[0]
    except Exception:  # it is said where the file itself is checked
        return None


def _suppressions(path: str, data: bytes, locate: Locate | None) -> tuple[Suppression, ...]:
    from dropaudit.static.suppressions import find

    return find(path, data, locate)
