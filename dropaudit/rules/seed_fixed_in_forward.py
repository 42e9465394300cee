"""
A fixed seed set in `forward`, before something is drawn.

## What it does

Reports `torch.manual_seed(0)`, `torch.cuda.manual_seed_all(0)`, `self.generator.manual_seed(0)`,
`random.seed(0)` and `numpy.random.seed(0)` with a seed that never changes, in the `forward` of a
module (or a method that forward calls) that drops or draws.

## Why is this bad

Every call draws the same mask: the same units are dropped in every step, so the network is
trained without half of its units rather than with dropout. A global seed also makes everything
else that draws afterwards repeat itself.

## Example

```python
def forward(self, x):
    torch.manual_seed(0)
    return F.dropout(x, 0.5, training=self.training)
```

## Use instead

Seed once, before training starts; to repeat one step, save and restore the random state around it.

```python
def forward(self, x):
    return F.dropout(x, 0.5, training=self.training)
```

## Fix safety

There is no fix: what was to be repeatable is for the author to say.

## Not seen

Seeds set by helpers of other files. Inside `torch.random.fork_rng()`, with a seed that varies
(`seed + step`), or for a generator that is made when first used, nothing is reported.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.repeats import log_chance, repeat_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.constants import constant, origins
from dropaudit.static.expectations import in_test
from dropaudit.static.facts import ClassFacts
from dropaudit.static.randomness import draws
from dropaudit.static.source import Report, Source, number, self_attribute
from dropaudit.static.walk import descend

rule = Rule(
    "DRP304",
    "seed-fixed-in-forward",
    __doc__,
    triggers=(r"seed\w*\s*\(", r"seed\w*\s+as\b"),
    examples=(
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate, seed):
                    super().__init__()
                    self.seed = seed
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    torch.manual_seed(0)  # DRP304
                    x = F.dropout(x, 0.5, training=self.training)
                    return self.late(x + 1)

                def late(self, x):
                    if self.training:
                        torch.cuda.manual_seed_all(self.seed)  # DRP304
                    return self.drop(x)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate, seed):
                    super().__init__()
                    torch.manual_seed(0)
                    self.seed = seed
                    self.step = 0
                    self.generator = None
                    self.drop = nn.Dropout(rate)
                    self.fc = nn.Linear(4, 4)

                def forward(self, x, seed=None):
                    if self.generator is None:
                        self.generator = torch.Generator(x.device)
                        self.generator.manual_seed(0)
                    self.step += 1
                    torch.manual_seed(self.seed + self.step)
                    if seed is not None:
                        torch.manual_seed(seed)
                    with torch.random.fork_rng():
                        torch.manual_seed(0)
                        x = F.dropout(x, 0.5, training=self.training)
                    return self.drop(x + 1)

                def reset(self):
                    torch.manual_seed(0)
                    return self.drop(self.fc.weight)

            class Plain(nn.Module):
                def forward(self, x):
                    torch.manual_seed(0)
                    return x + 1

            class Latents(nn.Module):
                def __init__(self, seed):
                    super().__init__()
                    self.seed = seed
                    self.rng = torch.Generator()

                def forward(self, x):
                    self.rng.manual_seed(self.seed)
                    return x[torch.randperm(len(x), generator=self.rng)]

            def main(x):
                torch.manual_seed(0)
                return Net(0.5, 1)(x)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class Repeatable(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    torch.manual_seed(0)  # DRP304
                    return self.drop(self.fc(x))

            model, batch = Repeatable(), torch.randn(64, 16)
            """,
            live=("DRP304",),
        ),
    ),
)

_FUNCTIONS = frozenset(
    [
        "torch.manual_seed",
        "torch.random.manual_seed",
        "torch.cuda.manual_seed",
        "torch.cuda.manual_seed_all",
        "random.seed",
        "numpy.random.seed",
        "transformers.set_seed",
        "accelerate.utils.set_seed",
        "lightning.seed_everything",
        "pytorch_lightning.seed_everything",
    ]
)
_KEEPS_STATE = frozenset(["fork_rng", "get_rng_state", "set_rng_state", "getstate", "get_state"])


