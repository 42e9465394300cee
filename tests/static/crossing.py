"""A rule that needs several files, for tests of everything between a file and the checks over all.

A function that calls `danger` is reported where the program has a function `armed`, and a call of
`claimed` where it has a function of the name that is its argument; the fix calls `safe` instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import libcst as cst

import dropaudit.catalogue
import dropaudit.static.scanner
from dropaudit.catalogue import Rule
from dropaudit.findings import Finding, Location
from dropaudit.static.source import Change, Report, Source

if TYPE_CHECKING:
    from dropaudit.static.program.project import Project

rule = Rule("DRP998", "crossing", "Crossing.", triggers=(r"\bdanger\b|\bclaimed\b|\bcrash\b",))


@rule.in_source(cst.Call)
def _claimed(node: cst.Call, source: Source) -> Iterator[Report]:
    match node:
        case cst.Call(cst.Name("claimed"), [cst.Arg(cst.Name(name))]):
            change = Change(node.func, "replace", "safe")
            yield Report(node, f"{name} is there", (change,), about=(name,))


@rule.in_project
def _danger(project: Project) -> Iterator[Finding]:
    functions = [(path, one) for path, facts in project.files.items() for one in facts.functions]
    defined = {one.qualified: path for path, one in functions}
    if "crash" in defined:
        raise ValueError("a broken\nrule")
    for path, one in functions:
        if path in project.reported and "danger" in one.calls and "armed" in defined and one.name:
            where = Location(path, one.where.line, 1, one.where.end_line, one.where.end_column)
            yield rule.finding(where, f"armed in {defined['armed']}")
    for claim in project.claims(rule.code):
        if claim.about[0] in defined:
            yield claim.finding


def install() -> None:
    """Make it a rule of this process, beside all others: what a worker does in these tests."""
    every = (*dropaudit.catalogue.rules(), rule)
    dropaudit.catalogue.rules = lambda: every  # type: ignore[assignment]
    dropaudit.static.scanner.all_rules = lambda: every  # type: ignore[assignment]
