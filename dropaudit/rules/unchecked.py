"""
A file, or a part of one, that could not be checked.

## What it does

Says that a file could not be read, decoded, parsed or finished, and why. It cannot be switched off
together with other rules: silence means that a file was checked. Exactly `--ignore DRP000` does.

In an audit it says which site could not be judged: one that no hook can see, or one with fewer than
64 informative elements, which are those where neither the input nor the gradient is zero.

## Why is this bad

A linter that skips a file in silence looks like a linter that found nothing.

## Example

```python
def forward(self, x):
    return F.dropout(x, self.p
```

## Use instead

Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`.

```toml
[tool.dropaudit]
extend-exclude = ["third_party/python2"]
```

## Fix safety

There is no fix.

## Not seen

Files that hold none of the words that rules look for are not parsed, so nothing is said about
their syntax.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dropaudit.catalogue import Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.evidence import AUDIT, BY_STATE, FEW, Evidence, evidence
from dropaudit.runtime.modes import mode_code
from dropaudit.runtime.trace import Trace

rule = Rule(
    "DRP000",
    "unchecked",
    __doc__,
)


@rule.in_trace
def not_seen(trace: Trace) -> Iterator[Observation]:
    """Sites that no hook could see."""
    for missed in trace.unobserved:
        yield Observation(
            AUDIT if missed.where == AUDIT else replace(missed.where, module=missed.module),
            f"{missed.what} was not checked, since {missed.reason}: {missed.advice}",
            (("calls", float(missed.calls)),),
            Severity.WARNING,
        )


@rule.in_trace
def too_little_seen(trace: Trace) -> Iterator[Observation]:
    """Sites that ran in training and showed too few elements to be judged."""
    for site in evidence(trace):
        found = _too_few(site)
        if found is not None:
            message, elements = found
            seen = site.observe(message, elements=elements, needed=FEW)
            yield replace(seen, severity=Severity.WARNING)


def _too_few(seen: Evidence) -> tuple[str, int] | None:
    """What could not be judged and what to do, with the elements that there were."""
    site, forward, backward = seen.site, seen.site.training, seen.site.backward
    if not forward.asked or site.complemented or mode_code(seen) or forward.told_off:
        return None
    if site.kind not in BY_STATE and forward.elements < FEW:
        return (
            f"{seen.name} was not checked: it showed {forward.elements:,} elements with an input "
            f"other than zero in {forward.calls:,} calls; audit more steps, or larger inputs",
            forward.elements,
        )
    again = site.recompute
    if again.unpaired and not again.compared + again.stopped:
        return (
            f"what a backward pass ran again of {seen.name} was not checked: the first runs of its "
            f"{again.unpaired:,} calls were not found; start the audit before the forward pass",
            0,
        )
    if backward.calls and not backward.products and backward.elements < FEW:
        return (
            f"the backward pass of {seen.name} was not checked: it showed {backward.elements:,} "
            f"elements with input and gradient other than zero in {backward.calls:,} passes; audit "
            f"more steps, or larger inputs",
            backward.elements,
        )
    if site.unlinked and not backward.calls:
        return (
            f"the backward pass of {seen.name} was not checked: the gradients of its "
            f"{site.unlinked:,} calls could not be followed to its input; check it by itself with "
            f"`dropaudit.check_dropout`",
            0,
        )
    return None
