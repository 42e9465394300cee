"""
A checkpoint that recomputes a dropout without the random state of the first run.

## What it does

Reports `torch.utils.checkpoint.checkpoint(..., preserve_rng_state=False)` and the same for
`checkpoint_sequential`, where a dropout is visible inside what is checkpointed.

## Why is this bad

Backward runs the function again to get its activations back. Without the random state the second
run draws another mask: the gradients belong to a network that never made the prediction. No error
is raised; training is noisier and worse.

## Example

```python
x = checkpoint(self.block, x, use_reentrant=False, preserve_rng_state=False)
```

## Use instead

Leave out `preserve_rng_state=False` wherever the function holds a dropout.

```python
x = checkpoint(self.block, x, use_reentrant=False)
```

## Fix safety

The fix sets `preserve_rng_state=True`. It is unsafe: gradients change, and each checkpoint costs
the time to save and restore the random state.

## Not seen

A flag that comes from a parameter, and functions or modules of other files.

## References

- [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.gradients import backward_code, backward_counts, backward_figures
from dropaudit.runtime.trace import Trace
from dropaudit.static.holders import shows_dropout
from dropaudit.static.source import Change, Report, Source, is_name

rule = Rule(
    "DRP303",
    "recompute-without-rng-state",
    __doc__,
    triggers=(r"preserve_rng_state\s*=\s*False",),
    examples=(
        Example(
            """
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.blocks = nn.ModuleList([Block(dim, rate) for _ in range(4)])
                    self.head = Block(dim, rate)

                def forward(self, x):
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=False)  # DRP303

                    def run(y):
                        return self.head(y)

                    return checkpoint(run, x, preserve_rng_state=False)  # DRP303
            """,
            fixed="""
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.blocks = nn.ModuleList([Block(dim, rate) for _ in range(4)])
                    self.head = Block(dim, rate)

                def forward(self, x):
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=True)

                    def run(y):
                        return self.head(y)

                    return checkpoint(run, x, preserve_rng_state=True)
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.utils.checkpoint as cp

            from other import Layer

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.plain = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
                    self.still = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0))
                    self.block = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(rate))
                    self.other = Layer(dim)

                def forward(self, x, keep=True):
                    x = cp.checkpoint(self.plain, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.still, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.other, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.block, x, preserve_rng_state=keep)
                    return cp.checkpoint(self.block, x, preserve_rng_state=True)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.fc(self.drop(self.fc(x)))

            class Checkpointed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = Inner()

                def forward(self, x):
                    return checkpoint(  # DRP303
                        self.inner, x, use_reentrant=False, preserve_rng_state=False
                    )

            model, batch = Checkpointed(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.fc(self.drop(self.fc(x)))

            class Checkpointed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = Inner()

                def forward(self, x):
                    return checkpoint(
                        self.inner, x, use_reentrant=False, preserve_rng_state=True
                    )

            model, batch = Checkpointed(), torch.randn(64, 16)
            """,
            live=("DRP303",),
        ),
    ),
)

_CHECKPOINTS = {
    "torch.utils.checkpoint.checkpoint": "function",
    "torch.utils.checkpoint.checkpoint_sequential": "functions",
}


@rule.in_source(cst.Call)
def state_not_kept(call: cst.Call, source: Source) -> Iterator[Report]:
    """The flag is the literal False, and a dropout is visible inside."""
    parameter = _CHECKPOINTS.get(source.name_of(call.func))
    flag = source.argument(call, "preserve_rng_state")
    if parameter is None or flag is None or not is_name(flag.value, "False"):
        return
    callee = source.argument(call, parameter, 0)
    if callee is None or not shows_dropout(source, callee.value):
        return
    yield Report(
        call,
        "backward runs this again with another dropout mask, because the random state is not "
        "kept: the gradients do not belong to the prediction",
        (Change(flag.value, "replace", "True"),),
        title="Keep the random state",
    )


@rule.in_trace
def recomputed_with_another_mask(trace: Trace) -> Iterator[Observation]:
    """Gradients of a recomputed forward pass that drew other random numbers."""
    for site in evidence(trace):
        if backward_code(site) == "DRP303":
            yield site.observe(
                f"the forward pass that was recomputed for the gradient drew another mask "
                f"in {site.name}: {backward_figures(site)}",
                **backward_counts(site),
            )
