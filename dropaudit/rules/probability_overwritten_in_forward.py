"""
A forward that overwrites the rate of a dropout, for good.

## What it does

Reports `self.p = ...` or `self.dropout.p = ...` with a constant, in a `forward` under a condition
or in a method that `forward` calls, where nothing in the class puts the old rate back.

## Why is this bad

The attribute outlives the call. A rate set to zero for one evaluation stays zero when training goes
on, and the network trains without the dropout that its configuration names.

## Example

```python
def forward(self, x):
    if not self.training:
        self.dropout.p = 0.0  # still 0 in the next training step
    return self.fc(self.dropout(x + 1))
```

## Use instead

Leave the rate alone and let the mode decide: a dropout module does nothing after `eval()`.

```python
def forward(self, x):
    return self.fc(self.dropout(x + 1))
```

## Fix safety

There is no fix: whether the line goes, or the rate is put back, is for the author to say.

## Not seen

Rates that other objects set; a value that is worked out, since that may be a schedule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.source import Report, Source, number, self_attribute, statements
from dropaudit.static.walk import descend

rule = Rule(
    "DRP214",
    "probability-overwritten-in-forward",
    __doc__,
    triggers=(r"\.\s*(?:_?p|_?rate|\w*drop\w*)\s*=(?!=)[\s(\\]*[-+.\d]",),
    examples=(
        Example(
            """
            from torch import nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(8, 2)
                    self.dropout = nn.Dropout(0.2)

                def forward(self, x):
                    if not self.training:
                        self.dropout.p = 0.0  # DRP214
                        self.rate = 0  # DRP214
                    x = F.dropout(x, self.rate, self.training)
                    return self.fc(self.dropout(x + 1))
            """
        ),
        Example(
            """
            from torch import nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.steps = 0
                    self.drop = nn.Dropout(rate)
                    self.now = rate

                def set_rate(self, rate):
                    self.drop.p = rate

                def off(self):
                    self.drop.p = 0.0

                def forward(self, x):
                    self.now = self.rate if self.training else 0.0
                    self.drop.p = self.now * min(1.0, self.steps / 1000)
                    return F.dropout(x + self.drop(x), self.now, self.training)

            class Both(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    if self.training:
                        self.drop.p = 0.1
                    else:
                        self.drop.p = 0.0
                    return self.drop(x)

            class Restored(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    before = self.drop.p
                    self.drop.p = 0.0
                    y = self.drop(x)
                    self.drop.p = before
                    return y
            """
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Annealed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    if x.shape[0] > 32:
                        self.drop.p = 0.1  # DRP214
                    return self.drop(self.fc(x))

            model, batch = Annealed(), torch.randn(64, 16)
            """,
            live=("DRP214",),
        ),
    ),
)
_RATE = re.compile(r"^_?(p|\w*drop\w*|rate)$")
_OTHER_RATE = re.compile(r"drop_?last|dropp(ed|ing)|backdrop|count|num|idx|index|mask|layer|out$")


@rule.in_source(cst.Assign)
def rate_overwritten(assign: cst.Assign, source: Source) -> Iterator[Report]:
    """A constant written over the rate that the constructor set."""
    if len(assign.targets) != 1:
        return
    value = number(assign.value)
    method = source.method_of(assign)
    facts = source.class_of(assign)
    if value is None or method is None or facts is None or not facts.is_surely_module:
        return
    path = _rate_path(source, assign.targets[0].target)
    if not path or not _in_forward(source, method):
        return
    if any(
        other is not assign and path in _written(source, other)
        for one in facts.lineage
        for f in one.methods.values()
        if f.name.value not in ("__init__", "reset_parameters")
        for other in descend(f.body)
    ):
        return
    if not _conditional(source, assign, method) and not _declared(source, assign, path, value):
        return
    yield Report(
        assign,
        f"`{path} = {source.text(assign.value)}` stays after this call: from then on this dropout "
        f"{'never drops' if value == 0 else f'drops {100 * value:.4g} %'}, whatever its "
        "declared rate was",
    )


def _rate_path(source: Source, target: cst.CSTNode) -> str:
    """`self.dropout.p` or `self.rate` as text, where that is the rate of a dropout."""
    facts = source.class_of(target)
    if facts is None or not isinstance(target, cst.Attribute):
        return ""
    inner = self_attribute(target.value)
    if inner:
        return source.text(target) if target.attr.value == "p" and "drop" in inner.lower() else ""
    name = self_attribute(target)
    if not name or not _RATE.match(name) or _OTHER_RATE.search(name):
        return ""
    used = any(
        any(self_attribute(a.value) == name for a in call.args)
        for called in ("dropout", "dropout1d", "dropout2d", "dropout3d")
        for call in source.calls_by_name.get(called, [])
        if source.class_of(call) is facts
    )
    return f"self.{name}" if used and facts.values(name) else ""


def _in_forward(source: Source, method: cst.FunctionDef) -> bool:
    if method.name.value == "forward":
        return True
    callers = source.callers(method)
    return any(
        (around := source.method_of(c)) is not None and around.name.value == "forward"
        for c in callers
        if self_attribute(c.func) == method.name.value
    )


def _written(source: Source, node: cst.CSTNode) -> list[str]:
    if isinstance(node, cst.Assign):
        return [source.text(t.target) for t in node.targets]
    if isinstance(node, (cst.AugAssign, cst.AnnAssign)):
        return [source.text(node.target)]
    return []


def _conditional(source: Source, node: cst.CSTNode, method: cst.FunctionDef) -> bool:
    for around in source.ancestors(node):
        if around is method:
            return False
        if isinstance(around, (cst.If, cst.Else)):
            return True
    return False


def _declared(source: Source, assign: cst.Assign, path: str, value: float) -> bool:
    """Whether the constructor sets the same attribute to something else, at its top level."""
    facts = source.class_of(assign)
    name = path.split(".")[1]
    init = None if facts is None else facts.method("__init__")
    return init is not None and any(
        isinstance(s, cst.Assign)
        and any(self_attribute(t.target) == name for t in s.targets)
        and number(s.value) != value
        for s in statements(init)
    )


@rule.in_trace
def changed_inside(trace: Trace) -> Iterator[Observation]:
    """The p after a forward pass is not the p before it."""
    for site in evidence(trace):
        if site.site.p_changed_inside:
            yield site.observe(
                f"the drop probability of {site.name} was changed inside the forward pass that "
                f"uses it: what was configured does not last",
                least_p=site.site.p_least,
                greatest_p=site.site.p_most,
            )
