"""
A dropout whose result nobody keeps.

## What it does

Reports a statement that is nothing but a call of a dropout that works out of place:
`F.dropout(x)`, or `self.drop(x)` where `self.drop` is an `nn.Dropout`.

## Why is this bad

Dropout returns a new tensor and leaves its argument as it is. Unless the result is assigned,
the line does nothing: the network trains without the dropout that it seems to have.

## Example

```python
def forward(self, x):
    x = self.pool(x)
    F.dropout(x, 0.5, training=self.training)
    return self.head(x)
```

## Use instead

Assign the result: `x = F.dropout(x, 0.5, training=self.training)`.

## Fix safety

The fix assigns the result to the first argument, if that is a name or an attribute of `self`. It
is unsafe: from then on the dropout acts, and training changes.

## Not seen

Dropouts that a helper of yours applies, and modules that another file builds.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.applications import application
from dropaudit.static.expectations import in_expected_trouble, in_test
from dropaudit.static.source import Change, Report, Source, self_attribute

rule = Rule(
    "DRP401",
    "discarded-result",
    __doc__,
    triggers=(r"[dD]ropout",),
    examples=(
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(rate)
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    x = self.fc(x)
                    F.dropout(x, self.rate, training=self.training)  # DRP401
                    if self.rate: F.dropout(x, 0.2, self.training, inplace=False)  # DRP401
                    self.drop(x)  # DRP401
                    self.drop(x.flatten(1))  # DRP401
                    torch.dropout(x, 0.1, self.training)  # DRP401
                    return x
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(rate)
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    x = self.fc(x)
                    x = F.dropout(x, self.rate, training=self.training)
                    if self.rate: x = F.dropout(x, 0.2, self.training, inplace=False)
                    x = self.drop(x)
                    self.drop(x.flatten(1))
                    x = torch.dropout(x, 0.1, self.training)
                    return x
            """,
        ),
        Example(
            """
            import pytest
            import torch
            from torch import nn
            from torch.nn import functional as F

            class Net(nn.Module):
                def __init__(self, inplace, options):
                    super().__init__()
                    self.drop = nn.Dropout(0.5, inplace=True)
                    self.other = nn.Dropout(0.5, True)
                    self.perhaps = nn.Dropout(0.5, inplace)
                    self.options = options
                    self.pruned = []

                def drop_weights(self, x):
                    self.pruned.append(x)

                def forward(self, x):
                    self.drop(x)
                    self.other(x)
                    self.perhaps(x)
                    F.dropout(x, 0.5, self.training, True)
                    F.dropout(x, 0.5, training=self.training, inplace=True)
                    F.dropout(x, **self.options)
                    torch.dropout_(x, 0.5, self.training)
                    self.drop_weights(x)
                    return x

            def test_rate():
                with pytest.raises(ValueError):
                    F.dropout(torch.ones(2), 0.5 + 1)
            """,
        ),
    ),
)


@rule.in_source(cst.Call)
def result_thrown_away(call: cst.Call, source: Source) -> Iterator[Report]:
    """An expression statement; in a test or a cell it may be there for its effect on a reader."""
    if not isinstance(source.parents.get(call), cst.Expr):
        return
    used = application(source, call)
    if used is None or used.inplace is not False or used.input is None:
        return
    if in_expected_trouble(source, call) or in_test(source, call):
        return
    inside = source.function_of(call)
    if inside is None and source.cell_ends:
        return  # a notebook prints the last expression of a cell
    target = _assignable(used.input)
    changes = (Change(call, "before", f"{target} = "),) if target else ()
    kept = f"`{target}` stays as it was" if target else "its input stays as it was"
    yield Report(
        call,
        f"the result of this dropout is thrown away: {kept}, and nothing is ever dropped here",
        changes,
        title="Assign the result",
    )


def _assignable(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Name):
        return node.value
    name = self_attribute(node)
    return f"self.{name}" if name else ""
