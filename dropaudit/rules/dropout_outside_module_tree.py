"""
Modules with dropout in a plain list, tuple or dict of `self`, where `eval()` cannot reach them.

## What it does

Reports an attribute of a Module that holds a plain container of modules in which dropout is
applied, when nothing registers them. The modules may be of classes that other files define.

## Why is this bad

`nn.Module` finds its children among its attributes only, not inside lists and dicts. What it does
not find, `eval()` does not switch, `parameters()` does not train, `to()` does not move and
`state_dict()` does not save. The dropout inside stays on in every prediction.

## Example

```python
def __init__(self, n):
    super().__init__()
    self.heads = [Head(dropout=0.1) for _ in range(n)]
```

## Use instead

Hold the modules in an `nn.ModuleList` or `nn.ModuleDict`.

```python
def __init__(self, n):
    super().__init__()
    self.heads = nn.ModuleList([Head(dropout=0.1) for _ in range(n)])
```

## Fix safety

The fix wraps the container in `nn.ModuleList`, or a dict with literal keys in `nn.ModuleDict`. It
is unsafe because the modules then appear in `parameters()` and `state_dict()`.

## Not seen

Blocks whose class is not among the files at hand, unless their name says dropout; containers that
a function returns.

## References

- [torch.nn.ModuleList](https://docs.pytorch.org/docs/stable/generated/torch.nn.ModuleList.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.modes import mode_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.containers import (
    Container,
    containers,
    foreign_items,
    holds_dropout,
    is_registered,
)
from dropaudit.static.names import dotted_text
from dropaudit.static.outgoing import built_class, qualified
from dropaudit.static.prefilter import may_report
from dropaudit.static.program.answering import holds_dropout as holds_dropout_inside
from dropaudit.static.program.answering import is_module
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.project import Project
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP204",
    "dropout-outside-module-tree",
    __doc__,
    triggers=(
        r"(?i:drop)",
        # blocks of other files, in a class of this one
        r"(?s:\A(?=.*?\bModule\b).*?"
        r"(=\s*(list|tuple|dict)?[\[({][^\]]{0,100}?|append\(\s*[\w.]*)\b[A-Z]\w*\s*\()",
    ),
    examples=(
        Example(
            """
            import torch.nn as nn

            class Block(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, n, rate):
                    super().__init__()
                    self.blocks = [Block(rate) for _ in range(n)]  # DRP204
                    self.heads = []  # DRP204
                    for _ in range(n):
                        head = Block(rate)
                        self.heads.append(head)
                    self.named = {"first": Block(rate)}  # DRP204

                def forward(self, x):
                    for block in (*self.blocks, *self.heads):
                        x = block(x)
                    return self.named["first"](x)
            """,
            fixed="""
            import torch.nn as nn

            class Block(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, n, rate):
                    super().__init__()
                    self.blocks = nn.ModuleList([Block(rate) for _ in range(n)])
                    self.heads = nn.ModuleList([])
                    for _ in range(n):
                        head = Block(rate)
                        self.heads.append(head)
                    self.named = nn.ModuleDict({"first": Block(rate)})

                def forward(self, x):
                    for block in (*self.blocks, *self.heads):
                        x = block(x)
                    return self.named["first"](x)
            """,
        ),
        Example(
            """
            from torch import nn
            from .layers import DropoutWrapper

            class Tasks(nn.Module):
                def __init__(self, rates):
                    super().__init__()
                    self.drops = list()  # DRP204
                    for rate in rates:
                        self.drops.append(DropoutWrapper(rate, False))
                    local = [nn.Dropout(rate) for rate in rates]
                    self.more = local  # DRP204

                def forward(self, x):
                    for drop in (*self.drops, *self.more):
                        x = drop(x)
                    return x
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from .blocks import Block, Plain, Quiet, Record

            class Net(nn.Module):
                def __init__(self, n, rate):
                    super().__init__()
                    self.blocks = [Block(8) for _ in range(n)]  # DRP204
                    self.late = []  # DRP204
                    for _ in range(n):
                        self.late.append(Quiet(8, rate))
                    self.kept = nn.ModuleList([Block(8) for _ in range(n)])
                    self.plain = [Plain(8) for _ in range(n)]
                    self.quiet = [Quiet(8) for _ in range(n)]
                    self.zero = [Quiet(8, rate=0.0) for _ in range(n)]
                    self.records = [Record(8) for _ in range(n)]
                    self.body = [Block(8) for _ in range(n)]
                    self.body = nn.Sequential(*self.body)

                def forward(self, x):
                    for block in (*self.blocks, *self.late, *self.kept, *self.plain):
                        x = block(x)
                    return self.body(x)

            class Trainer:
                def __init__(self):
                    self.models = [Block(8), Block(16)]
            """,
            others={
                "blocks.py": """
                import torch.nn as nn

                class Quiet(nn.Module):
                    def __init__(self, dim, rate=0.0):
                        super().__init__()
                        self.drop = nn.Dropout(rate)

                    def forward(self, x):
                        return self.drop(x)

                class Block(nn.Module):
                    def __init__(self, dim):
                        super().__init__()
                        self.body = nn.Sequential(nn.Linear(dim, dim), Quiet(dim, rate=0.1))

                    def forward(self, x):
                        return self.body(x)

                class Plain(nn.Module):
                    def __init__(self, dim):
                        super().__init__()
                        self.norm = nn.BatchNorm1d(dim)

                    def forward(self, x):
                        return self.norm(x)

                class Record:
                    def __init__(self, dim):
                        self.drop = nn.Dropout(0.5)
                """
            },
        ),
        Example(
            """
            from collections import OrderedDict
            from functools import reduce
            import torch.nn as nn
            from torch.nn import ModuleList as Layers

            class Plain(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    return self.fc(x)

            class Net(nn.Module):
                def __init__(self, n, rate, teacher):
                    super().__init__()
                    layers = [nn.Linear(8, 8), nn.Dropout(rate)]
                    layers += [nn.ReLU(), nn.Dropout(rate)]
                    self.body = nn.Sequential(*layers)
                    self.features = [nn.Linear(8, 8)]
                    self.features.append(nn.Dropout(rate))
                    self.features = nn.Sequential(*self.features)
                    self.logit = [[nn.ReLU(), nn.Dropout(0.5)] for _ in range(n)]
                    self.logit = nn.Sequential(*(reduce(lambda a, b: a + b, self.logit)))
                    self.drops = Layers([nn.Dropout(rate) for _ in range(n)])
                    self.pairs = nn.Sequential(OrderedDict([("drop", nn.Dropout(rate))]))
                    self.blocks = []
                    for at in range(n):
                        block = nn.Sequential(nn.Dropout(rate))
                        self.add_module(f"block{at}", block)
                        self.blocks.append(block)
                    self.plain = [Plain() for _ in range(n)]
                    self.dropout = nn.Dropout(rate)
                    self.order = [self.dropout, self.body]
                    self.hidden = [teacher.eval()]
                    self.rates = [rate, 0.5]

                def forward(self, x):
                    for block in (*self.drops, *self.blocks, *self.plain, *self.order):
                        x = block(x)
                    x = self.features(self.logit(self.pairs(x)))
                    return x, self.hidden[0](x), self.rates

            class Shared(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.first = nn.Dropout(rate)
                    layers = [nn.Dropout(rate)]
                    self.layers = layers
                    self.registered = nn.ModuleList(layers)

                def forward(self, x):
                    return self.layers[0](self.first(x))

            class Follows(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.hidden = [nn.Dropout(rate)]

                def train(self, mode=True):
                    for layer in self.hidden:
                        layer.train(mode)
                    return super().train(mode)

                def forward(self, x):
                    return self.hidden[0](x)

            class Unpacked(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.one, self.other = [nn.Dropout(rate) for _ in range(2)]
                    self.first, self.second = nn.Dropout(rate), [rate]

                def forward(self, x):
                    return self.first(x) * self.one(x) * self.other(x) * self.second[0]

            class Settings:
                def __init__(self, rate):
                    self.layers = [nn.Dropout(rate)]

            class DropoutRecord:
                def __init__(self):
                    self.mask = None

            class Recording(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.records = [DropoutRecord()]

                def forward(self, x):
                    self.records.append(DropoutRecord())
                    return x
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Layer(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Stack(nn.Module):
                def __init__(self, rate=0.3):
                    super().__init__()
                    self.layers = [Layer(rate) for _ in range(2)]  # DRP204
                    self.head = nn.Linear(16, 2)

                def forward(self, x):
                    for layer in self.layers:
                        x = layer(x)
                    return self.head(x)

            model, batch = Stack(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn

            class Layer(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Stack(nn.Module):
                def __init__(self, rate=0.3):
                    super().__init__()
                    self.layers = nn.ModuleList([Layer(rate) for _ in range(2)])
                    self.head = nn.Linear(16, 2)

                def forward(self, x):
                    for layer in self.layers:
                        x = layer(x)
                    return self.head(x)

            model, batch = Stack(), torch.randn(64, 16)
            """,
            live=("DRP204",),
        ),
    ),
)


@rule.in_source(cst.ClassDef)
def plain_container_of_dropouts(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Attributes that hold a plain container in a Module, unless something registers its items."""
    facts = source.facts(node)
    if not facts.is_module:
        return
    for container in containers(facts, source):
        for what, about in _dropouts(container, source):
            if is_registered(container, facts, source):
                break
            if source.modes.in_test(node) or source.modes.on_purpose(container.node):
                break
            yield Report(
                container.node,
                f"`self.{container.name}` is a plain {container.kind}, so `eval()` never reaches "
                f"the dropout in its `{what}`: it stays on in every prediction",
                _wrapped(container, source),
                title="Register the modules",
                about=(qualified(source, node), *about) if about else (),
            )


@rule.in_project
def plain_container_of_blocks(project: Project) -> Iterator[Finding]:
    """Containers whose items are of classes with dropout inside that other files define."""
    layers = Layers(project.resolver, only_drops=True)
    seen = set()
    for claim in project.claims(rule.code):
        where = claim.finding.where
        holder, *about = claim.about
        if where in seen or not is_module(layers, project.resolver, where.path, holder):
            continue
        if holds_dropout_inside(layers, project.resolver, where.path, about):
            seen.add(where)
            yield claim.finding


def _dropouts(container: Container, source: Source) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The item with dropout inside; else those of other files, with what to ask of each."""
    what = holds_dropout(container, source)
    if what:
        yield what, ()
        return
    for call in foreign_items(container, source):
        about = built_class(source, call)
        if about and may_report(rule, source.module.bytes):
            yield dotted_text(call.func), about


def _wrapped(container: Container, source: Source) -> tuple[Change, ...]:
    wrapper = container.wrapper(source)
    if not wrapper:
        return ()
    value = container.value
    return (Change(value, "before", f"{wrapper}("), Change(value, "after", ")"))


@rule.in_trace
def unregistered(trace: Trace) -> Iterator[Observation]:
    """A dropout module that runs and is not among the model's modules."""
    for site in evidence(trace):
        if mode_code(site) == "DRP204":
            calls = site.site.training.calls + site.site.eval.calls
            yield site.observe(
                f"{site.name} ran in {calls:,} calls and is not registered in the model: "
                f"`model.eval()` cannot switch it off",
                calls=calls,
                acted=site.site.training.acted + site.site.eval.acted,
            )
