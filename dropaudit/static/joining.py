"""From the records of files to what the checks over the program find in them."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.record import Claim, FileRecord, Options

if TYPE_CHECKING:
    from dropaudit.catalogue import Rule
    from dropaudit.static.program.facts import FileFacts

_RECURSION = 20_000  # as the checks of one file have
_STACK = 256 * 1024 * 1024  # enough for that in any Python
_HELP = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."


def joined(
    records: Iterable[FileRecord],
    facts: Mapping[str, FileFacts],
    options: Options = Options(),  # noqa: B008 (frozen)
    rules: Sequence[Rule] | None = None,
) -> dict[str, tuple[Finding, ...]]:
    """What the checks over the program report in the files of `records`, by path.

    `facts` are those of all files that are at hand. A check that fails is one finding, on the
    first of the files.

    >>> joined([FileRecord("net.py")], {})
    {}
    """
    from dropaudit.catalogue import rules as all_rules

    chosen = [r for r in (all_rules() if rules is None else rules) if r.project_checks]
    of_path = {one.path: one for one in sorted(records, key=lambda one: one.path)}
    reported = [one for one in of_path.values() if one.path in facts]
    if not chosen or not reported:
        return {}
    names = _Names(facts)
    found = _with_room(lambda: list(_found(chosen, reported, facts, options, names)))
    by_path: dict[str, set[Finding]] = {}
    for finding in found:
        path = names.shown(finding.where.path)
        if path in of_path:
            finding = of_path[path].located(names.outer(finding))
            by_path.setdefault(path, set()).add(finding)
    return {path: tuple(sorted(by_path[path], key=_order)) for path in sorted(by_path)}


def scan_program(
    path: str,
    data: bytes,
    others: Mapping[str, bytes],
    rules: Sequence[Rule] | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> list[Finding]:
    """What is found in one Python file of a small program, by checks of both kinds, sorted.

    >>> [f.code for f in scan_program("net.py", b"from torch import nn\\nnn.Dropout(2.0)\\n", {})]
    ['DRP106']
    """
    from dropaudit.static.scanner import scan_file
    from dropaudit.static.unseen import facts_of

    findings, claims = scan_file(path, data, rules, options)
    record = FileRecord(path, tuple(findings), (), tuple(claims))
    read = {name: facts_of(text)[0] for name, text in {**others, path: data}.items()}
    facts = {name: one for name, one in read.items() if one is not None}
    found = joined([record], facts, options, rules).get(path, ())
    return list(record.completed(found).findings)


class _Names:
    """Paths that can be compared: as they are shown, but all absolute if some are.

    What lies outside the current directory is shown by its absolute path, the rest is not.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        paths = tuple(paths)
        self._mixed = len({os.path.isabs(path) for path in paths}) > 1
        self._shown = {self.inner(path): path for path in paths}

    def inner(self, path: str) -> str:
        if not self._mixed or os.path.isabs(path):
            return path
        return f"{os.getcwd().replace(os.sep, '/').rstrip('/')}/{path}"

    def shown(self, path: str) -> str:
        return self._shown.get(path, path)

    def outer(self, finding: Finding) -> Finding:
        return self._at(finding, self.shown(finding.where.path))

    def claim(self, claim: Claim) -> Claim:
        finding = claim.finding
        return replace(claim, finding=self._at(finding, self.inner(finding.where.path)))

    def _at(self, finding: Finding, path: str) -> Finding:
        if path == finding.where.path:
            return finding
        return replace(finding, where=replace(finding.where, path=path))


def _found(
    rules: Sequence[Rule],
    reported: Sequence[FileRecord],
    facts: Mapping[str, FileFacts],
    options: Options,
    names: _Names,
) -> Iterator[Finding]:
    from dropaudit.static.program.project import Project

    first = names.inner(reported[0].path)
    try:
        project = Project(
            {names.inner(path): one for path, one in facts.items()},
            [names.claim(claim) for one in reported for claim in one.claims],
            [names.inner(one.path) for one in reported],
            options,
            {names.inner(one.path): one.cells for one in reported if one.cells},
        )
    except Exception as error:
        yield _failed("the program cannot be joined", error, first)
        return
    for rule in rules:
        try:
            for check in rule.project_checks:
                yield from list(check(project))
        except Exception as error:  # one broken rule must neither hide nor stop the others
            yield _failed(f"rule {rule.code} failed", error, first)


def _failed(what: str, error: Exception, path: str) -> Finding:
    why = f"{what} ({type(error).__name__}: {error}); please report this"
    where = Location(path, 1, 1, 1, 2)
    return Finding("DRP000", "unchecked", Severity.ERROR, where, " ".join(why.split()), _HELP)


def _with_room(call: Callable[[], list[Finding]]) -> list[Finding]:
    """What `call` gives back, in a thread with a stack for deep recursion."""
    given: list[list[Finding]] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            given.append(call())
        except BaseException as error:  # handed on
            raised.append(error)

    limit, stack = sys.getrecursionlimit(), threading.stack_size()
    sys.setrecursionlimit(max(limit, _RECURSION))
    gc.freeze()  # the facts are no garbage: not to be looked through again and again
    threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
    finally:
        threading.stack_size(stack)
    try:
        thread.join()
    finally:
        gc.unfreeze()
        sys.setrecursionlimit(limit)
    if raised:
        raise raised[0]
    return given[0]


def _order(finding: Finding) -> tuple[object, ...]:
    return finding.sort_key
