"""
A dropout whose input is the output of another dropout.

## What it does

Reports a dropout of what another dropout has just returned, on every path to it: through names,
branches and loops, `nn.Sequential`, and functions, methods and modules of the same file. Only what
changes the shape, the type or the place of the tensor may stand between the two. In an audit it
reports every dropout that was applied to the very tensor that another one returned.

## Why is this bad

Two rates p and r in a row keep (1 - p)(1 - r) of the elements: with 0.5 twice a quarter is left.
That is a slip of refactoring more often than an intention, and it hides from whoever reads either
of the two rates. Where there are two heads, it is often the wrong tensor that is dropped.

## Example

```python
x, y = x[:, 0], x[:, 1]
x = self.dropout(x)
y = self.dropout(x)
```

## Use instead

Apply one of them, or apply the second to the tensor that it was meant for.

```python
x, y = x[:, 0], x[:, 1]
x = self.dropout(x)
y = self.dropout(y)
```

## Fix safety

Where the same dropout is applied twice the fix takes the second one away; where its result replaces
a tensor that nothing has read, it drops that tensor instead. Both are unsafe: training changes.

## Not seen

Two dropouts with anything but a change of shape between them, and dropouts on some of the paths
only. A dropout of whole samples, features or time steps beside a plain one is left alone, and so is
a dropout that something else than its rate may switch off.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.dropped import Dropped
from dropaudit.static.droppers import built_dropper
from dropaudit.static.dropvalues import Doubled
from dropaudit.static.expectations import in_test
from dropaudit.static.flow import preceding, reads, stores
from dropaudit.static.sequences import is_in_order, runs_before
from dropaudit.static.source import Change, Report, Source, is_name

rule = Rule(
    "DRP109",
    "repeated-dropout",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"[dD]ropout",),
    examples=(
        Example(
            """
            import torch
            from torch import nn
            from torch.nn import functional as F

            class Head(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.drop = nn.Dropout(0.5)
                    self.fc = nn.Linear(256, 256)

                def forward(self, x):
                    x = self.drop(self.fc(x))
                    return F.dropout(x, 0.5, self.training)  # DRP109

            model, batch = Head(), torch.randn(16, 256)
            """,
            live=("DRP109",),
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Mixer(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Heads(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(rate)
                    self.input_drop = nn.Dropout(rate) if rate > 0 else nn.Identity()
                    self.mixer = Mixer(dim, rate)
                    self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(dim, 2))
                    self.tail = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Dropout())  # DRP109

                def forward(self, tokens, layers):
                    x, y = tokens[:, 0], tokens[:, 1]
                    x = self.drop(x)
                    y = self.drop(x)  # DRP109
                    for layer in layers:
                        x = self.drop(layer(x))
                    x = F.dropout(x.flatten(1), self.rate, self.training)  # DRP109
                    y = self.drop(self.mixer(y))  # DRP109
                    x = self.head(x)  # DRP109
                    return self.tail(x), self.head(y)  # DRP109

                def embed(self, x, adapters, name):
                    x = self.input_drop(x)
                    if self.training:
                        x = self.drop(x)  # DRP109
                        x = self.drop(x)  # DRP109
                    dropout = adapters.dropout[name]
                    return self.mixer(dropout(dropout(x.float())))  # DRP109
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Mixer(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Heads(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(rate)
                    self.input_drop = nn.Dropout(rate) if rate > 0 else nn.Identity()
                    self.mixer = Mixer(dim, rate)
                    self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(dim, 2))
                    self.tail = nn.Sequential(nn.ReLU(), nn.Dropout(0.5), nn.Dropout())

                def forward(self, tokens, layers):
                    x, y = tokens[:, 0], tokens[:, 1]
                    x = self.drop(x)
                    y = self.drop(y)
                    for layer in layers:
                        x = self.drop(layer(x))
                    x = F.dropout(x.flatten(1), self.rate, self.training)
                    y = self.drop(self.mixer(y))
                    x = self.head(x)
                    return self.tail(x), self.head(y)

                def embed(self, x, adapters, name):
                    x = self.input_drop(x)
                    if self.training:
                        x = self.drop(x)
                    dropout = adapters.dropout[name]
                    return self.mixer(dropout(x.float()))
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F
            from other import LockedDropout, Mixer

            class Encoder(nn.Module):
                def __init__(self, dim, rate, first):
                    super().__init__()
                    self.rate = rate
                    self.lock = LockedDropout()
                    self.drop = nn.Dropout(rate)
                    self.channels = nn.Dropout2d(rate)
                    self.none = nn.Dropout(0.0)
                    self.drop_path = Mixer(rate)
                    self.before = nn.Dropout(rate) if first else nn.Identity()
                    self.after = nn.Identity() if first else nn.Dropout(rate)
                    self.fc = nn.Linear(dim, dim)
                    self.heads = nn.ModuleList([nn.Dropout(0.1), nn.Dropout(0.2)])
                    self.block = nn.Sequential(nn.Dropout2d(0.1), nn.Dropout(0.1), nn.ReLU())

                def forward(self, x, pool=False):
                    x = self.lock(self.drop(x), self.rate)
                    x = self.channels(self.drop(x))
                    x = self.drop(self.none(x))
                    x = self.after(self.before(self.fc(x)))
                    y = self.drop_path(self.drop(x))
                    x = self.drop(x + self.drop(y))
                    x = self.drop(F.relu(x))
                    if pool:
                        x = self.drop(x.mean(1))
                    else:
                        x = self.fc(x)
                    x = self.drop(x)
                    first, second = self.drop(self.fc(x)), self.drop(self.fc(x))
                    for layer in (self.fc, self.fc):
                        x = self.drop(x) if self.training else x
                        x = layer(x)
                    return [head(x) for head in self.heads], first, second

                def attend(self, q, k, v):
                    weights = self.drop((q @ k.mT).softmax(-1))
                    return self.drop(self.fc(weights @ v))

                def stream(self, x):
                    x = self.drop(x)
                    return x + self.mix(x)

                def mix(self, x):
                    return self.fc(self.drop(x))

            def test_twice():
                drop = nn.Dropout(0.5)
                assert drop(drop(torch.ones(4))) is not None
            """
        ),
    ),
)


