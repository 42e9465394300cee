"""
A `train` or `eval` method of a Module that does not do what `nn.Module` promises of it.

## What it does

Reports, in classes that are Modules: a training or evaluation loop that is called `train` or
`eval`; an override that does not hand the mode on to the children, or hands on a constant; work
done in an `eval` override; an attribute that hides the method.

## Why is this bad

`model.eval()` is `model.train(False)`, and a parent switches its children by `child.train(mode)`,
never by `child.eval()`. A `train` that takes a data loader makes `eval()` raise. An override that
stops the mode leaves dropout on in evaluation, or off in training, for all that is below. What an
`eval` override does is not done when a parent is switched.

## Example

```python
class Net(nn.Module):
    def train(self, mode=True):
        super().train()
        self.backbone.eval()
        return self
```

## Use instead

Hand the mode on with `super().train(mode)`, return `self`, and give a training loop another name.

```python
class Net(nn.Module):
    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self
```

## Fix safety

The fix hands the mode on where `super().train()` is called without it. It is unsafe because the
model then follows `eval()`, which is its purpose. The other forms need a decision.

## Not seen

Classes whose base is in another file and does not look like a Module; children that are switched
in part. Parts that are pinned in eval on purpose, `super().train(False)`, are left alone.

## References

- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.modes import divided_modes
from dropaudit.runtime.trace import Trace
from dropaudit.static.overrides import (
    Override,
    does_work,
    hands_on,
    hides_method,
    is_loop,
    unpassed_call,
)
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP208",
    "mode-override-not-propagating",
    __doc__,
    triggers=(r"def\s+(?:train|eval)\b", r"self\s*\.\s*(?:train|eval)\s*(?:=|:)"),
    examples=(
        Example(
            """
            import torch.nn as nn

            class Learner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.net = nn.Linear(8, 8)

                def forward(self, x):
                    return self.net(x)

                def train(self, loader, epochs):  # DRP208
                    for _ in range(epochs):
                        for x in loader:
                            self.net(x).sum().backward()

            class Explainer(nn.Module):
                def __init__(self, net):
                    super().__init__()
                    self.net = net

                def forward(self, x):
                    return self.net(x)

                def train(self, epoch, model, *, target, **options):  # DRP208
                    self.net(model(epoch, **options)).sum().backward()

            class Policy(nn.Module):
                def __init__(self, optimizer):
                    super().__init__()
                    self.fc = nn.Linear(4, 2)
                    self.data = []
                    self.optimizer = optimizer

                def forward(self, x):
                    return self.fc(x)

                def train(self):  # DRP208
                    self.optimizer.zero_grad()
                    for loss in self.data:
                        loss.backward()
                    self.optimizer.step()

                def eval(self, loader):  # DRP208
                    return [self(x) for x in loader]

            class Masked(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.drop = nn.Dropout(0.5)
                    self.mask = None

                def forward(self, x):
                    return self.drop(x)

                def eval(self):  # DRP208
                    self.mask = None
                    return super().eval()

            class Wrapper(nn.Module):
                def __init__(self, model, train=True):
                    super().__init__()
                    self.train = train  # DRP208
                    self.model = model

                def forward(self, x):
                    return self.model(x)

                def eval(self):  # DRP208
                    self.model.eval()

            class Mute(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.drop = nn.Dropout(0.5)

                def forward(self, x):
                    return self.drop(x)

                def train(self, mode=True):  # DRP208
                    self.active = mode
                    return self
            """,
        ),
        Example(
            """
            import torch.nn as nn

            class Net(nn.Module):
                def __init__(self, backbone):
                    super().__init__()
                    self.backbone = backbone
                    self.drop = nn.Dropout(0.5)

                def forward(self, x):
                    return self.drop(self.backbone(x))

                def train(self, mode=True):
                    super().train()  # DRP208
                    self.backbone.eval()
                    return self

            class Other(Net):
                def train(self, mode: bool = True):
                    super(Other, self).train(True)  # DRP208
                    return self
            """,
            fixed="""
            import torch.nn as nn

            class Net(nn.Module):
                def __init__(self, backbone):
                    super().__init__()
                    self.backbone = backbone
                    self.drop = nn.Dropout(0.5)

                def forward(self, x):
                    return self.drop(self.backbone(x))

                def train(self, mode=True):
                    super().train(mode)
                    self.backbone.eval()
                    return self

            class Other(Net):
                def train(self, mode: bool = True):
                    super(Other, self).train(mode)
                    return self
            """,
        ),
        Example(
            """
            import logging
            import torch.nn as nn

            class Pinned(nn.Module):
                def __init__(self, backbone):
                    super().__init__()
                    self.backbone = backbone
                    self.drop = nn.Dropout(0.5)
                    self.head = nn.Linear(8, 2)

                def forward(self, x):
                    return self.head(self.drop(self.backbone(x)))

                def train(self, mode=True):
                    super().train(mode=mode)
                    self.backbone.eval()
                    return self

            class Tuned(Pinned):
                def train(self, mode=True, keep_frozen=False):
                    nn.Module.train(self, mode)
                    if keep_frozen:
                        self.backbone.eval()
                    return self

            class Guarded(Pinned):
                def train(self, mode=True):
                    if mode:
                        super().train()
                    else:
                        super().eval()
                    return self

            class Recursive(Pinned):
                def train(self, mode=True):
                    self.training = mode
                    for child in self.children():
                        child.train(mode)
                    return self

                def eval(self):
                    return self.train(False)

            class Starred(Pinned):
                def train(self, *args, **kwargs):
                    return super().train(*args, **kwargs)

                def eval(self):
                    logging.info("evaluating")
                    return super().eval()

            class FrozenEncoder(Pinned):
                def train(self, mode=True):
                    return self

            class Fixed(Pinned):
                def train(self, mode=True):
                    return super().train(False)

            class Merged(Pinned):
                def train(self, mode=True):
                    super().train(mode)
                    if not mode:
                        self.head.weight.data *= 2
                    return self

                def eval(self):
                    super().eval()

            class Trainer:
                def __init__(self, model, train=True):
                    self.model = model
                    self.train = train

                def train(self, loader, epochs):
                    self.model.train()

                def eval(self):
                    self.model.eval()
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Head(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.drop(self.fc(x))

                def train(self, mode=True):  # DRP208
                    self.training = mode
                    return self

            model, batch = Head(), torch.randn(64, 16)
            """,
            live=("DRP208",),
        ),
    ),
)


@rule.in_source(cst.ClassDef)
def broken_override(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """The `train` and `eval` that a Module's class defines itself."""
    facts = source.facts(node)
    names = [n for n in ("train", "eval") if n in facts.methods]
    if not facts.is_module or source.modes.in_test(node):
        return
    for hiding in hides_method(facts, source):
        yield Report(
            hiding,
            "this attribute hides the method of `nn.Module` with the same name, so switching the "
            "mode of this module, or of one that holds it, raises; give it another name",
        )
    for name in names:
        override = Override(facts.methods[name], facts, source)
        if override.is_unusual:
            continue
        yield from _train(override) if name == "train" else _eval(override)


def _train(override: Override) -> Iterator[Report]:
    function = override.function
    if is_loop(override):
        yield Report(
            function,
            f"`{override.owner}.train` hides `nn.Module.train`, and `eval()` calls `train(False)`: "
            "it raises or runs this instead of switching the mode; give it another name",
        )
        return
    call = unpassed_call(override)
    if call is not None:
        constant = (
            Change(call.args[0].value, "replace", override.mode)
            if call.args
            else Change(call, "inside", override.mode)
        )
        yield Report(
            call,
            f"the mode is not handed on: after `{override.owner}().eval()` everything below is in "
            f"training mode; pass `{override.mode}`",
            (constant,),
            title="Hand the mode on",
        )
    elif not hands_on(override) and not override.is_frozen:
        yield Report(
            function,
            f"`{override.owner}.train` never hands the mode on, so `eval()` and `train()` do not "
            f"reach its children; call `super().train({override.mode or 'mode'})`",
        )


def _eval(override: Override) -> Iterator[Report]:
    function = override.function
    owner = override.owner
    if override.required:
        yield Report(
            function,
            f"`{owner}.eval` hides `nn.Module.eval`, so `eval()` raises; give it another name",
        )
    elif not hands_on(override):
        if not override.is_frozen:
            yield Report(
                function,
                f"`{owner}.eval` does not switch the module itself; call `super().eval()`",
            )
    elif does_work(override):
        yield Report(
            function,
            f"a parent switches `{owner}` by `train(False)` and never calls this `eval`, so what "
            "it does is left out in a larger model; do it in `train(mode)`",
        )


@rule.in_trace
def mode_that_stops(trace: Trace) -> Iterator[Observation]:
    """A module whose class overrides train() or eval(), above modules in the other mode."""
    why = "its `{override}()` does not reach them"
    yield from divided_modes(trace, overridden=True, why=why)
