"""
The mode of one module written by hand, its children left as they were.

## What it does

Reports `model.training = False` (or `True`) outside of the methods that switch the mode: in the
`forward` of a module, or from outside on something that is a module.

## Why is this bad

`training` is a plain attribute of each module. Writing it switches that one module and none of
its children: dropout modules inside go on dropping, and nothing switches the flag back.

## Example

```python
model.training = False
predictions = model(batch)
```

## Use instead

Call `model.eval()` or `model.train()`, which reach every child.

```python
model.eval()
predictions = model(batch)
```

## Fix safety

The fix calls `eval()` or `train()` on a line that is nothing but the assignment of a literal. It is
unsafe because every child is then switched as well, which is its purpose.

## Not seen

Values that are worked out, flags under another name, and modules that another file builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Severity
from dropaudit.runtime.modes import divided_modes, steps_in_eval
from dropaudit.runtime.trace import Trace
from dropaudit.static.names import Kind
from dropaudit.static.source import Change, Report, Source, is_name
from dropaudit.static.walk import descend

rule = Rule(
    "DRP207",
    "training-flag-assigned",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"\.\s*training\s*=",),
    examples=(
        Example(
            """
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(4, 2)

                def forward(self, x, target=None):
                    if target is None:
                        self.training = False  # DRP207
                    return self.fc(x)

            def predict(batch):
                net = Net()
                net.training = False  # DRP207
                return net(batch)

            def evaluate(model, loader):
                model.training = False  # DRP207
                return [model(x) for x in loader]
            """,
            fixed="""
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(4, 2)

                def forward(self, x, target=None):
                    if target is None:
                        self.eval()
                    return self.fc(x)

            def predict(batch):
                net = Net()
                net.eval()
                return net(batch)

            def evaluate(model, loader):
                model.eval()
                return [model(x) for x in loader]
            """,
        ),
        Example(
            """
            import copy
            import torch
            from torch import nn

            class Net(nn.Module):
                def __init__(self, training=False):
                    super().__init__()
                    self.training = training
                    self.fc = nn.Linear(4, 2)

                def train(self, mode=True):
                    self.training = mode
                    for child in self.children():
                        child.train(mode)
                    return self

                def freeze(self):
                    self.eval()
                    self.training = False

                def forward(self, x):
                    return self.fc(x)

            class Detect(nn.Module):
                export = False

                def forward(self, x):
                    self.training |= self.export
                    return x if self.training else x.sigmoid()

            class Data(torch.utils.data.Dataset):
                def switch(self):
                    self.training = False

            class Agent:
                def act(self, x):
                    self.training = False
                    return self.policy(x)

            class Scale(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, training):
                    ctx.training = True
                    return x

            def converted(module):
                new = Net()
                new.training = module.training
                return new

            def measured(net, batch):
                before = net.training
                net.training = False
                try:
                    return net(batch)
                finally:
                    net.training = before

            def test_flag():
                net = Net()
                net.training = False
                assert not net.fc.weight.isnan().any()
            """
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Scorer(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.drop(self.fc(x))

            batch = torch.randn(64, 16)
            model = Scorer()
            model.training = False  # DRP207
            """,
            fixed="""
            import torch
            import torch.nn as nn

            class Scorer(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.drop(self.fc(x))

            batch = torch.randn(64, 16)
            model = Scorer()
            model.eval()
            """,
            live=("DRP207",),
        ),
    ),
)
_SWITCH = re.compile(
    r"^_*(train|eval|__init__|__new__|\w*(set|switch|change|toggle)\w*|\w*(mode|freeze|export|setstate)"
    r"\w*|convert\w*|from_\w+|fuse\w*|(pre_?|_)?init\w*)$"
)
_MODEL = re.compile(r"(\w+_)?(model|net|network|encoder|decoder|generator|discriminator)$")
_EXPORT = re.compile(r"export|onnx|trace|tracing|deploy|jit|script", re.IGNORECASE)