@rule.in_source(cst.Call)
def same_seed_every_time(call: cst.Call, source: Source) -> Iterator[Report]:
    """A seed that never varies, on the way of forward, and a draw in the same method."""
    if len(call.args) != 1 or not _seeds(source, call):
        return
    method = source.method_of(call)
    facts = source.class_of(call)
    if method is None or facts is None or not facts.is_module or in_test(source, call):
        return
    if not _runs_in_forward(facts, method) or _keeps_state(method) or _is_conditional(source, call):
        return
    seed = call.args[0].value
    if not _is_fixed(source, facts, seed):
        return
    owner = call.func.value if isinstance(call.func, cst.Attribute) else None
    if self_attribute(owner) and number(seed) is None:
        return  # a generator of its own, at a seed that was asked for, is there to repeat itself
    if any(True for _ in draws(source, method.body)):
        yield Report(
            call,
            f"`{source.text(call)}` runs in every forward: each step draws the same numbers, and "
            f"dropout zeroes the same units every time",
        )


def _seeds(source: Source, call: cst.Call) -> bool:
    if source.name_of(call.func) in _FUNCTIONS:
        return True
    return (
        isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "manual_seed"
        and bool(self_attribute(call.func.value))
    )


def _runs_in_forward(facts: ClassFacts, method: cst.FunctionDef) -> bool:
    """Whether `method` is forward or is called, directly or by one helper, from it."""
    reached, queue = {"forward"}, ["forward"]
    while queue:
        body = facts.method(queue.pop())
        if body is None:
            continue
        for node in descend(body.body):
            name = self_attribute(node.func) if isinstance(node, cst.Call) else ""
            if name and name not in reached:
                reached.add(name)
                queue.append(name)
    return method.name.value in reached and method.name.value != "__init__"


def _keeps_state(method: cst.FunctionDef) -> bool:
    return any(
        isinstance(node, cst.Attribute) and node.attr.value in _KEEPS_STATE
        for node in descend(method.body)
    )


def _is_conditional(source: Source, call: cst.Call) -> bool:
    """Whether a condition other than `self.training` decides about the seed."""
    child: cst.CSTNode = call
    for around in source.ancestors(call):
        if isinstance(around, (cst.FunctionDef, cst.Lambda)):
            return False
        if isinstance(around, cst.If) and (
            child is around.orelse or source.text(around.test) != "self.training"
        ):
            return True
        if isinstance(around, (cst.Else, cst.IfExp, cst.BooleanOperation, cst.Match)):
            return True
        child = around
    return False


def _is_fixed(source: Source, facts: ClassFacts, seed: cst.BaseExpression) -> bool:
    if constant(source, seed) is not None:
        return True
    name = self_attribute(seed)
    if not name:
        return False
    assigned = [a for f in facts.lineage for a in f.assigned if a.name == name]
    if not assigned or any(a.method.name.value != "__init__" for a in assigned):
        return False
    for node in source.attributes_by_name.get(name, []):
        parent = source.parents.get(node)
        if isinstance(parent, cst.AugAssign) and parent.target is node:
            return False
        if isinstance(parent, cst.AssignTarget) and not self_attribute(node):
            return False
    return all(
        number(origin) is not None or isinstance(origin, cst.Name)
        for one in assigned
        for origin in origins(source, one.value)
    )


@rule.in_trace
def same_mask_from_one_seed(trace: Trace) -> Iterator[Observation]:
    """Masks that came back because the random state did, inside the model."""
    for site in evidence(trace):
        fresh = site.site.freshness
        if repeat_code(site) == "DRP304":
            yield site.observe(
                f"{site.name} drew the same mask in {fresh.repeats:,} of {fresh.compared:,} pairs "
                f"of steps that were compared, first in step {fresh.first_step}, since the random "
                f"numbers are seeded inside the model",
                repeats=fresh.repeats,
                compared=fresh.compared,
                draws=fresh.joint,
                log_chance=log_chance(fresh.repeats, fresh.compared, fresh.joint, site),
            )
