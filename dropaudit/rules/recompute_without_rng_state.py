"""
A checkpoint that recomputes a dropout without the random state of the first run.

## What it does

Reports `torch.utils.checkpoint.checkpoint(..., preserve_rng_state=False)` and the same for
`checkpoint_sequential` and `checkpoint_wrapper`, where a dropout is visible inside what is
checkpointed, in whatever file of the program that is defined; also where the checkpoint is kept
under a name with `functools.partial`. A checkpoint that is written by hand, as a
`torch.autograd.Function` whose backward runs a function again, is reported where it keeps no random
state and some part of the program hands it a function with dropout.

An audit compares the masks of both runs, whatever keeps the random state or fails to: generators of
one's own, seeds from elsewhere, a function that draws more numbers in one run than in the other, a
selective policy that saves the result of a random function. It reports the share of elements that
differ and the random states from which the runs began.

## Why is this bad

Backward runs the function again to get its activations back. Without the random state the second
run draws another mask: the gradients belong to a network that never made the prediction. No error
is raised; training is noisier and worse.

## Example

```python
x = checkpoint(self.block, x, use_reentrant=False, preserve_rng_state=False)
```

## Use instead

Leave out `preserve_rng_state=False` wherever the function holds a dropout.

```python
x = checkpoint(self.block, x, use_reentrant=False)
```

## Fix safety

The fix sets `preserve_rng_state=True`. It is unsafe: gradients change, and each checkpoint costs
the time to save and restore the random state. There is no fix for Functions.

## Not seen

A flag that comes from a parameter, modules of libraries, and rates that may be zero: those of a
schedule, and parameters with a default of zero that nobody gives a rate.

## References

- [torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.gradients import backward_code, recompute_counts, recompute_figures
from dropaudit.runtime.trace import Trace
from dropaudit.static.holders import shows_dropout
from dropaudit.static.program.callers import Callers, argument
from dropaudit.static.program.code import Expression
from dropaudit.static.program.drops import Drops
from dropaudit.static.program.project import Project
from dropaudit.static.program.resolve import FunctionRef
from dropaudit.static.record import Claim
from dropaudit.static.reruns import rerun
from dropaudit.static.source import Change, Report, Source, is_name

rule = Rule(
    "DRP303",
    "recompute-without-rng-state",
    __doc__,
    triggers=(r"preserve_rng_state\s*=\s*False", r"\bdef backward\b"),
    requires=(r"preserve_rng_state|enable_grad",),
    examples=(
        Example(
            """
            from functools import partial

            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            def closed(module):
                def forward(*inputs):
                    return module(*inputs)

                return forward

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.blocks = nn.ModuleList([Block(dim, rate) for _ in range(4)])
                    self.head = Block(dim, rate)

                def forward(self, x):
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=False)  # DRP303

                    def run(y):
                        return self.head(y)

                    x = checkpoint(run, x, preserve_rng_state=False)  # DRP303
                    x = checkpoint(partial(self.run, 2), x, preserve_rng_state=False)  # DRP303
                    return checkpoint(closed(self.head), x, preserve_rng_state=False)  # DRP303

                def run(self, factor, x):
                    return factor * self.head(x)
            """,
            fixed="""
            from functools import partial

            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            def closed(module):
                def forward(*inputs):
                    return module(*inputs)

                return forward

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.blocks = nn.ModuleList([Block(dim, rate) for _ in range(4)])
                    self.head = Block(dim, rate)

                def forward(self, x):
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=True)

                    def run(y):
                        return self.head(y)

                    x = checkpoint(run, x, preserve_rng_state=True)
                    x = checkpoint(partial(self.run, 2), x, preserve_rng_state=True)
                    return checkpoint(closed(self.head), x, preserve_rng_state=True)

                def run(self, factor, x):
                    return factor * self.head(x)
            """,
        ),
        Example(
            """
            import torch
            from torch import nn

            class Again(torch.autograd.Function):
                @staticmethod
                def forward(ctx, run, length, *args):
                    ctx.run = run
                    ctx.inputs = list(args[:length])
                    ctx.weights = list(args[length:])
                    with torch.no_grad():
                        return ctx.run(*ctx.inputs)

                @staticmethod
                def backward(ctx, *grads):
                    inputs = [x.detach().requires_grad_() for x in ctx.inputs]
                    with torch.enable_grad():
                        outputs = ctx.run(*inputs)  # DRP303
                    found = torch.autograd.grad(outputs, inputs + ctx.weights, grads)
                    return (None, None, *found)

            def checkpoint(function, inputs, weights, flag):
                if flag:
                    return Again.apply(function, len(inputs), *inputs, *weights)
                return function(*inputs)

            class Block(nn.Module):
                def __init__(self, dim, rate, save_memory):
                    super().__init__()
                    self.save_memory = save_memory
                    self.layers = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(rate))

                def forward(self, x):
                    return checkpoint(self._forward, (x,), self.parameters(), self.save_memory)

                def _forward(self, x):
                    return x + self.layers(x)
            """,
        ),
        Example(
            """
            import torch
            from torch import nn

            class Again(torch.autograd.Function):
                @staticmethod
                def forward(ctx, run, x):
                    ctx.run = run
                    ctx.save_for_backward(x)
                    return run(x)

                @staticmethod
                def backward(ctx, grad):
                    x = ctx.saved_tensors[0].detach().requires_grad_()
                    with torch.enable_grad():
                        out = ctx.run(x)
                    torch.autograd.backward(out, grad)
                    return None, x.grad

            class AgainWithState(torch.autograd.Function):
                @staticmethod
                def forward(ctx, run, x):
                    ctx.run = run
                    ctx.state = torch.get_rng_state()
                    ctx.save_for_backward(x)
                    return run(x)

                @staticmethod
                def backward(ctx, grad):
                    x = ctx.saved_tensors[0].detach().requires_grad_()
                    with torch.random.fork_rng(), torch.enable_grad():
                        torch.set_rng_state(ctx.state)
                        out = ctx.run(x)
                    torch.autograd.backward(out, grad)
                    return None, x.grad

            class Block(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.plain = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
                    self.layers = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(rate))

                def forward(self, x):
                    return Again.apply(self.plain, AgainWithState.apply(self.layers, x))
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.utils.checkpoint as cp

            from other import Layer

            class Net(nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.plain = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())
                    self.still = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0))
                    self.block = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(rate))
                    self.other = Layer(dim)

                def forward(self, x, keep=True):
                    x = cp.checkpoint(self.plain, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.still, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.other, x, preserve_rng_state=False)
                    x = cp.checkpoint(self.block, x, preserve_rng_state=keep)
                    return cp.checkpoint(self.block, x, preserve_rng_state=True)
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from functools import partial
            from torch.utils.checkpoint import checkpoint

            from blocks import Base, Block, Plain, run

            class Net(Base):
                def __init__(self, rate):
                    super().__init__()
                    self.block = Block(rate)
                    self.blocks = nn.ModuleList(Block(rate) for _ in range(3))
                    self.plain, self.still = Plain(), Block(0.0)
                    self.again = partial(checkpoint, preserve_rng_state=False)  # DRP303
                    self.plain_again = partial(checkpoint, preserve_rng_state=False)

                def forward(self, x):
                    x = checkpoint(self.block, x, preserve_rng_state=False)  # DRP303
                    x = checkpoint(self.inherited, x, preserve_rng_state=False)  # DRP303
                    x = checkpoint(lambda y: run(self, y), x, preserve_rng_state=False)  # DRP303
                    x = checkpoint(partial(run, self), x, preserve_rng_state=False)  # DRP303
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=False)  # DRP303
                    x = checkpoint(self.plain, x, preserve_rng_state=False)
                    x = checkpoint(self.still, x, preserve_rng_state=False)
                    return self.plain_again(self.plain, self.again(self.block, x))
            """,
            fixed="""
            import torch.nn as nn
            from functools import partial
            from torch.utils.checkpoint import checkpoint

            from blocks import Base, Block, Plain, run

            class Net(Base):
                def __init__(self, rate):
                    super().__init__()
                    self.block = Block(rate)
                    self.blocks = nn.ModuleList(Block(rate) for _ in range(3))
                    self.plain, self.still = Plain(), Block(0.0)
                    self.again = partial(checkpoint, preserve_rng_state=True)
                    self.plain_again = partial(checkpoint, preserve_rng_state=False)

                def forward(self, x):
                    x = checkpoint(self.block, x, preserve_rng_state=True)
                    x = checkpoint(self.inherited, x, preserve_rng_state=True)
                    x = checkpoint(lambda y: run(self, y), x, preserve_rng_state=True)
                    x = checkpoint(partial(run, self), x, preserve_rng_state=True)
                    for block in self.blocks:
                        x = checkpoint(block, x, preserve_rng_state=True)
                    x = checkpoint(self.plain, x, preserve_rng_state=False)
                    x = checkpoint(self.still, x, preserve_rng_state=False)
                    return self.plain_again(self.plain, self.again(self.block, x))
            """,
            others={
                "blocks.py": """
                import torch.nn as nn
                import torch.nn.functional as F

                class Block(nn.Module):
                    def __init__(self, rate):
                        super().__init__()
                        self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(rate))

                    def forward(self, x):
                        return self.body(x)

                class Plain(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

                    def forward(self, x):
                        return self.body(x)

                class Base(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.held = Block(0.1)

                    def inherited(self, x):
                        return self.held(x)

                def run(module, x):
                    return F.dropout(x, 0.1, training=module.training)
                """
            },
        ),
        Example(
            """
            import torch

            def checkpoint(function, inputs, weights):
                return Again.apply(function, len(inputs), *inputs, *weights)

            class Again(torch.autograd.Function):
                @staticmethod
                def forward(ctx, run, length, *args):
                    ctx.run = run
                    ctx.inputs = list(args[:length])
                    ctx.weights = list(args[length:])
                    with torch.no_grad():
                        return ctx.run(*ctx.inputs)

                @staticmethod
                def backward(ctx, *grads):
                    inputs = [x.detach().requires_grad_() for x in ctx.inputs]
                    with torch.enable_grad():
                        outputs = ctx.run(*inputs)  # DRP303
                    found = torch.autograd.grad(outputs, inputs + ctx.weights, grads)
                    return (None, None, *found)
            """,
            others={
                "unet.py": """
                from torch import nn
                from example import checkpoint

                class Block(nn.Module):
                    def __init__(self, dim, rate):
                        super().__init__()
                        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(rate))

                    def forward(self, x):
                        return checkpoint(self._forward, (x,), self.parameters())

                    def _forward(self, x):
                        return x + self.layers(x)
                """
            },
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.fc(self.drop(self.fc(x)))

            class Checkpointed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = Inner()

                def forward(self, x):
                    return checkpoint(  # DRP303
                        self.inner, x, use_reentrant=False, preserve_rng_state=False
                    )

            model, batch = Checkpointed(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            from torch.utils.checkpoint import checkpoint

            class Inner(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 16)
                    self.drop = nn.Dropout(0.3)

                def forward(self, x):
                    return self.fc(self.drop(self.fc(x)))

            class Checkpointed(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.inner = Inner()

                def forward(self, x):
                    return checkpoint(
                        self.inner, x, use_reentrant=False, preserve_rng_state=True
                    )

            model, batch = Checkpointed(), torch.randn(64, 16)
            """,
            live=("DRP303",),
        ),
    ),
)