@rule.in_source(cst.Assign)
def flag_written(assign: cst.Assign, source: Source) -> Iterator[Report]:
    """`thing.training = True` or `False`, where the thing is a module of this file."""
    target = assign.targets[0].target
    literal = next((n for n in ("True", "False") if is_name(assign.value, n)), "")
    if len(assign.targets) != 1 or not literal or not isinstance(target, cst.Attribute):
        return
    if target.attr.value != "training" or not isinstance(target.value, cst.Name):
        return
    function = source.function_of(assign)
    if function is not None and _SWITCH.match(function.name.value):
        return
    method = source.method_of(assign)
    if method is not None and _SWITCH.match(method.name.value):
        return
    if not _is_module(source, target.value) or source.modes.in_test(assign):
        return
    around = function or source.module
    holder = target.value.value
    if _is_kept_in_step(source, around, holder, assign) or _on_purpose(source, assign):
        return
    switch = "eval" if literal == "False" else "train"
    yield Report(
        assign,
        f"`{holder}.training = {literal}` switches `{holder}` alone: modules inside it, dropout "
        f"too, stay in {'training' if switch == 'eval' else 'eval'} mode",
        (Change(assign, "replace", f"{holder}.{switch}()"),),
        title=f"Call `{holder}.{switch}()`",
    )


def _is_module(source: Source, holder: cst.Name) -> bool:
    if holder.value == "self":
        facts = source.class_of(holder)
        return facts is not None and facts.is_surely_module
    bindings = source.bindings(holder)
    if not bindings:
        return False
    if _MODEL.match(holder.value) and all(b.kind is Kind.PARAMETER for b in bindings):
        return True
    if any(b.kind is not Kind.ASSIGNMENT for b in bindings):
        return False
    return any(_builds(source, b.value) for b in bindings)


def _builds(source: Source, value: cst.CSTNode | None) -> bool:
    """Whether `value` is a call of a module class that this file defines or torch does."""
    while isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
        if source.name_of(value.func).startswith("torch.nn."):
            break
        value = value.func.value  # Net().to(device)
    if not isinstance(value, cst.Call):
        return False
    definition = source.definition(value.func)
    if isinstance(definition, cst.ClassDef):
        return source.facts(definition).is_surely_module
    return source.name_of(value.func).startswith("torch.nn.Sequential")


def _is_kept_in_step(source: Source, around: cst.CSTNode, holder: str, assign: cst.Assign) -> bool:
    """Whether the mode is saved, restored or switched beside the assignment."""
    for node in descend(around):
        match node:
            case cst.Call(
                func=cst.Attribute(
                    value=cst.Name(name), attr=cst.Name("eval" | "train" | "modules" | "children")
                )
            ) if name == holder:
                return True
            case cst.Assign(
                targets=[
                    cst.AssignTarget(
                        target=cst.Attribute(value=cst.Name(name), attr=cst.Name("training"))
                    ),
                    *_,
                ]
            ) if name == holder and node is not assign:
                return True
            case cst.Assign(value=cst.Attribute(value=cst.Name(name), attr=cst.Name("training"))):
                if name == holder:
                    return True
    return False


def _on_purpose(source: Source, assign: cst.Assign) -> bool:
    if source.modes.on_purpose(assign):
        return True
    return any(
        isinstance(a, cst.If) and _EXPORT.search(source.text(a.test))
        for a in source.ancestors(assign)
    )


@rule.in_trace
def flag_without_children(trace: Trace) -> Iterator[Observation]:
    """A module in one mode, everything below it in the other, and no override to blame."""
    why = "`training` was assigned, which changes this module alone"
    yield from divided_modes(trace, overridden=False, why=why)


@rule.in_trace
def flag_before_steps(trace: Trace) -> Iterator[Observation]:
    """Optimizer steps on a model in training mode whose dropout stayed in eval mode."""
    for seen in steps_in_eval(trace, "DRP207"):
        yield Observation(
            seen.where,
            f"{seen.steps:,} optimizer steps, from step {seen.first_step} on, trained "
            f"`{seen.model}` in training mode with all {seen.dropouts:,} of its dropout "
            f"modules in eval mode: `training` was assigned, which changes one module alone",
            (
                ("steps", float(seen.steps)),
                ("first_step", float(seen.first_step)),
                ("dropouts", float(seen.dropouts)),
            ),
        )
