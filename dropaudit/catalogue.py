"""What a rule is, and the discovery of all of them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from textwrap import dedent
from typing import TYPE_CHECKING, Any, TypeVar

from dropaudit.findings import Severity

if TYPE_CHECKING:
    import libcst as cst

    from dropaudit.static.source import Report, Source

    N = TypeVar("N", bound=cst.CSTNode)
    SourceCheck = Callable[[N, Source], Iterator[Report]]


@dataclass(frozen=True)
class Example:
    """A program: scanned by the tests, printed in the docs.

    Lines that must be reported end in `# <code>`; every other line must stay silent, for every
    rule. `fixed` is what all fixes together make of it; `live` names the codes that the runtime
    auditor must report when `model(batch)` runs.
    """

    code: str
    fixed: str | None = None
    live: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "code", dedent(self.code).lstrip("\n"))
        if self.fixed is not None:
            object.__setattr__(self, "fixed", dedent(self.fixed).lstrip("\n"))


@dataclass(frozen=True)
class Rule:
    """One defect: its code, its name, the page that explains it, the programs that show it."""

    code: str
    name: str
    doc: str
    severity: Severity
    triggers: tuple[str, ...]
    examples: tuple[Example, ...]
    source_checks: list[tuple[type[cst.CSTNode], SourceCheck[Any]]] = field(
        default_factory=list, repr=False
    )

    @property
    def summary(self) -> str:
        return self.doc.strip().splitlines()[0]

    def in_source(self, kind: type[N]) -> Callable[[SourceCheck[N]], SourceCheck[N]]:
        """Register a stateless generator that is called with every `kind` node of a file."""

        def register(check: SourceCheck[N]) -> SourceCheck[N]:
            self.source_checks.append((kind, check))
            return check

        return register


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule in `dropaudit.rules`, by code. A rule that cannot be imported is an error."""
    import dropaudit.rules as package

    modules = (import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
    return tuple(sorted((m.rule for m in modules), key=lambda rule: rule.code))
