"""
An evaluation that runs while dropout is on.

## What it does

Follows the models of a program from where they are built through calls, branches and loops, and
reports a function that evaluates one of them (gradients are off, or it is called `evaluate` or the
like) although it is in training mode: on the way that the message names, nobody has called
`eval()`. In an audit, reports a run of forward passes without gradient, outside any training step,
in which dropout of a model in training mode dropped something.

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

The fix puts `model.eval()` at the top of the function, where the name that it uses stands for the
model, and all of the way to it is in one file. It changes what the evaluation returns, and training
needs a `train()` after it: unsafe.

## Not seen

A model whose class is not at hand, or has no dropout and no batch norm; a model that was neither
trained nor loaded on the way; a model that was given to a function that cannot be followed, or to a
framework that switches modes itself (Lightning, the Trainer of transformers, Ignite and others;
`framework-bases` in the settings names more). In an audit,
evaluation with gradients enabled. Forward passes without gradient that are part of a training step
(the generator of a GAN, a teacher, gradient caching, `update_bn`) are left alone, and so is a model
in eval mode whose dropout was switched on by itself: that is Monte-Carlo dropout.

## References

- [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
"""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding, Fix, Severity
from dropaudit.runtime.trace import Evaluation, Trace
from dropaudit.static.program.project import Project
from dropaudit.static.program.verdicts import Evaluation as Evaluated
from dropaudit.static.program.verdicts import acting, called, evaluations, place, told

rule = Rule(
    "DRP209",
    "evaluation-in-training-mode",
    __doc__,
    severity=Severity.WARNING,
    triggers=(
        r"no_grad|inference_mode|set_grad_enabled|volatile",
        r"def _?(\w+_)?(eval|test|valid|val|infer|predict|translate)",
    ),
    examples=(
        Example(
            """
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 2))

                def forward(self, x):
                    return self.body(x)

            def train_epoch(model, loader, optimizer):
                for x, y in loader:
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()

            def accuracy(model, loader):  # DRP209
                right = 0
                with torch.no_grad():
                    for x, y in loader:
                        right += (model(x).argmax(1) == y).sum().item()
                return right / len(loader.dataset)

            def main(loaders):
                model = Net()
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                for epoch in range(10):
                    train_epoch(model, loaders[0], optimizer)
                    print(accuracy(model, loaders[1]))
            """,
            fixed="""
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2), nn.Linear(8, 2))

                def forward(self, x):
                    return self.body(x)

            def train_epoch(model, loader, optimizer):
                for x, y in loader:
                    model.train()
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()

            def accuracy(model, loader):
                model.eval()
                right = 0
                with torch.no_grad():
                    for x, y in loader:
                        right += (model(x).argmax(1) == y).sum().item()
                return right / len(loader.dataset)

            def main(loaders):
                model = Net()
                optimizer = torch.optim.SGD(model.parameters(), 0.1)
                for epoch in range(10):
                    train_epoch(model, loaders[0], optimizer)
                    print(accuracy(model, loaders[1]))
            """,
        ),
        Example(
            """
            import torch
            from net import Net, fit

            @torch.no_grad()
            def validate(model, loader):
                return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)

            model = Net(0.5)
            fit(model)
            model.eval()
            print(validate(model, []))
            """,
            others={
                "net.py": """
                from torch import nn

                class Net(nn.Module):
                    def __init__(self, p):
                        super().__init__()
                        self.drop = nn.Dropout(p)

                    def forward(self, x):
                        return self.drop(x)

                def fit(model, loader, optimizer):
                    for x, y in loader:
                        (model(x) - y).square().mean().backward()
                        optimizer.step()
                """
            },
        ),
        Example(
            """
            import torch
            from net import Net, fit

            @torch.no_grad()
            def validate(model, loader):  # DRP209
                return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)

            model = Net(0.5)
            fit(model)
            print(validate(model, []))
            """,
            fixed="""
            import torch
            from net import Net, fit

            @torch.no_grad()
            def validate(model, loader):
                model.eval()
                return sum((model(x).argmax(1) == y).sum().item() for x, y in loader)

            model = Net(0.5)
            fit(model)
            print(validate(model, []))
            """,
            others={
                "net.py": """
                from torch import nn

                class Net(nn.Module):
                    def __init__(self, p):
                        super().__init__()
                        self.drop = nn.Dropout(p)

                    def forward(self, x):
                        return self.drop(x)

                def fit(model, loader, optimizer):
                    for x, y in loader:
                        (model(x) - y).square().mean().backward()
                        optimizer.step()
                """
            },
        ),
    ),
)


@rule.in_project
def evaluated_while_training(project: Project) -> Iterator[Finding]:
    """Evaluations that a model reaches in training mode."""
    for evaluation in evaluations(project.sightings):
        visit = evaluation.first
        if visit.mate is not None:
            continue  # a part was switched, a part was not: DRP211
        names = " and ".join(f"`{called(model)}`" for model in evaluation.models[:3])
        where = f"`{visit.start.function}` evaluates" if visit.start.function else "this evaluates"
        yield rule.finding(
            place(visit.start),
            f"{where} {names} in training mode{acting(visit.layer)}: no `eval()`"
            f"{told(visit.way, project, visit.start.path) or ' before it'}",
            _eval_first(project, evaluation),
        )


def _eval_first(project: Project, evaluation: Evaluated) -> Fix | None:
    """`model.eval()` at the top of the function, if the name means the model there."""
    visit = evaluation.first
    head = visit.written.partition(".")[0]
    if len(evaluation.models) > 1 or not visit.start.function or not head:
        return None
    if any(step.path != visit.start.path for step in visit.way.steps):
        return None  # who trains is elsewhere, and might go on in eval mode
    function = project.resolver.functions(visit.start.path)[visit.start.function]
    parameters = {parameter.name for parameter in function.parameters}
    if function.top is None or (head in function.assigned and head not in parameters):
        return None
    edit = function.top.insertion(f"{visit.written}.eval()")
    return Fix(f"Call `{visit.written}.eval()` first", (edit,), safe=False)


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
