"""
An audit that saw no dropout.

## What it does

Says that not one call of an audited program could drop anything: no dropout was called, or every
one of them had a drop probability of zero.

## Why is this bad

An audit without findings reads like a verdict. Where nothing was observed it is none: perhaps the
model was never called inside the audit, or it was built without its dropout.

## Example

```python
with dropaudit.audit(model):
    optimizer.step()
```

## Use instead

Call the model inside the audit, in training mode, with a drop probability above zero; name dropout
that the audit does not know with `sites=`.

```python
with dropaudit.audit(model):
    loss = criterion(model(inputs), targets)
    loss.backward()
    optimizer.step()
```

## Fix safety

There is no fix.

## Not seen

Dropout that runs before the audit begins, or in another process.
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import AUDIT
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP002",
    "nothing-observed",
    __doc__,
    severity=Severity.WARNING,
)


@rule.in_trace
def nothing_to_drop(trace: Trace) -> Iterator[Observation]:
    """No site had anything to do, and no site is known that could not be seen."""
    if any(site.training.asked or site.eval.asked for site in trace.sites):
        return
    if trace.unobserved or trace.idle:
        return  # dropout is known of, and other findings say what became of it
    calls = sum(site.training.calls + site.eval.calls for site in trace.sites)
    if calls:
        seen = f"{calls:,} calls of dropout, none with a drop probability between 0 and 1"
    elif trace.forwards:
        seen = f"{trace.forwards:,} calls of a model, and no dropout in them"
    else:
        seen = "no call of a model"
    yield Observation(
        AUDIT,
        f"nothing was checked: the audit saw {seen}",
        (("forwards", float(trace.forwards)), ("steps", float(trace.steps))),
    )
