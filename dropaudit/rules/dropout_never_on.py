"""
A dropout with a rate that is switched off in training too.

## What it does

Reports `F.dropout`, `F.dropout1d` to `F.dropout3d` and `torch.dropout` in the forward pass of a
module, where `training` is a literal False, or an expression that is always false, and the rate is
not zero. In an audit it reports every site that has a p above zero and dropped nothing in training.

## Why is this bad

The call returns its input, in training neither. The network trains without the regularization
that the code, and whoever reads the rate in it, believe in.

## Example

```python
def forward(self, x):
    return F.dropout(self.fc(x), p=0.5, training=False)
```

## Use instead

Pass `training=self.training`, or remove the call.

```python
def forward(self, x):
    return F.dropout(self.fc(x), p=0.5, training=self.training)
```

## Fix safety

The fix passes `self.training`. It is unsafe because the model then drops in training, as it did
not before.

## Not seen

A flag that is held in a name or an attribute: somebody may set it. `F.dropout(x, training=False)`
without a rate: networks that are only ever evaluated keep such a line on purpose. Calls under a
condition, and methods and classes that are named for export, inference or evaluation, are off on
purpose.

## References

- [torch.nn.functional.dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace
from dropaudit.static.flags import NEVER_ON, is_mode
from dropaudit.static.functional import functional_dropout, is_zero
from dropaudit.static.reach import in_module_method, self_in_scope
from dropaudit.static.source import Change, Report, Source, is_name, number

rule = Rule(
    "DRP218",
    "dropout-never-on",
    __doc__,
    triggers=("dropout",),
    examples=(
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, dim, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    x = F.dropout(self.fc(x), self.rate, False)  # DRP218
                    x = F.dropout(x, p=0.5, training=self.training and False)  # DRP218
                    return self.mix(x + 1)

                def mix(self, x):
                    x = torch.dropout(x, 0.1, not True)  # DRP218
                    return F.dropout2d(  # DRP218
                        x,
                        0.3,
                        training=False,
                    )
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, dim, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    x = F.dropout(self.fc(x), self.rate, self.training)
                    x = F.dropout(x, p=0.5, training=self.training)
                    return self.mix(x + 1)

                def mix(self, x):
                    x = torch.dropout(x, 0.1, self.training)
                    return F.dropout2d(
                        x,
                        0.3,
                        training=self.training,
                    )
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            OFF = False

            class Net(nn.Module):
                def __init__(self, rate, deterministic=False):
                    super().__init__()
                    self.rate = rate
                    self.active = False
                    self.deterministic = deterministic

                def forward(self, x, exporting=False):
                    if exporting:
                        x = F.dropout(x, self.rate, training=False)
                    x = F.dropout(x, 0.0, training=False)
                    x = F.dropout(x, training=False)
                    x = F.dropout(x, self.rate, training=self.active)
                    x = F.dropout(x + 1, self.rate, training=OFF)
                    x = x + 1
                    x = F.dropout(x, self.rate, training=self.training and not self.deterministic)
                    x = F.alpha_dropout(x, self.rate, training=False)
                    return F.dropout(x, self.rate, False) if self.deterministic else x

                def forward_export(self, x):
                    return F.dropout(x, self.rate, training=False)

                def predict(self, x):
                    return F.dropout(x, self.rate, training=False)

            class FrozenHead(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.5, training=False)

            def identity(x):
                return F.dropout(x, 0.5, training=False)

            def test_off():
                class Off(nn.Module):
                    def forward(self, x):
                        return F.dropout(x, 0.5, training=False)

                assert Off()(1.0) == 1.0
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Plain(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return F.dropout(self.fc(x), 0.2, training=False)  # DRP218

            model, batch = Plain(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Plain(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    return F.dropout(self.fc(x), 0.2, training=self.training)

            model, batch = Plain(), torch.randn(64, 16)
            """,
            live=("DRP218",),
        ),
    ),
)


@rule.in_source(cst.Call)
def call_left_off(call: cst.Call, source: Source) -> Iterator[Report]:
    """A flag that is false whatever the mode, with a rate, on a path that every pass takes."""
    drop = functional_dropout(source, call)
    if drop is None or drop.training is None or drop.name in NEVER_ON or not drop.complete:
        return
    if not _is_never_true(drop.training) or is_zero(source, drop.rate):
        return
    if is_mode(source, drop.rate) or not in_module_method(source, call):
        return
    if drop.rate is None and is_name(drop.training, "False"):
        return  # no rate, and plainly off: kept for the looks of a network that only evaluates
    modes = source.modes
    if _is_off_on_purpose(source, call) or modes.on_purpose(call) or modes.in_test(call):
        return
    changes: tuple[Change, ...] = ()
    if self_in_scope(source, call):
        changes = (Change(drop.training, "replace", "self.training"),)
    flag = " ".join(source.text(drop.training).split())
    yield Report(
        call,
        f"`{drop.shown}` never drops, in training neither: `training` is `{flag}`",
        changes,
        title="Pass the module's mode",
    )


@rule.in_trace
def never_dropped(trace: Trace) -> Iterator[Observation]:
    """Sites with a p above zero that were called in training and dropped nothing."""
    for site in evidence(trace):
        if site.forward_code == "DRP218":
            forward = site.site.training
            why = "it was told not to, by `training=False`" if forward.told_off else ""
            if not why and forward.draws:
                why = f"none of {forward.draws:,} draws was dropped"
            yield site.observe(
                f"{site.name} dropped nothing in {forward.asked:,} calls in training mode: "
                f"{why or 'no random numbers were drawn'}",
                calls=forward.asked,
                told_off=forward.told_off,
                draws=forward.draws,
                drops=forward.drops,
            )


_ON_PURPOSE = re.compile(
    r"(?i)export|onnx|trac(?:e|ing)|script|deploy|infer|predict|eval|valid|test|sample|generat"
    r"|frozen|freeze|teacher|reference|determin|no_?drop|without"
)


def _is_never_true(flag: cst.CSTNode) -> bool:
    match flag:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return is_name(inner, "True")
        case cst.BooleanOperation(operator=cst.And(), left=left, right=right):
            return _is_never_true(left) or _is_never_true(right)
        case cst.BooleanOperation(left=left, right=right):
            return _is_never_true(left) and _is_never_true(right)
    return is_name(flag, "False") or number(flag) == 0


def _is_off_on_purpose(source: Source, call: cst.Call) -> bool:
    """Whether the call stands under a condition, or in what is named for a pass without dropout."""
    for around in source.ancestors(call):
        if isinstance(around, (cst.If, cst.IfExp, cst.Match, cst.Try, cst.BooleanOperation)):
            return True
        if isinstance(around, (cst.FunctionDef, cst.ClassDef)):
            if _ON_PURPOSE.search(around.name.value):
                return True
            if isinstance(around, cst.ClassDef):
                return False
    return False
