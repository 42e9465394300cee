"""
A dropout of whole samples whose mask differs within a sample.

## What it does

Reports, in an audit, a DropPath, StochasticDepth or locked dropout in which elements that should
share one decision do not.

## Why is this bad

These dropouts remove a whole residual branch for a sample, or the same features in every time
step. With a mask of the full shape they are plain dropout under another name: the depth of the
network never varies, and published drop rates mean something else.

## Example

```python
mask = torch.rand_like(x) < keep
return x * mask / keep
```

## Use instead

Draw one number a sample, and let it broadcast.

```python
mask = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) < keep
return x * mask / keep
```

## Fix safety

There is no fix.

## Not seen

Modules whose name does not say which axis shares a decision.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP107",
    "mask-on-wrong-axis",
    __doc__,
    severity=Severity.WARNING,
)


@rule.in_trace
def decision_not_shared(trace: Trace) -> Iterator[Observation]:
    """Units of the axis that the kind declares, dropped in part."""
    for site in evidence(trace):
        if site.forward_code == "DRP107":
            forward = site.site.training
            unit = "samples" if site.site.kind == "path" else "units"
            yield site.observe(
                f"{site.name} dropped {forward.mixed:,} of {forward.units:,} {unit} in part: its "
                f"mask should be the same throughout each of them",
                mixed=forward.mixed,
                units=forward.units,
                calls=forward.calls,
            )