_WRAPPERS = "torch.distributed.algorithms._checkpoint.checkpoint_wrapper"
_CHECKPOINTS = {
    "torch.utils.checkpoint.checkpoint": "function",
    "torch.utils.checkpoint.checkpoint_sequential": "functions",
    f"{_WRAPPERS}.checkpoint_wrapper": "module",
}


_PARTIAL = ("functools.partial", "partial")
_AGAIN = (
    "backward runs this again with another dropout mask, because the random state is not "
    "kept: the gradients do not belong to the prediction"
)


@rule.in_source(cst.Call)
def state_not_kept(call: cst.Call, source: Source) -> Iterator[Report]:
    """The flag is the literal False, and a dropout is visible inside."""
    bound = source.name_of(call.func) in _PARTIAL and bool(call.args)
    checkpoint = call.args[0].value if bound else call.func
    parameter = _CHECKPOINTS.get(source.name_of(checkpoint))
    flag = source.argument(call, "preserve_rng_state")
    if parameter is None or flag is None or not is_name(flag.value, "False"):
        return
    callee = source.argument(call, parameter, int(bound))
    shown = callee is not None and shows_dropout(source, callee.value)
    about = () if shown else ("kept",) if callee is None else ("run", parameter, str(int(bound)))
    change = Change(flag.value, "replace", "True")
    yield Report(call, _AGAIN, (change,), title="Keep the random state", about=about)


