"""
Models of one optimizer of which some are trained with dropout and some without.

## What it does

Reports, in an audit, optimizer steps in which all dropout of one model was in eval mode, while
another model of the same optimizer was in training mode.

## Why is this bad

`encoder.train()` does not switch the decoder. After the first evaluation one half of the network
goes on training without its dropout, which no error and hardly a curve will show.

## Example

```python
encoder.eval(), decoder.eval()
validate(encoder, decoder)
encoder.train()
```

## Use instead

Switch every model that the optimizer holds, or hold them in one module.

```python
for model in (encoder, decoder):
    model.train()
```

## Fix safety

There is no fix.

## Not seen

Models that are in different optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.modes import steps_in_eval
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP211",
    "partial-mode-switch",
    __doc__,
    severity=Severity.WARNING,
)


@rule.in_trace
def stepped_in_part(trace: Trace) -> Iterator[Observation]:
    """Optimizer steps on two models, the dropout of one of them in eval mode."""
    for seen in steps_in_eval(trace, "DRP211"):
        others = ", ".join(f"`{name}`" for name in seen.partners)
        yield Observation(
            seen.where,
            f"{seen.steps:,} optimizer steps, from step {seen.first_step} on, trained "
            f"`{seen.model}` with all {seen.dropouts:,} of its dropout modules in eval mode, and "
            f"{others} in training mode",
            (
                ("steps", float(seen.steps)),
                ("first_step", float(seen.first_step)),
                ("dropouts", float(seen.dropouts)),
            ),
        )
