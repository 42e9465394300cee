"""
A functional dropout that is switched on for good.

## What it does

Points at functional dropouts in code that runs in evaluation whose `training` is a literal True,
or depends on the rate (`training=self.p > 0`) where it should depend on the mode.

## Why is this bad

`model.eval()` cannot switch such a call off. Most of them are meant so: Monte-Carlo samples,
masks that are drawn once per sequence, prenets. The rest are mistakes that make every
prediction random, and look the same. This is why it is a note and not an error.

## Example

```python
embedded = F.dropout(embedded, p=0.3, training=True)
```

## Use instead

Pass `training=self.training`, or say in a comment that the dropout is meant to stay on.

```python
embedded = F.dropout(embedded, p=0.3, training=self.training)
```

## Fix safety

There is no fix: whether the dropout is meant to stay on is for the author to say.

## Not seen

Code that only runs in training, and code whose name, docstring or comment says that it drops on
purpose; `always-on` in the settings names more of it.

## References

- [torch.nn.functional.dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Severity
from dropaudit.static.constants import is_constant_true, origins
from dropaudit.static.flags import is_positive_test, passes_mode_nearby
from dropaudit.static.functional import functional_dropout, is_zero
from dropaudit.static.rates import percent
from dropaudit.static.reach import runs_in_eval
from dropaudit.static.source import Report, Source, number

rule = Rule(
    "DRP205",
    "dropout-always-on",
    __doc__,
    severity=Severity.INFO,
    triggers=("dropout",),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Ranker(nn.Module):
                def __init__(self, rate=0.3):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    x = F.dropout(x, self.rate, True)  # DRP205
                    x = F.dropout(x + 1, self.rate, training=self.rate > 0)  # DRP205
                    return F.dropout2d(x, p=0.5, training=True)  # DRP205
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    if self.training:
                        x = F.dropout(x, self.rate, training=True)
                    x = F.dropout(x + 1, self.rate if self.training else 0.0, True)
                    return F.dropout(x, 0.0, True)

            class MCDropout(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.5, training=True)

            def test_drops():
                assert F.dropout(1.0, 0.5, training=True) != 1.0
            """,
        ),
    ),
)


@rule.in_source(cst.Call)
def call_left_on(call: cst.Call, source: Source) -> Iterator[Report]:
    """A literal True, or a test of the rate, in place of the mode."""
    drop = functional_dropout(source, call)
    if drop is None or drop.training is None or is_zero(source, drop.rate):
        return
    flag = drop.training
    constant = is_constant_true(source, flag) or number(flag) == 1
    if not constant and not all(is_positive_test(o) for o in origins(source, flag)):
        return
    if constant and passes_mode_nearby(source, drop):
        return  # an error, by another rule
    modes = source.modes
    if modes.guards(call) or modes.decides(drop.rate) or modes.decides(flag):
        return
    if modes.on_purpose(call) or modes.in_test(call):
        return
    if not runs_in_eval(source, call, drop.rate):
        return
    share = percent(source, drop.rate, 0.5)
    effect = f": {share} of the activations are zeroed in every prediction" if share else ""
    cause = "`training` is always True" if constant else "`training` tests the rate, not the mode"
    yield Report(call, f"`{drop.shown}` stays on after `eval()`{effect}; {cause}")
