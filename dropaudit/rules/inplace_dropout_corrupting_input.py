"""
An in-place dropout that overwrites a tensor somebody still needs.

## What it does

Reports `nn.Dropout(p, inplace=True)` and `F.dropout(x, p, inplace=True)` where the tensor comes
straight from an operation whose output autograd keeps (relu, tanh, sigmoid, softmax, log_softmax,
exp, sqrt, and the in-place forms of elu, selu, celu, rrelu and leaky relu), also through functions
of the same file, and where the same tensor, or a view of it, is read again afterwards, as in
`x + self.drop(x)`.

## Why is this bad

In the first case backward raises "one of the variables needed for gradient computation has been
modified by an inplace operation" as soon as the rate is above zero. In the second nothing is
raised: the residual is dropped too, and `x + drop(x)` is twice the dropped tensor.

## Example

```python
self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5, inplace=True))
```

## Use instead

Leave out `inplace=True`; the result is the same and costs one more tensor.

```python
self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5))
```

## Fix safety

The fix sets `inplace=False`. It is safe after an operation that keeps its output: training could
not run before. It is unsafe where the tensor is read again, because results change.

## Not seen

Activations chosen at run time, and blocks of other files whose last operation is one of these.
After gelu, silu, mish, hardswish, relu6, linear layers, normalizations and pooling the write is
harmless, and nothing is reported.

## References

- [In-place correctness checks](https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.applications import Application, application, settings
from dropaudit.static.arguments import arguments
from dropaudit.static.constants import constant
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.overwrites import base_name, read_again
from dropaudit.static.savedoutputs import saved_before, saved_output, without_gradient
from dropaudit.static.source import Change, Report, Source, is_name, self_attribute

rule = Rule(
    "DRP308",
    "inplace-dropout-corrupting-input",
    __doc__,
    triggers=(r"[dD]ropout",),
    examples=(
        Example(
            """
            from collections import OrderedDict

            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.one = nn.Sequential(
                        nn.Linear(8, 8),
                        nn.ReLU(inplace=True),
                        nn.Dropout(rate, inplace=True),  # DRP308
                    )
                    self.two = nn.Sequential(OrderedDict([
                        ("act", nn.Tanh()),
                        ("drop", nn.Dropout(0.5, True)),  # DRP308
                    ]))
                    layers = []
                    for _ in range(3):
                        layers.append(nn.Linear(8, 8))
                        layers.append(nn.Sigmoid())
                        if rate > 0:
                            layers.append(nn.Dropout(rate, inplace=True))  # DRP308
                    self.three = nn.Sequential(*layers)
                    self.relu = nn.ReLU()
                    self.drop = nn.Dropout(rate, inplace=True)  # DRP308
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    x = self.relu(self.fc(x))
                    x = self.drop(x.flatten(1))
                    scores = self.fc(x).softmax(-1)
                    scores = F.dropout(scores, 0.1, self.training, inplace=True)  # DRP308
                    y = self.fc(scores)
                    return y + F.dropout(y, 0.2, self.training, inplace=True)  # DRP308
            """,
            fixed="""
            from collections import OrderedDict

            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.one = nn.Sequential(
                        nn.Linear(8, 8),
                        nn.ReLU(inplace=True),
                        nn.Dropout(rate, inplace=False),
                    )
                    self.two = nn.Sequential(OrderedDict([
                        ("act", nn.Tanh()),
                        ("drop", nn.Dropout(0.5, False)),
                    ]))
                    layers = []
                    for _ in range(3):
                        layers.append(nn.Linear(8, 8))
                        layers.append(nn.Sigmoid())
                        if rate > 0:
                            layers.append(nn.Dropout(rate, inplace=False))
                    self.three = nn.Sequential(*layers)
                    self.relu = nn.ReLU()
                    self.drop = nn.Dropout(rate, inplace=False)
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    x = self.relu(self.fc(x))
                    x = self.drop(x.flatten(1))
                    scores = self.fc(x).softmax(-1)
                    scores = F.dropout(scores, 0.1, self.training, inplace=False)
                    y = self.fc(scores)
                    return y + F.dropout(y, 0.2, self.training, inplace=False)
            """,
        ),
        Example(
            """
            from torch import nn

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate, inplace=True)  # DRP308

                def forward(self, x):
                    h = self.fc(x)
                    residual = h
                    h = self.drop(h)
                    return self.fc(h) + residual

            class Gated(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate, inplace=True)  # DRP308

                def forward(self, x):
                    h = self.fc(x)
                    turned = h.transpose(0, 1)
                    h = self.drop(h)
                    return h @ turned
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.one = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(rate, True))
                    self.two = nn.Sequential(nn.ReLU(), nn.Linear(8, 8), nn.Dropout(rate, True))
                    self.three = nn.Sequential(nn.ReLU(), nn.Dropout(0.0, inplace=True))
                    self.four = nn.Sequential(nn.ReLU(), nn.Dropout(rate))
                    self.five = nn.Sequential(nn.LeakyReLU(0.2), nn.Dropout(rate, inplace=True))
                    self.six = nn.Sequential(nn.ReLU6(True), nn.Dropout(rate, inplace=True))
                    self.relu = nn.ReLU(inplace=True)
                    self.norm = nn.BatchNorm1d(8)
                    self.drop = nn.Dropout(rate, inplace=True)
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    residual = x
                    x = self.relu(self.fc(x))
                    x = self.drop(self.norm(x))
                    x = F.dropout(F.max_pool1d(F.relu(x), 2), 0.5, self.training, True)
                    x = self.drop(self.fc(x)) if self.training else x
                    return x + residual
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Residual(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3, inplace=True)  # DRP308

                def forward(self, x):
                    h = self.fc(x)
                    return h + self.drop(h)

            model, batch = Residual(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn

            class Residual(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3, inplace=False)

                def forward(self, x):
                    h = self.fc(x)
                    return h + self.drop(h)

            model, batch = Residual(), torch.randn(64, 16)
            """,
            live=("DRP308",),
        ),
    ),
)


@rule.in_source(cst.Call)
def module_that_overwrites(call: cst.Call, source: Source) -> Iterator[Report]:
    """Where the module is built: by its place in a container, or by what forward gives it."""
    if source.name_of(call.func) not in DROPOUT_MODULES:
        return
    rate, inplace = settings(source, call)
    if not inplace or constant(source, rate) == 0:
        return
    operation = saved_before(source, call)
    if operation:
        yield _broken(source, call, operation)
        return
    for entry in _entries(source, call):
        if operation := saved_before(source, entry):
            yield _broken(source, call, operation)
            return
    for use in _uses(source, call):
        used = application(source, use)
        report = None if used is None else next(_verdict(source, use, used, call), None)
        if report is not None:
            yield report
            return


@rule.in_source(cst.Call)
def function_that_overwrites(call: cst.Call, source: Source) -> Iterator[Report]:
    """Where the function is called."""
    used = application(source, call)
    if used is None or used.built is not None or not used.inplace:
        return
    if used.rate is not None and constant(source, used.rate) == 0:
        return
    yield from _verdict(source, call, used, call)


def _verdict(source: Source, use: cst.Call, used: Application, where: cst.Call) -> Iterator[Report]:
    operation = saved_output(source, used.input)
    if operation:
        if not without_gradient(source, use):
            yield _broken(source, where, operation)
        return
    name = base_name(used.input)
    if name:
        other = read_again(source, use, name)
        if other:
            yield Report(
                where,
                f"in-place dropout overwrites `{name}`, which is read again as "
                f"`{other}`: that value is dropped too",
                _out_of_place(source, where),
                title="Work out of place",
            )


def _broken(source: Source, where: cst.Call, operation: str) -> Report:
    return Report(
        where,
        f"in-place dropout overwrites the output of {operation}, which autograd keeps: backward "
        f"raises a RuntimeError when the rate is above zero",
        _out_of_place(source, where),
        safe=True,
        title="Work out of place",
    )


def _out_of_place(source: Source, call: cst.Call) -> tuple[Change, ...]:
    functional = source.name_of(call.func) not in DROPOUT_MODULES
    parameters = ("input", "p", "training", "inplace") if functional else ("p", "inplace")
    flag = arguments(source, call, parameters).values.get("inplace")
    written = any(arg.value is flag for arg in call.args)
    if flag is None or not written or not is_name(flag, "True"):
        return ()
    return (Change(flag, "replace", "False"),)


def _uses(source: Source, built: cst.Call) -> Iterator[cst.Call]:
    """The calls of the attribute or local that `built` is assigned to."""
    name, attribute = _target(source, built)
    if not name:
        return
    around = source.class_of(built)
    for call in source.calls_by_name.get(name, []):
        if attribute and self_attribute(call.func):
            facts = source.class_of(call)
            if facts is not None and around is not None and around in facts.lineage:
                yield call
        elif not attribute and isinstance(call.func, cst.Name):
            yield call


def _entries(source: Source, built: cst.Call) -> Iterator[cst.BaseExpression]:
    """The places where the attribute or local that `built` is assigned to goes into a list."""
    name, attribute = _target(source, built)
    if not name:
        return
    around = source.class_of(built)
    for node in source.nodes[cst.Attribute if attribute else cst.Name]:
        same = self_attribute(node) == name if attribute else node.value == name
        if not same or not isinstance(source.parents.get(node), (cst.Arg, cst.Element)):
            continue
        if source.class_of(node) is around:
            yield node


def _target(source: Source, built: cst.Call) -> tuple[str, bool]:
    """What `built` is assigned to, and whether that is an attribute of self."""
    node: cst.CSTNode = built
    parent = source.parents[node]
    while isinstance(parent, cst.IfExp):
        node, parent = parent, source.parents[parent]
    if isinstance(parent, cst.Assign) and len(parent.targets) == 1:
        target = parent.targets[0].target
        if attribute := self_attribute(target):
            return attribute, True
        if isinstance(target, cst.Name):
            return target.value, False
    return "", False


@rule.in_trace
def input_used_again(trace: Trace) -> Iterator[Observation]:
    """An input that was written over and then used as if it were the old one."""
    for site in evidence(trace):
        if site.site.corrupted:
            calls = site.site.training.calls
            yield site.observe(
                f"{site.name} writes over its input, and what reads that input afterwards gets "
                f"the dropped values, in {site.site.corrupted:,} of {calls:,} calls",
                corrupted=site.site.corrupted,
                calls=calls,
            )
