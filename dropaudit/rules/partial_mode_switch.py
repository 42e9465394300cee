"""
Models of one optimizer of which some are trained with dropout and some without.

## What it does

Follows the models of a program, and reports the `eval()` of one model before an evaluation in
which another model, trained together with it by one loss, is still in training mode. In an audit,
reports optimizer steps in which all dropout of one model was in eval mode, while
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

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding, Severity
from dropaudit.runtime.modes import steps_in_eval
from dropaudit.runtime.trace import Trace
from dropaudit.static.program.project import Project
from dropaudit.static.program.verdicts import acting, called, evaluations, place, told

rule = Rule(
    "DRP211",
    "partial-mode-switch",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"\.\s*(eval|train)\s*\(",),
    examples=(
        Example(
            """
            import torch
            from torch import nn

            def fit(loader, held_out):
                encoder = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
                decoder = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
                optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
                for epoch in range(10):
                    encoder.train()
                    decoder.train()
                    for x, y in loader:
                        optimizer.zero_grad()
                        (decoder(encoder(x)) - y).square().mean().backward()
                        optimizer.step()
                    encoder.eval()  # DRP211
                    with torch.no_grad():
                        for x, y in held_out:
                            print((decoder(encoder(x)) - y).square().mean())
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            def fit(loader, held_out):
                encoder = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
                decoder = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
                models = [encoder, decoder]
                optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
                for epoch in range(10):
                    for model in models:
                        model.train()
                    for x, y in loader:
                        optimizer.zero_grad()
                        (decoder(encoder(x)) - y).square().mean().backward()
                        optimizer.step()
                    for model in models:
                        model.eval()
                    with torch.no_grad():
                        for x, y in held_out:
                            print((decoder(encoder(x)) - y).square().mean())
            """
        ),
    ),
)


@rule.in_project
def evaluated_in_part(project: Project) -> Iterator[Finding]:
    """Evaluations before which only some of the models that one loss trains were switched."""
    for evaluation in evaluations(project.sightings):
        visit = evaluation.first
        if visit.mate is not None:
            path = visit.mate.path
            yield rule.finding(
                place(visit.mate),
                f"this switches one model to eval mode, but `{called(visit.model)}`, which is "
                f"trained together with it, stays in training mode: "
                f"{project.spot(visit.at.path, visit.at.where.line, path)} evaluates it"
                f"{told(visit.way, project, path)}{acting(visit.layer)}",
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
