"""
A dropout module built where it is applied, such as `nn.Dropout(p)(x)` in `forward`.

## What it does

Reports a dropout module of torch that a function or method builds and calls: in one expression, or
through a local name.

## Why is this bad

A new module is in training mode, and one that is not an attribute of the model is never switched:
`model.eval()` cannot reach it. Predictions stay random.

## Example

```python
def forward(self, x):
    return self.fc(nn.Dropout(0.5)(x))
```

## Use instead

Build the module once in `__init__` and call it in `forward`, or use `F.dropout` with the mode.

```python
def __init__(self):
    super().__init__()
    self.dropout = nn.Dropout(0.5)
    self.fc = nn.Linear(8, 2)

def forward(self, x):
    return self.fc(self.dropout(x))
```

## Fix safety

The fix builds the module in `__init__` where the class has one and the rate is a number or an
attribute set there. It is unsafe because the model then computes something else in evaluation,
which is its purpose.

## Not seen

A builder of your own that returns a dropout module, called in `forward`.

## References

- [torch.nn.Dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.modes import mode_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.construction import built_once
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.functional import is_zero
from dropaudit.static.names import Kind
from dropaudit.static.rates import percent
from dropaudit.static.source import Report, Source
from dropaudit.static.walk import descend

rule = Rule(
    "DRP203",
    "dropout-built-in-forward",
    __doc__,
    triggers=(r"Dropout",),
    examples=(
        Example(
            """
            import torch.nn as nn

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate  # between 0 and 1
                    self.fc = nn.Linear(8, 2)

                def forward(self, x):
                    x = nn.Dropout(p=self.rate)(x)  # DRP203
                    x = self.fc(x)
                    return nn.Dropout(0.5)(x)  # DRP203
            """,
            fixed="""
            import torch.nn as nn

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.dropout_2 = nn.Dropout(0.5)
                    self.rate = rate  # between 0 and 1
                    self.dropout = nn.Dropout(p=self.rate)
                    self.fc = nn.Linear(8, 2)

                def forward(self, x):
                    x = self.dropout(x)
                    x = self.fc(x)
                    return self.dropout_2(x)
            """,
        ),
        Example(
            """
            import math
            import torch
            from torch import nn

            def attention(q, k, v, rate):
                weights = (q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))).softmax(-1)
                return nn.Dropout(rate)(weights) @ v  # DRP203

            class Attention(nn.Module):
                def forward(self, q, k, v):
                    drop = nn.Dropout(0.1)  # DRP203
                    a, b = drop(attention(q, k, v, 0.1)), q
                    return torch.einsum("ij,jk->ik", nn.Dropout2d(0.2)(a), b)  # DRP203
            """,
        ),
        Example(
            """
            import torch
            from torch import nn
            import flax.linen as linen

            class Net(nn.Module):
                def __init__(self, rate, layers):
                    super().__init__()
                    self.rate = rate
                    self.define_module()
                    self.update_layer("default", rate)

                def define_module(self):
                    self.drop = nn.Dropout(self.rate)

                def update_layer(self, name, rate):
                    layer = nn.Dropout(rate) if rate > 0 else nn.Identity()
                    self.layers = nn.ModuleDict({name: layer})

                def head(self):
                    drop = nn.Dropout(self.rate)
                    return nn.Sequential(nn.Linear(8, 8), drop)

                def forward(self, x):
                    if self.training:
                        x = nn.Dropout(self.rate)(x)
                    x = nn.Dropout(self.rate).train(self.training)(x)
                    x = nn.Dropout(self.rate if self.training else 0.0)(x)
                    return self.layers["default"](self.drop(x))

            class Switched(nn.Module):
                def forward(self, x):
                    drop = nn.Dropout(0.5)
                    drop.train(self.training)
                    return drop(x)

            class Flax(linen.Module):
                @linen.compact
                def __call__(self, x, deterministic):
                    return linen.Dropout(0.5)(x, deterministic=deterministic)

            def replaced(module):
                new = nn.Dropout(p=module.p)
                return new

            def test_dropout():
                assert nn.Dropout(0.0)(torch.ones(2)).sum() == 2
                assert nn.Dropout(0.5)(torch.ones(2)).shape == (2,)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Regressor(nn.Module):
                def __init__(self, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return nn.Dropout(self.rate)(self.fc(x))  # DRP203

            model, batch = Regressor(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn

            class Regressor(nn.Module):
                def __init__(self, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.dropout = nn.Dropout(self.rate)
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return self.dropout(self.fc(x))

            model, batch = Regressor(), torch.randn(64, 16)
            """,
            live=("DRP203",),
        ),
    ),
)


@rule.in_source(cst.Call)
def built_and_called(call: cst.Call, source: Source) -> Iterator[Report]:
    """A dropout module that is called in the function that builds it."""
    if source.name_of(call.func) not in DROPOUT_MODULES:
        return
    function = source.function_of(call)
    if function is None or function.name.value in ("__init__", "main"):
        return
    parent = source.parents.get(call)
    at_once = isinstance(parent, cst.Call) and parent.func is call
    if not at_once and not _called_by_name(call, function, source):
        return
    rate = source.argument(call, "p", 0)
    modes = source.modes
    if rate is not None and (is_zero(source, rate.value) or modes.decides(rate.value)):
        return
    if modes.guards(call) or modes.on_purpose(call) or modes.in_test(call):
        return
    share = percent(source, None if rate is None else rate.value, 0.5)
    what = f"{share} of the activations are" if share else "activations are"
    yield Report(
        call,
        "this dropout is built anew in each call and is always in training mode: "
        f"{what} dropped after `eval()` too; build it once in `__init__`",
        built_once(call, source) if at_once else (),
        title="Build the module in `__init__`",
    )


def _called_by_name(call: cst.Call, function: cst.FunctionDef, source: Source) -> bool:
    """Whether `name = nn.Dropout(..)` is followed by `name(x)` and `name` goes nowhere else."""
    assign = source.parents.get(call)
    if not isinstance(assign, cst.Assign) or len(assign.targets) != 1:
        return False
    target = assign.targets[0].target
    if not isinstance(target, cst.Name):
        return False
    bindings = source.bindings(target)
    if len(bindings) != 1 or bindings[0].kind is not Kind.ASSIGNMENT:
        return False
    called = False
    for node in descend(function.body):
        if not isinstance(node, cst.Name) or node.value != target.value or node is target:
            continue
        parent = source.parents.get(node)
        if not isinstance(parent, cst.Call) or parent.func is not node:
            return False
        called = True
    return called


@rule.in_trace
def built_anew(trace: Trace) -> Iterator[Observation]:
    """A module that each step brings anew: always in training mode."""
    for site in evidence(trace):
        if mode_code(site) == "DRP203":
            calls = site.site.training.calls + site.site.eval.calls
            yield site.observe(
                f"{site.name} is built in `forward`, anew in each of {calls:,} calls: it starts in "
                f"training mode, and `eval()` of the model never reaches it",
                calls=calls,
                acted=site.site.training.acted + site.site.eval.acted,
            )