@rule.in_source(cst.ClassDef)
def state_not_kept_by_hand(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Backward runs again what forward ran, no state is kept, and what it runs drops."""
    run = rerun(source, node)
    if run is None:
        return
    shown = next((one for one in run.given if shows_dropout(source, one)), None)
    text = "" if shown is None else " ".join(source.text(shown).split())
    text = f"`{text}`" if 0 < len(text) < 50 else "a function with dropout"
    about = () if shown is not None else ("apply", node.name.value, str(run.position))
    yield Report(
        run.call,
        f"backward runs {text} again with another dropout mask, because "
        f"`{node.name.value}` keeps no random state: the gradients do not belong to the "
        "prediction",
        about=about,
    )


@rule.in_project
def state_not_kept_of_others(project: Project) -> Iterator[Finding]:
    """As the checks of one file, where what is run again is defined or passed in another."""
    claims = project.claims(rule.code)
    drops = Drops(project.resolver) if claims else None
    for claim in claims:
        assert drops is not None
        finding = claim.finding
        for ref, callee in _run_again(drops.callers, claim):
            site = drops.calling(callee, ref)
            if site is not None:
                yield finding
                break


def _run_again(callers: Callers, claim: Claim) -> Iterator[tuple[FunctionRef, Expression]]:
    """What a checkpoint runs again, with the function in which it is written."""
    how, *rest = claim.about
    if how == "apply":
        yield from callers.applied(claim.finding.where.path, rest[0], int(rest[1]))
        return
    found = callers.at(claim.finding.where)
    if found is None:
        return
    ref, call = found
    name, position = ("", 0) if how == "kept" else (rest[0], int(rest[1]))
    for caller, each in callers.of_kept(ref, call) if how == "kept" else [found]:
        value = argument(each, name or "function", position)
        if value is not None:
            yield caller, value


@rule.in_trace
def recomputed_with_another_mask(trace: Trace) -> Iterator[Observation]:
    """Gradients of a recomputed forward pass that drew other random numbers."""
    for site in evidence(trace):
        if backward_code(site) == "DRP303":
            yield site.observe(
                f"the forward pass that was recomputed for the gradient drew another mask "
                f"in {site.name}: {recompute_figures(site)}",
                **recompute_counts(site),
            )
