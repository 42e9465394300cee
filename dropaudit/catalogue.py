"""What a rule is, and the discovery of all of them."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, TypeVar

from dropaudit.findings import Finding, Fix, Location, Severity

if TYPE_CHECKING:
    import libcst as cst

    from dropaudit.runtime.trace import Trace
    from dropaudit.static.program.project import Project
    from dropaudit.static.source import Report, Source

    N = TypeVar("N", bound=cst.CSTNode)
    SourceCheck = Callable[[N, Source], Iterator[Report]]
    ProjectCheck = Callable[[Project], Iterator[Finding]]
    TraceCheck = Callable[[Trace], Iterator["Observation"]]


@dataclass(frozen=True)
class Example:
    """A program: scanned by the tests, printed in the documentation.

    Lines that must be reported end in `# <code>`; every other line must stay silent, for every
    rule. `fixed` is what all fixes together, unsafe ones included, make of it. `live` names the
    codes that the runtime auditor must report when `model(batch)` runs. `others` are more files of
    the program, by path (`{"helpers.py": "..."}`): their own findings do not matter.
    """

    code: str
    fixed: str | None = None
    live: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", _even(self.code))
        object.__setattr__(self, "fixed", None if self.fixed is None else _even(self.fixed))
        object.__setattr__(self, "others", {n: _even(text) for n, text in self.others.items()})


def _even(program: str) -> str:
    return dedent(program).lstrip("\n")


@dataclass(frozen=True)
class Observation:
    """What a check over a trace reports: where, in one sentence what, and the figures behind it.

    `figures` are numbers by name. `severity` is the rule's own unless a check knows better.
    """

    where: Location
    message: str
    figures: tuple[tuple[str, float], ...] = ()
    severity: Severity | None = None


@dataclass(frozen=True)
class Rule:
    """One defect: its code, its name, the page that explains it, the programs that show it.

    `triggers` and `requires` are regular expressions over the bytes of a file. Wherever a check of
    the rule can report, one of `triggers` must match, and each of `requires`: on other files the
    rule is not run, and a file on which no rule is run is not parsed.
    """

    code: str
    name: str
    doc: str
    severity: Severity = Severity.ERROR
    triggers: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    preview: bool = False
    source_checks: list[tuple[type[cst.CSTNode], SourceCheck[Any]]] = field(
        default_factory=list, repr=False, compare=False
    )
    project_checks: list[ProjectCheck] = field(default_factory=list, repr=False, compare=False)
    trace_checks: list[TraceCheck] = field(default_factory=list, repr=False, compare=False)

    @property
    def summary(self) -> str:
        """The first paragraph of the page, on one line."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())

    @property
    def help(self) -> str:
        """What to do instead, on one line: the first paragraph under "Use instead"."""
        _, _, rest = self.doc.partition("\n## Use instead\n")
        return " ".join(rest.strip().split("\n\n")[0].split())

    @property
    def checks(self) -> tuple[str, ...]:
        """What can find it: "source" (reading a file), "program" (files together), "trace"."""
        # A file that cannot be parsed and a comment in vain are found without a check of their own.
        reading = bool(self.source_checks) or self.code in ("DRP000", "DRP001")
        return (
            ("source",) * reading
            + ("program",) * bool(self.project_checks)
            + ("trace",) * bool(self.trace_checks)
        )

    def in_source(self, kind: type[N]) -> Callable[[SourceCheck[N]], SourceCheck[N]]:
        """Register a stateless generator that is called with every `kind` node of a file."""

        def register(check: SourceCheck[N]) -> SourceCheck[N]:
            self.source_checks.append((kind, check))
            return check

        return register

    def in_project(self, check: ProjectCheck) -> ProjectCheck:
        """Register a stateless generator over the joined facts of all files.

        Files may be notebooks: lines of facts and findings count through all their code cells.
        """
        self.project_checks.append(check)
        return check

    def finding(self, where: Location, message: str, fix: Fix | None = None) -> Finding:
        """What a check over a program yields."""
        return Finding(self.code, self.name, self.severity, where, message, self.help, fix)

    def in_trace(self, check: TraceCheck) -> TraceCheck:
        """Register a pure generator over the numbers that an audit measured."""
        self.trace_checks.append(check)
        return check


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule in `dropaudit.rules`, by code. A rule that cannot be imported is an error."""
    import dropaudit.rules as package

    names = (found.name for found in pkgutil.iter_modules(package.__path__))
    modules = (import_module(f"{package.__name__}.{name}") for name in names)
    return tuple(sorted((module.rule for module in modules), key=lambda rule: rule.code))


@dataclass(frozen=True)
class Page:
    """What a rule file says of its rule, for who needs no check: the documentation page."""

    code: str
    name: str
    severity: Severity
    doc: str

    @property
    def summary(self) -> str:
        """The first paragraph of the page, on one line."""
        return " ".join(self.doc.strip().split("\n\n")[0].split())


@cache
def pages() -> dict[str, Page]:
    """Code to page, read from the rule files without importing them (or libcst).

    >>> pages()["DRP101"].summary
    'A hand-written dropout mask that is never divided by the keep probability.'
    """
    found = (_page(file) for file in sorted((Path(__file__).parent / "rules").glob("[a-z]*.py")))
    return {page.code: page for page in sorted(filter(None, found), key=lambda page: page.code)}


def _page(file: Path) -> Page | None:
    tree = ast.parse(file.read_bytes())
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="rule")],
                value=ast.Call(
                    args=[ast.Constant(value=str(code)), ast.Constant(value=str(name)), *_],
                    keywords=keywords,
                ),
            ):
                severity = {k.arg: k.value for k in keywords}.get("severity")
                kind = severity.attr if isinstance(severity, ast.Attribute) else "ERROR"
                doc = ast.get_docstring(tree, clean=False) or ""
                return Page(code, name, Severity[kind], doc)
    return None


@cache
def names() -> dict[str, str]:
    """Code to rule name, read from the rule files without importing them (or libcst).

    >>> names()["DRP201"]
    'functional-dropout-ignoring-mode'
    """
    head = re.compile(r'^rule = Rule\(\s*"(DRP\d{3})",\s*"([a-z0-9-]+)"', re.MULTILINE)
    files = sorted((Path(__file__).parent / "rules").glob("[a-z]*.py"))
    found = (head.search(file.read_text("utf-8")) for file in files)
    return dict(sorted((match[1], match[2]) for match in found if match))


@cache
def previews() -> frozenset[str]:
    """The codes of the rules that speak only under `--preview`, read without importing them."""
    head = re.compile(r'^rule = Rule\(\s*"(DRP\d{3})".*?^\)', re.MULTILINE | re.DOTALL)
    files = sorted((Path(__file__).parent / "rules").glob("[a-z]*.py"))
    found = (head.search(file.read_text("utf-8")) for file in files)
    return frozenset(m[1] for m in found if m and re.search(r"^    preview=True", m[0], re.M))


@cache
def across_files() -> frozenset[str]:
    """The codes of the rules that look at files together, read without importing them."""
    head = re.compile(
        r'^rule = Rule\(\s*"(DRP\d{3})".*?^@rule\.in_project$', re.MULTILINE | re.DOTALL
    )
    files = sorted((Path(__file__).parent / "rules").glob("[a-z]*.py"))
    found = (head.search(file.read_text("utf-8")) for file in files)
    return frozenset(match[1] for match in found if match)
