"""
A dropout whose input is the output of another dropout.

## What it does

Reports, in an audit, a dropout that is applied to what another dropout returned.

## Why is this bad

Two rates p and r in a row keep (1 - p)(1 - r) of the elements: with 0.5 twice a quarter is left.
That is a slip of refactoring more often than an intention, and it hides from whoever reads either
of the two rates.

## Example

```python
x = self.dropout(x)
return F.dropout(self.dropout(x), self.p, self.training)
```

## Use instead

Apply one of them.

```python
return self.dropout(x)
```

## Fix safety

There is no fix.

## Not seen

Two dropouts with anything but a change of shape between them. A dropout of whole samples, features
or time steps beside a plain one is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP109",
    "repeated-dropout",
    __doc__,
    severity=Severity.WARNING,
)


_PLAIN = ("elementwise", "alpha", "mask", "region")


@rule.in_trace
def dropped_twice(trace: Trace) -> Iterator[Observation]:
    """Calls on what another dropout has returned, both of them plain."""
    for site in evidence(trace):
        forward, times = site.site.training, site.site.repeated_on_result
        if times and forward.acted and site.site.kind in _PLAIN:
            yield site.observe(
                f"{site.name} was applied {times:,} times to the output of another dropout: "
                f"fewer elements are left than either of their rates says",
                calls=forward.calls,
                repeated=times,
            )
