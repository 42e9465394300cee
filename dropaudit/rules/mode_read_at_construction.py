"""
`self.training` read in `__init__`, where it is always true.

## What it does

Reports a read of `self.training` in the constructor of a Module, outside nested functions.

## Why is this bad

A new module is in training mode, so the value is always `True`. A rate computed from it is fixed
for good and `eval()` does not change it; a branch on it is taken always or never.

## Example

```python
def __init__(self, p):
    super().__init__()
    self.p = p if self.training else 0.0
```

## Use instead

Read `self.training` in `forward`, each time it is needed.

```python
def __init__(self, p):
    super().__init__()
    self.p = p

def forward(self, x):
    return F.dropout(x, self.p, self.training)
```

## Fix safety

There is no fix: what the constructor computes has to move.

## Not seen

A read through another name, or in a method that the constructor calls.

## References

- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.source import Report, Source, self_attribute
from dropaudit.static.walk import descend

rule = Rule(
    "DRP213",
    "mode-read-at-construction",
    __doc__,
    triggers=(r"self\s*\.\s*training\b",),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p if self.training else 0.0  # DRP213
                    self.layers = nn.Sequential(nn.Linear(8, 8))
                    if self.training:  # DRP213
                        self.layers.append(nn.Dropout(p))

                def forward(self, x):
                    return F.dropout(self.layers(x), self.p, self.training)
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p
                    self.rate = lambda: self.p if self.training else 0.0

                    def drop(x):
                        return F.dropout(x, self.p, training=self.training)

                    self.drop = drop

                @property
                def active(self):
                    return self.training

                def forward(self, x):
                    return self.drop(x) if self.training else x

            class Settings:
                def __init__(self, training):
                    self.training = training
                    self.p = 0.1 if self.training else 0.0

            class Head(nn.Module):
                def __init__(self, training):
                    super().__init__()
                    self.training = training
                    self.out = nn.Linear(8, 2) if self.training else nn.Identity()
            """,
        ),
    ),
)


@rule.in_source(cst.ClassDef)
def training_in_constructor(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Reads of `self.training` in `__init__`; one that the constructor set itself is its own."""
    facts = source.facts(node)
    init = facts.methods.get("__init__")
    if init is None or not facts.is_module:
        return
    stop = (cst.FunctionDef, cst.Lambda, cst.ClassDef)
    reads = []
    for inner in descend(init.body, stop=stop):
        if self_attribute(inner) == "training":
            if isinstance(
                source.parents.get(inner), (cst.AssignTarget, cst.AugAssign, cst.AnnAssign)
            ):
                return
            reads.append(inner)
    for read in reads:
        yield Report(
            read,
            "`self.training` is always true in `__init__`, whatever mode the model is in later: "
            "this is decided once, and `eval()` does not change it; read it in `forward`",
        )
