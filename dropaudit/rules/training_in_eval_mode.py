"""
A model that is trained while all of its dropout is off.

## What it does

Reports, in an audit, optimizer steps on the parameters of a model whose dropout modules all ran in
eval mode.

## Why is this bad

The regularization that the configuration asks for does not happen. The usual way there is an
evaluation that calls `eval()` inside the training loop, and no `train()` after it: from the second
epoch on the model trains without dropout, and with frozen batch statistics.

## Example

```python
for epoch in range(epochs):
    train_one_epoch(model)
    model.eval()
    validate(model)
```

## Use instead

Call `model.train()` at the start of each epoch, or at the end of the evaluation.

```python
for epoch in range(epochs):
    model.train()
    train_one_epoch(model)
    model.eval()
    validate(model)
```

## Fix safety

There is no fix.

## Not seen

A model of which only some dropout modules are in eval mode: parts are frozen on purpose. Dropout
modules that were switched off one by one are left alone too.

## References

- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.modes import steps_in_eval
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP210",
    "training-in-eval-mode",
    __doc__,
    severity=Severity.WARNING,
)


@rule.in_trace
def stepped_without_dropout(trace: Trace) -> Iterator[Observation]:
    """Optimizer steps after forward passes with every dropout module in eval mode."""
    for seen in steps_in_eval(trace, "DRP210"):
        after = "; earlier steps had it on" if seen.trained_before else ""
        yield Observation(
            seen.where,
            f"{seen.steps:,} optimizer steps, from step {seen.first_step} on, trained "
            f"`{seen.model}` with all {seen.dropouts:,} of its dropout modules in eval mode{after}",
            (
                ("steps", float(seen.steps)),
                ("first_step", float(seen.first_step)),
                ("dropouts", float(seen.dropouts)),
            ),
        )
