"""
A dropout module that is built and never applied.

## What it does

Reports an attribute of a module that holds an `nn.Dropout` and that nothing reads: not the class,
not its bases and subclasses, in whatever file they are, not other code that holds the module.

## Why is this bad

The rate is part of the signature, of the configuration and perhaps of the paper, and has no
effect. Whoever tunes it measures noise.

## Example

```python
class Head(nn.Module):
    def __init__(self, dim, classes, rate=0.1):
        super().__init__()
        self.drop = nn.Dropout(rate)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x):
        return self.fc(x)
```

## Use instead

Apply the module in `forward`, or remove it together with its argument.

```python
    def forward(self, x):
        return self.fc(self.drop(x))
```

## Fix safety

There is no fix: where the dropout belongs is for the author to say.

## Not seen

Classes with bases that are not at hand, and abstract bases, mixins and classes without a `forward`
that nothing at hand builds on: somebody else may read the attribute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding, Severity
from dropaudit.runtime.trace import Trace
from dropaudit.static.arguments import arguments
from dropaudit.static.constants import constant
from dropaudit.static.expectations import in_test
from dropaudit.static.facts import AttributeValue, ClassFacts
from dropaudit.static.outgoing import qualified
from dropaudit.static.program.project import Project
from dropaudit.static.program.readers import ENTRIES, PLAIN_BASE, READS_ALL, SETTINGS, Readers
from dropaudit.static.program.resolve import ClassRef
from dropaudit.static.source import Report, Source, is_name, self_attribute
from dropaudit.static.walk import descend

rule = Rule(
    "DRP402",
    "dropout-never-applied",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"Dropout",),
    examples=(
        Example(
            """
            import torch.nn as nn

            class Attention(nn.Module):
                def __init__(self, dim, rate, emb_rate=0.1):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)
                    self.emb_drop = nn.Dropout(emb_rate)  # DRP402
                    self.channels = nn.Dropout2d(0.25) if rate else None  # DRP402

                def forward(self, x):
                    return self.drop(self.fc(x))
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from other import Encoder

            class Chain(nn.Sequential):
                def __init__(self, dim):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(0.1)

            class BaseRNN(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.drop = nn.Dropout(rate)

            class Mine(Encoder):
                def __init__(self, rate):
                    super().__init__()
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return super().forward(x)

            class Parent(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(4, 4)
                    self.drop = nn.Dropout(rate)
                    self.late = nn.Dropout(rate)
                    self.none = nn.Dropout(0)
                    self.named = nn.Dropout(rate)

                def forward(self, x):
                    return getattr(self, "named")(self.fc(x))

            class Child(Parent):
                def forward(self, x):
                    return self.fc(self.drop(x))

            class Locked(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(rate)

                def forward(self, x, lock):
                    return lock(x, self.rate)

            def use(model, x):
                return model.late(x)

            class Walk(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(4, 4)
                    self.dropout = nn.Dropout(rate)

                def forward(self, x):
                    for child in self.children():
                        x = child(x)
                    return x
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from .base import Encoder, Layer, unknown

            class Parent(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.used_below = nn.Dropout(rate)
                    self.used_outside = nn.Dropout(rate)
                    self.used_by_name = nn.Dropout(rate)
                    self.used_by_none = nn.Dropout(rate)  # DRP402

                def forward(self, x):
                    return x * 2

            class Abstract(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.late = nn.Dropout(rate)
                    self.never = nn.Dropout(rate)  # DRP402

            class Lonely(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.lone = nn.Dropout(rate)

            class Mine(Encoder):
                def __init__(self, rate):
                    super().__init__()
                    self.read_above = nn.Dropout(rate)
                    self.not_above = nn.Dropout(rate)  # DRP402

            class Other(unknown.Model):
                def __init__(self, rate):
                    super().__init__()
                    self.read_there = nn.Dropout(rate)

                def forward(self, x):
                    return x + 1
            """,
            others={
                "base.py": """
                import torch.nn as nn
                import elsewhere as unknown
                from .example import Abstract, Parent

                class Encoder(nn.Module):
                    def forward(self, x):
                        return self.read_above(x)

                class Child(Parent):
                    def forward(self, x):
                        return self.used_below(x)

                class Concrete(Abstract):
                    def forward(self, x):
                        return self.late(x)

                def run(model, x):
                    return model.used_outside(x) + getattr(model, "used_by_name")(x)
                """
            },
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Forgotten(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.first = nn.Dropout(0.1)
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)  # DRP402

                def forward(self, x):
                    return self.fc(self.first(x))

            model, batch = Forgotten(), torch.randn(64, 16)
            """,
            live=("DRP402",),
        ),
    ),
)

_KINDS = frozenset(
    f"torch.nn.{n}" for n in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout")
)
_ABSTRACT = re.compile(r"base|mixin|abstract|interface|template|parent", re.IGNORECASE)
_UNUSED = re.compile(r"unused|not used|compat|checkpoint|legacy|placeholder", re.IGNORECASE)


@rule.in_source(cst.ClassDef)
def built_and_never_read(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Where nobody in this file reads the attribute; whether others do, the program says."""
    facts = source.facts(node)
    built = [(one, call) for one in facts.assigned if (call := _builds(source, one)) is not None]
    if not built or not facts.foreign_bases or _in_test_folder(source) or in_test(source, node):
        return
    state = _state(facts)
    family = {f.node for f in (*facts.lineage, *facts.subclasses)}
    if _reads_every_child(source, family):
        return
    for one, call in built:
        rate = arguments(source, call, ("p",)).values.get("p")
        if rate is not None and constant(source, rate) == 0:
            continue
        if _is_read(source, one.name, family) or _excused(source, one.statement):
            continue
        if rate is not None and _is_used_otherwise(source, rate, family):
            continue
        value = 0.5 if rate is None else constant(source, rate)
        text = "" if value is None else f" at p = {value:g}"
        yield Report(
            call,
            f"`self.{one.name}` is built and never applied: nothing is dropped{text}",
            about=(state, qualified(source, node), one.name),
        )


@rule.in_project
def never_read(project: Project) -> Iterator[Finding]:
    """Where no class of the program, and nobody who holds an instance, reads the attribute."""
    readers = Readers(project.resolver)
    for claim in project.claims(rule.code):
        state, owner, name = claim.about
        ref = ClassRef(claim.finding.where.path, owner)
        if not readers.knows(ref) or readers.is_read(ref, name):
            continue
        if state == "closed" or (
            readers.is_whole(ref) and (state == "open" or readers.has_subclass(ref))
        ):
            yield claim.finding


def _is_used_otherwise(source: Source, rate: cst.BaseExpression, family: set[cst.ClassDef]) -> bool:
    """Whether a method passes the same rate to something else, such as a dropout function."""
    names = {self_attribute(rate)}
    if isinstance(rate, cst.Name):
        facts = [source.facts(node) for node in family]
        names |= {a.name for f in facts for a in f.assigned if is_name(a.value, rate.value)}
    return any(
        isinstance(source.parents.get(node), cst.Arg)
        and source.enclosing(node, cst.ClassDef) in family
        and (method := source.method_of(node)) is not None
        and method.name.value != "__init__"
        for name in names
        if name
        for node in source.attributes_by_name.get(name, [])
    )


def _builds(source: Source, one: AttributeValue) -> cst.Call | None:
    values = [one.value]
    if isinstance(one.value, cst.IfExp):
        values = [one.value.body, one.value.orelse]
    for value in values:
        if isinstance(value, cst.Call) and source.name_of(value.func) in _KINDS:
            return value
    return None


def _state(facts: ClassFacts) -> str:
    """Whether the file shows all that runs on such a module ("closed").

    Else it has bases in other files ("open"), or is there for others to build on ("base").
    """
    entry = next((m for n in ENTRIES if (m := facts.method(n)) is not None), None)
    if _ABSTRACT.search(facts.name) or (entry is not None and _is_abstract(entry)):
        return "base"
    if not all(PLAIN_BASE.match(b) for b in facts.foreign_bases):
        return "open"
    return "base" if entry is None else "closed"


def _is_abstract(method: cst.FunctionDef) -> bool:
    if any(
        "abstract" in getattr(d.decorator, "value", "")
        for d in method.decorators
        if isinstance(d.decorator, cst.Name)
    ):
        return True
    return any(isinstance(n, cst.Raise) for n in descend(method.body)) and not any(
        isinstance(n, cst.Return) and n.value is not None for n in descend(method.body)
    )


def _reads_every_child(source: Source, family: set[cst.ClassDef]) -> bool:
    """Whether the class goes over its children, or hands itself to code that could."""
    for name in READS_ALL:
        for node in source.attributes_by_name.get(name, []):
            if is_name(node.value, "self") and source.enclosing(node, cst.ClassDef) in family:
                return True
    return any(
        source.enclosing(call, cst.ClassDef) in family and not _only_inits(source, call)
        for call in _given_self(source)
    )


def _given_self(source: Source) -> list[cst.CSTNode]:
    """The calls of the file that are handed `self`; asked by many classes, looked up once."""
    if _given_self not in source.memo:
        source.memo[_given_self] = [
            source.parents[arg] for arg in source.nodes[cst.Arg] if is_name(arg.value, "self")
        ]
    found: list[cst.CSTNode] = source.memo[_given_self]
    return found


def _only_inits(source: Source, call: cst.CSTNode) -> bool:
    if not isinstance(call, cst.Call):
        return False
    match call.func:
        case cst.Name(value="super" | "isinstance" | "print" | "len" | "id" | "type" | "hasattr"):
            return True
        case cst.Attribute(attr=cst.Name(value="__init__" | "__setattr__")):
            return True
        case cst.Name(value="getattr" | "setattr" | "delattr") if len(call.args) > 1:
            return isinstance(call.args[1].value, cst.SimpleString)
    return False


def _is_read(source: Source, name: str, family: set[cst.ClassDef]) -> bool:
    for node in source.attributes_by_name.get(name, []):
        if isinstance(source.parents.get(node), cst.AssignTarget):
            continue
        if self_attribute(node):
            if source.enclosing(node, cst.ClassDef) in family:
                return True
        elif not SETTINGS.search(source.text(node.value)):
            return True
    quoted = {f'"{name}"', f"'{name}'"}
    for string in source.nodes[cst.SimpleString]:
        if string.value in quoted and source.enclosing(string, cst.ClassDef) in family:
            parent = source.parents.get(string)
            if not isinstance(parent, (cst.Index, cst.SubscriptElement)):
                return True
    return False


def _excused(source: Source, statement: cst.CSTNode) -> bool:
    """Whether a comment at the line says that it is unused on purpose."""
    line = source.parents.get(statement)
    if not isinstance(line, cst.SimpleStatementLine):
        return False
    comments = [e.comment for e in line.leading_lines] + [line.trailing_whitespace.comment]
    return any(c is not None and _UNUSED.search(c.value) for c in comments)


def _in_test_folder(source: Source) -> bool:
    folders = source.path.replace("\\", "/").split("/")[:-1]
    return any(f in ("test", "tests", "testing") for f in folders)


@rule.in_trace
def never_called(trace: Trace) -> Iterator[Observation]:
    """A dropout whose owner ran in whole training steps without it."""
    for idle in trace.idle:
        if not idle.lends_p and idle.owner_ran and 0 < idle.p <= 1:
            yield Observation(
                replace(idle.where, module=idle.module),
                f"`{idle.module}`, a `{idle.class_name}` with p = {idle.p:g}, was never called in "
                f"{idle.steps:,} training steps in which the `{idle.owner}` that holds it ran",
                (("steps", float(idle.steps)), ("p", idle.p)),
            )
