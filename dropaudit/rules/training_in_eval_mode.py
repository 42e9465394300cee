"""
A model that is trained while all of its dropout is off.

## What it does

Follows the models of a program through calls, branches and loops, and reports an `eval()` after
which a model is trained on without a `train()`: an evaluation inside of the training loop, in this
function or in one that it calls. The message names the loop. In an audit, reports optimizer steps
on the parameters of a model whose dropout modules all ran in eval mode.

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

The fix puts `model.train()` at the top of the body of the loop that trains. It turns dropout on
again, and batch statistics too: unsafe.

## Not seen

A model that was in eval mode from the first training step on: it is frozen, or fine-tuned so, on
purpose. A model that no optimizer in sight steps. In an audit, a model of which only some dropout
modules are in eval mode: parts are frozen on purpose. Dropout modules that were switched off one by
one are left alone too.

## References

- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding, Fix, Severity
from dropaudit.runtime.modes import steps_in_eval
from dropaudit.runtime.trace import Trace
from dropaudit.static.program.project import Project
from dropaudit.static.program.sightings import Training
from dropaudit.static.program.verdicts import called, neglected, place, told

rule = Rule(
    "DRP210",
    "training-in-eval-mode",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"\.\s*(eval|train)\s*\(",),
    examples=(
        Example(
            """
            import torch
            from torch import nn

            def evaluate(model, loader):
                model.eval()  # DRP210
                with torch.no_grad():
                    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)

            def main(train_loader, test_loader):
                model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 2))
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                model.train()
                for epoch in range(10):
                    for x, y in train_loader:
                        optimizer.zero_grad()
                        nn.functional.cross_entropy(model(x), y).backward()
                        optimizer.step()
                    print(evaluate(model, test_loader))
            """,
            fixed="""
            import torch
            from torch import nn

            def evaluate(model, loader):
                model.eval()
                with torch.no_grad():
                    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)

            def main(train_loader, test_loader):
                model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 2))
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                model.train()
                for epoch in range(10):
                    for x, y in train_loader:
                        model.train()
                        optimizer.zero_grad()
                        nn.functional.cross_entropy(model(x), y).backward()
                        optimizer.step()
                    print(evaluate(model, test_loader))
            """,
        ),
        Example(
            """
            import torch

            def fit(model, loader, held_out, optimizer, every):
                model.train()
                for step, (x, y) in enumerate(loader):
                    optimizer.zero_grad()
                    (model(x) - y).square().mean().backward()
                    optimizer.step()
                    if step % every == 0:
                        was_training = model.training
                        model.eval()
                        with torch.no_grad():
                            print(sum((model(x) - y).square().mean().item() for x, y in held_out))
                        model.train(was_training)

            def fit_by_epoch(model, loader, held_out, optimizer):
                for epoch in range(10):
                    model.train()
                    for x, y in loader:
                        optimizer.zero_grad()
                        (model(x) - y).square().mean().backward()
                        optimizer.step()
                    model.eval()
                    with torch.no_grad():
                        print(sum((model(x) - y).square().mean().item() for x, y in held_out))

            def tune_frozen(model, loader, optimizer):
                model.eval()
                for x, y in loader:
                    optimizer.zero_grad()
                    (model(x) - y).square().mean().backward()
                    optimizer.step()
            """,
        ),
    ),
)


@rule.in_project
def trained_after_eval(project: Project) -> Iterator[Finding]:
    """Switches to eval mode that nothing undoes before the model is trained on."""
    for training in neglected(project.sightings):
        name = called(training.model)
        switched = training.evaluated
        inside = f"`{switched.function}` switches" if switched.function else "this switches"
        loop = training.way.loop_line
        line = loop or training.at.where.line
        trains = "the loop at " * bool(loop) + project.spot(training.at.path, line, switched.path)
        yield rule.finding(
            place(switched),
            f"{inside} `{name}` to eval mode, and {trains} trains it again without `train()`"
            f"{told(training.way, project, switched.path)}",
            _train_first(training, switched.path),
        )


def _train_first(training: Training, path: str) -> Fix | None:
    """`model.train()` at the top of the loop's body, where that is in the same file."""
    if training.top is None or not training.written or training.at.path != path:
        return None
    edit = training.top.insertion(f"{training.written}.train()")
    return Fix(f"Call `{training.written}.train()` in the loop", (edit,), safe=False)


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
