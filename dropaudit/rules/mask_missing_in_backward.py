"""
A `torch.autograd.Function` that drops in forward and not in backward.

## What it does

Reports `backward` of an autograd Function whose `forward` multiplies by a random mask, where
backward reads nothing that forward saved and hands the gradient on as it came.

## Why is this bad

The gradient has to be zeroed, and scaled, exactly as the activation was. Otherwise units that took
no part in the prediction are trained by it, and nothing is raised.

## Example

```python
@staticmethod
def forward(ctx, x, p):
    mask = (torch.rand_like(x) > p).float()
    return x * mask / (1 - p)

@staticmethod
def backward(ctx, grad):
    return grad, None
```

## Use instead

Save the mask with its scale in forward and multiply the gradient by it.

```python
    mask, = ctx.saved_tensors
    return grad * mask, None
```

## Fix safety

There is no fix: what forward must save depends on the code.

## Not seen

Straight-through estimators pass the gradient on purpose: a class that is called so, or says so, is
not reported. Masks drawn by helpers of other files are not seen.

## References

- [Extending torch.autograd](https://docs.pytorch.org/docs/stable/notes/extending.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.gradients import backward_code, backward_counts, backward_figures, left_out
from dropaudit.runtime.trace import Trace
from dropaudit.static.functions import functions, is_bare_product
from dropaudit.static.maskverdicts import verdict
from dropaudit.static.source import Report, Source
from dropaudit.static.walk import descend

rule = Rule(
    "DRP302",
    "mask-missing-in-backward",
    __doc__,
    triggers=(r"\bdef backward\b",),
    examples=(
        Example(
            """
            import torch

            class Drop(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
                    return x * mask

                @staticmethod
                def backward(ctx, grad):  # DRP302
                    return grad, None

            def drop(x, p):
                mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
                return x * mask

            class Helped(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    return drop(x, p)

                @staticmethod
                def backward(ctx, grad):  # DRP302
                    return grad, None
            """,
        ),
        Example(
            """
            import torch

            class Dropped(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = torch.rand_like(x) > p
                    ctx.save_for_backward(mask)
                    return x * mask / (1 - p)

                @staticmethod
                def backward(ctx, grad):
                    (mask,) = ctx.saved_tensors
                    return grad * mask, None  # DRP302

            class Scaled(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = torch.rand_like(x) > p
                    ctx.save_for_backward(mask)
                    ctx.p = p
                    return x * mask / (1 - p)

                @staticmethod
                def backward(ctx, grad):
                    (mask,) = ctx.saved_tensors
                    return grad * mask / (1 - ctx.p), None

            class Saved(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
                    ctx.save_for_backward(mask)
                    return x * mask

                @staticmethod
                def backward(ctx, grad):
                    return grad * ctx.saved_tensors[0], None

            class Local(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = torch.rand_like(x) > p
                    ctx.mask = mask
                    ctx.scale = 1 / (1 - p)
                    return x * mask * ctx.scale

                @staticmethod
                def backward(ctx, grad):
                    dx = grad * ctx.mask
                    dx = dx * ctx.scale
                    return dx, None
            """,
        ),
        Example(
            """
            import torch
            from torch.autograd import Function

            class Saved(Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.mask = torch.empty_like(x).bernoulli_(1 - p) / (1 - p)
                    return x * ctx.mask

                @staticmethod
                def backward(ctx, grad):
                    return grad * ctx.mask, None

            class StraightThrough(Function):
                @staticmethod
                def forward(ctx, x, p):
                    return x * (torch.rand_like(x) > p).to(x.dtype) / (1 - p)

                @staticmethod
                def backward(ctx, grad):
                    return grad, None

            class Coin(Function):
                @staticmethod
                def forward(ctx, probability):
                    return torch.bernoulli(probability)

                @staticmethod
                def backward(ctx, grad):
                    return grad
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class CheapDropout(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    return x * (torch.rand_like(x) > p) / (1 - p)

                @staticmethod
                def backward(ctx, grad):  # DRP302
                    return grad, None

            class Cheap(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    x = self.fc(x)
                    return CheapDropout.apply(x, 0.2) if self.training else x

            model, batch = Cheap(), torch.randn(64, 16)
            """,
            live=("DRP302",),
        ),
    ),
)


@rule.in_source(cst.ClassDef)
def gradient_passes_unmasked(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Forward multiplies by a mask; backward reads nothing of the context and draws nothing."""
    function = functions(source, node)
    if function is None:
        return
    assert function.forward is not None and function.backward is not None
    drawn = [d for d in function.masks(function.forward) if function.multiplies_by(d)]
    if not drawn or function.draws(function.backward):
        return
    if set(function.context_reads()) - {"needs_input_grad"}:
        return
    gradients = function.gradient_names()
    stop = (cst.FunctionDef, cst.Lambda)
    returned = [n.value for n in descend(function.backward.body, stop) if isinstance(n, cst.Return)]
    if returned and all(_first_is(value, gradients) for value in returned):
        yield Report(
            function.backward,
            f"backward of `{function.facts.name}` passes the gradient on although forward "
            f"multiplies by a random mask: dropped units are trained all the same",
        )


@rule.in_source(cst.ClassDef)
def gradient_stays_unscaled(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Forward masks and scales; backward is the gradient times the bare mask that was saved."""
    function = functions(source, node)
    if function is None:
        return
    assert function.forward is not None and function.backward is not None
    uses = source.masks.read(function.forward).uses
    if not uses or any(use.spared or verdict(use.coins) != "right" for use in uses):
        return
    returned = [n for n in descend(function.backward.body) if isinstance(n, cst.Return)]
    if len(returned) != 1 or len(function.bare_masks()) != 1:
        return
    if is_bare_product(function, returned[0].value):
        yield Report(
            returned[0],
            f"backward of `{function.facts.name}` multiplies by the mask and leaves out the scale "
            "of forward: gradients are too small by the keep probability",
        )


def _first_is(value: cst.BaseExpression | None, names: set[str]) -> bool:
    """Whether the first gradient returned is one that came in, perhaps cloned."""
    if isinstance(value, cst.Tuple) and value.elements:
        value = value.elements[0].value
    match value:
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="clone" | "contiguous"))):
            value = inner
    return isinstance(value, cst.Name) and value.value in names


@rule.in_trace
def mask_or_scale_left_out(trace: Trace) -> Iterator[Observation]:
    """Gradients that pass everywhere, or with another factor than the activations."""
    for site in evidence(trace):
        if backward_code(site) == "DRP302":
            yield site.observe(
                f"the backward pass of {site.name} leaves out {left_out(site)} of its "
                f"forward pass: {backward_figures(site)}",
                **backward_counts(site),
            )
