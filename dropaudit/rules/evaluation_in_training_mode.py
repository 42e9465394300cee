"""
An evaluation that runs while dropout is on.

## What it does

Reports, in an audit, a run of forward passes without gradient, outside any training step, in which
dropout of a model in training mode dropped something.

## Why is this bad

The figures of the evaluation are those of a network with part of its activations missing: too
low, different on each run, and not those of the model that will be used. Early stopping and
model selection follow them.

## Example

```python
with torch.no_grad():
    accuracy = evaluate(model, validation)
```

## Use instead

Switch the model to eval mode before the evaluation and back to training mode after it.

```python
model.eval()
with torch.no_grad():
    accuracy = evaluate(model, validation)
model.train()
```

## Fix safety

There is no fix.

## Not seen

Evaluation with gradients enabled. Forward passes without gradient that are part of a training step
(the generator of a GAN, a teacher, gradient caching, `update_bn`) are left alone, and so is a model
in eval mode whose dropout was switched on by itself: that is Monte-Carlo dropout.

## References

- [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.trace import Evaluation, Trace

rule = Rule(
    "DRP209",
    "evaluation-in-training-mode",
    __doc__,
    severity=Severity.WARNING,
)


_INFERENCE = 8
"""Forward passes that make a run of an untrained model an evaluation, and no trial call."""


@rule.in_trace
def dropped_while_evaluating(trace: Trace) -> Iterator[Observation]:
    """Phases without gradient in which sites in training mode dropped."""
    for phase in trace.evaluations:
        if _is_evaluation(phase):
            shown = ", ".join(f"`{path}`" for path in phase.dropping[:3] if path)
            sites = "1 site" if phase.sites == 1 else f"{phase.sites:,} sites"
            times = f", {phase.times:,} times" if phase.times > 1 else ""
            yield Observation(
                phase.where,
                f"`{phase.model}` ran {phase.forwards:,} forward passes without gradient in "
                f"training mode after step {phase.step}{times}: dropout was on at {sites}"
                + (f" ({shown})" if shown else ""),
                (
                    ("forwards", float(phase.forwards)),
                    ("sites", float(phase.sites)),
                    ("step", float(phase.step)),
                    ("times", float(phase.times)),
                ),
            )


def _is_evaluation(phase: Evaluation) -> bool:
    if not phase.dropping or not phase.root_training:
        return False
    if phase.inside_step or phase.statistics_update:
        return False
    return phase.trained or (phase.trailing and phase.forwards >= _INFERENCE)