@rule.in_source(cst.Module)
def dropped_again(module: cst.Module, source: Source) -> Iterator[Report]:
    """Dropouts whose input is on every path what another dropout has returned."""
    for one in Dropped(source).doubled():
        if source.modes.in_test(one.call) or isinstance(source.parents.get(one.call), cst.Expr):
            continue  # a result that is thrown away is another matter
        intended = _intended(source, one)
        changes = _repair(source, one, intended)
        title = f"Drop `{intended}`" if intended else "Apply the dropout once"
        yield Report(one.call, _message(source, one, intended), changes, title=title)


@rule.in_source(cst.Call)
def built_in_a_row(call: cst.Call, source: Source) -> Iterator[Report]:
    """Two dropouts one after the other in a Sequential."""
    second = built_dropper(source, call, "")
    if second is None or in_test(source, call) or not is_in_order(source, call):
        return
    before = list(runs_before(source, call))
    firsts = [built_dropper(source, b, "") for b in before if isinstance(b, cst.Call)]
    if firsts and len(firsts) == len(before) and all(f and f.kind == second.kind for f in firsts):
        shown = " ".join(source.text(before[0]).split())
        yield Report(call, f"this dropout runs right after another one, `{shown}`")


def _message(source: Source, one: Doubled, intended: str) -> str:
    first = one.first.node
    assert isinstance(first, cst.Call)
    second, earlier = _called(source, one.call), _called(source, first)
    if one.inside:
        return f"`{second}` begins with a dropout of what `{earlier}` has dropped already"
    if source.function_of(first) is not source.function_of(one.call):
        return f"`{second}` drops again what comes out of `{earlier}`, which has dropped it already"
    again = f"another `{earlier}`" if second == earlier else f"`{earlier}`"
    again = "it" if one.second.key == one.first.key else again
    text = f"`{second}` drops again what {again} has dropped already"
    return f"{text}, and what `{intended}` held before is never read" if intended else text


def _called(source: Source, call: cst.Call) -> str:
    return " ".join(source.text(call.func).split())


def _intended(source: Source, one: Doubled) -> str:
    """The name that the result replaces, where what it held before was never read."""
    statement = source.statement_of(one.call)
    match statement:
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))], value=value):
            if value is not one.call or not isinstance(one.input, cst.Name):
                return ""
        case _:
            return ""
    if one.input.value == name:
        return ""
    for earlier in preceding(source, statement):
        if isinstance(earlier, cst.Assign) and stores(name, earlier):
            return "" if reads(name, earlier.value) else name
        if reads(name, earlier) or stores(name, earlier):
            return ""
    return ""


def _repair(source: Source, one: Doubled, intended: str) -> tuple[Change, ...]:
    if one.inside or one.first.key != one.second.key:
        return ()
    if intended:
        return (Change(one.input, "replace", intended),)
    statement = source.statement_of(one.call)
    match statement:
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=name))], value=value):
            if value is one.call and is_name(one.input, name):
                return _without(source, statement)
    if not isinstance(one.input, (cst.Name, cst.Call, cst.Attribute, cst.Subscript)):
        return ()
    return (Change(one.call, "replace", source.text(one.input)),)


def _without(source: Source, statement: cst.CSTNode) -> tuple[Change, ...]:
    """The change that takes a line away, where it holds one statement and no comment."""
    line = source.parents.get(statement)
    block = source.parents.get(line) if line is not None else None
    if not isinstance(line, cst.SimpleStatementLine) or len(line.body) != 1:
        return ()
    if not isinstance(block, cst.IndentedBlock) or len(block.body) < 2:
        return ()
    comments = [e.comment for e in line.leading_lines] + [line.trailing_whitespace.comment]
    return () if any(comments) else (Change(line, "whole", ""),)


_PLAIN = ("elementwise", "alpha", "mask", "region")


@rule.in_trace
def dropped_twice(trace: Trace) -> Iterator[Observation]:
    """Calls on what another dropout has returned, both of them plain."""
    for site in evidence(trace):
        forward, times = site.site.training, site.site.repeated_on_result
        if times and forward.acted and site.site.kind in _PLAIN:
            yield site.observe(
                f"{site.name} was applied {times:,} times to the output of another dropout: "
                f"fewer elements are left than either of their rates says",
                calls=forward.calls,
                repeated=times,
            )
