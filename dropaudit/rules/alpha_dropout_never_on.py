"""
An alpha dropout that is off because its `training` is left to its default.

## What it does

Reports `F.alpha_dropout` and `F.feature_alpha_dropout` without `training`.

## Why is this bad

Unlike `F.dropout`, these two have `training=False` for their default: a call that leaves it out
returns its input and never drops, in training neither. The network trains without the
regularization that the code claims.

## Example

```python
x = F.alpha_dropout(F.selu(self.fc(x)), p=0.1)
```

## Use instead

Pass `training=self.training`, or build an `nn.AlphaDropout` in `__init__` and call that.

```python
x = F.alpha_dropout(F.selu(self.fc(x)), p=0.1, training=self.training)
```

## Fix safety

The fix adds `training=self.training` where `self` is a module. It is unsafe because the model
then drops in training, as it did not before.

## Not seen

A call whose arguments are spread from `*args` or `**kwargs`.

## References

- [torch.nn.functional.alpha_dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.alpha_dropout.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.expectations import in_test
from dropaudit.static.flags import NEVER_ON, is_mode
from dropaudit.static.functional import functional_dropout, is_zero
from dropaudit.static.reach import self_in_scope
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP217",
    "alpha-dropout-never-on",
    __doc__,
    triggers=("alpha_dropout",),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F
            from torch.nn.functional import feature_alpha_dropout

            class Selu(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    x = F.alpha_dropout(F.selu(self.fc(x)), self.rate)  # DRP217
                    return feature_alpha_dropout(x)  # DRP217

            def head(x):
                return F.alpha_dropout(x, 0.1)  # DRP217
            """,
            fixed="""
            import torch.nn as nn
            import torch.nn.functional as F
            from torch.nn.functional import feature_alpha_dropout

            class Selu(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    x = F.alpha_dropout(F.selu(self.fc(x)), self.rate, training=self.training)
                    return feature_alpha_dropout(x, training=self.training)

            def head(x):
                return F.alpha_dropout(x, 0.1)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Selu(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x, *args, **options):
                    x = F.alpha_dropout(x, self.rate, self.training)
                    x = F.alpha_dropout(x, self.rate, training=False)
                    x = F.alpha_dropout(x, 0.0)
                    x = F.alpha_dropout(x, *args)
                    x = torch.alpha_dropout(x, self.rate, self.training)
                    return F.feature_alpha_dropout(x, **options)

            def test_off_by_default():
                assert F.alpha_dropout(1.0, 0.5) == 1.0
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class SelfNormalizing(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return F.alpha_dropout(F.selu(self.fc(x)), 0.2)  # DRP217

            model, batch = SelfNormalizing(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class SelfNormalizing(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return F.alpha_dropout(F.selu(self.fc(x)), 0.2, training=self.training)

            model, batch = SelfNormalizing(), torch.randn(64, 16)
            """,
            live=("DRP217",),
        ),
    ),
)


@rule.in_source(cst.Call)
def call_left_off(call: cst.Call, source: Source) -> Iterator[Report]:
    """One of the two functions whose default is off, with a rate and no `training`."""
    drop = functional_dropout(source, call)
    if drop is None or drop.name not in NEVER_ON or drop.training is not None:
        return
    if not drop.complete or is_zero(source, drop.rate) or is_mode(source, drop.rate):
        return
    if in_test(source, call):
        return
    changes: tuple[Change, ...] = ()
    if call.args and self_in_scope(source, call):
        changes = (Change(call.args[-1].value, "after", ", training=self.training"),)
    yield Report(
        call,
        f"`{drop.shown}` never drops: its `training` is False unless it is passed, "
        f"so this call returns its input in training too",
        changes,
        title="Pass the module's mode",
    )


@rule.in_trace
def alpha_that_never_drops(trace: Trace) -> Iterator[Observation]:
    """Calls in training that were told not to drop."""
    for site in evidence(trace):
        if site.forward_code == "DRP217":
            forward = site.site.training
            yield site.observe(
                f"{site.name} dropped nothing in {forward.asked:,} calls in training mode: its "
                f"`training` is False unless it is passed",
                calls=forward.asked,
                told_off=forward.told_off,
            )
