"""
A `torch.autograd.Function` whose backward draws a new mask.

## What it does

Reports the draw in `backward` of an autograd Function whose `forward` draws a mask too, where no
seed, random state or generator is handed from one to the other.

## Why is this bad

The gradient has to pass where the activation passed. With a second mask it is zeroed for units
that took part and flows through units that did not: the gradients are wrong, and nothing is raised.

## Example

```python
@staticmethod
def backward(ctx, grad):
    mask = (torch.rand_like(grad) > ctx.p).float()
    return grad * mask / (1 - ctx.p), None
```

## Use instead

Save the mask in forward and use it in backward.

```python
    mask, = ctx.saved_tensors
    return grad * mask / (1 - ctx.p), None
```

## Fix safety

There is no fix: what forward must save depends on the code.

## Not seen

Masks drawn by helpers of other files. Shake-drop and its kin draw anew on purpose; a class that is
called so, or says so, is not reported.

## References

- [Extending torch.autograd](https://docs.pytorch.org/docs/stable/notes/extending.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.gradients import backward_code, backward_counts, backward_figures
from dropaudit.runtime.trace import Trace
from dropaudit.static.functions import functions
from dropaudit.static.source import Report, Source

rule = Rule(
    "DRP301",
    "mask-resampled-in-backward",
    __doc__,
    triggers=(r"\bdef backward\b",),
    examples=(
        Example(
            """
            import torch

            class FastDropout(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.p = p
                    mask = (torch.rand_like(x) > p).to(x.dtype)
                    return x * mask / (1 - p)

                @staticmethod
                def backward(ctx, grad):
                    mask = (torch.rand_like(grad) > ctx.p).to(grad.dtype)  # DRP301
                    return grad * mask / (1 - ctx.p), None

            def keep(x, p):
                return (torch.rand_like(x) > p).to(x.dtype) / (1 - p)

            class Helped(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.p = p
                    return x * keep(x, p)

                @staticmethod
                def backward(ctx, grad):
                    return grad * keep(grad, ctx.p), None  # DRP301

            class ByMethod(torch.autograd.Function):
                @staticmethod
                def drop(x, p):
                    mask = torch.empty_like(x).bernoulli_(1 - p)
                    return x * mask / (1 - p)

                @staticmethod
                def forward(ctx, x, p):
                    ctx.p = p
                    return ByMethod.drop(x, p)

                @staticmethod
                def backward(ctx, grad):
                    return ByMethod.drop(grad, ctx.p), None  # DRP301
            """,
        ),
        Example(
            """
            import torch
            from torch.autograd import Function

            class Saved(Function):
                @staticmethod
                def forward(ctx, x, p):
                    mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
                    ctx.save_for_backward(mask)
                    return x * mask

                @staticmethod
                def backward(ctx, grad):
                    (mask,) = ctx.saved_tensors
                    return grad * mask, None

            class Replayed(Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.p = p
                    ctx.seed = torch.seed()
                    mask = (torch.rand_like(x) > p).to(x.dtype) / (1 - p)
                    return x * mask

                @staticmethod
                def backward(ctx, grad):
                    torch.manual_seed(ctx.seed)
                    mask = (torch.rand_like(grad) > ctx.p).to(grad.dtype) / (1 - ctx.p)
                    return grad * mask, None

            class ShakeDrop(Function):
                @staticmethod
                def forward(ctx, x, p):
                    gate = torch.empty(1).bernoulli_(p)
                    ctx.save_for_backward(gate)
                    return x * gate

                @staticmethod
                def backward(ctx, grad):
                    (gate,) = ctx.saved_tensors
                    beta = torch.empty(1).bernoulli_(0.5)
                    return grad * (gate + beta - gate * beta), None

            def keep(x, p):
                return (torch.rand_like(x) > p).to(x.dtype) / (1 - p)

            def masked(x, mask):
                return x * mask

            class SavedByHelpers(Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.mask = keep(x, p)
                    return masked(x, ctx.mask)

                @staticmethod
                def backward(ctx, grad):
                    return masked(grad, ctx.mask), None

            class NoisyGradient(Function):
                @staticmethod
                def forward(ctx, x):
                    return x

                @staticmethod
                def backward(ctx, grad):
                    return grad * torch.rand_like(grad)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class FusedDropout(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    ctx.p = p
                    return x * (torch.rand_like(x) > p) / (1 - p)

                @staticmethod
                def backward(ctx, grad):
                    return grad * (torch.rand_like(grad) > ctx.p) / (1 - ctx.p), None  # DRP301

            class Fused(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)

                def forward(self, x):
                    x = self.fc(x)
                    return FusedDropout.apply(x, 0.2) if self.training else x

            model, batch = Fused(), torch.randn(64, 16)
            """,
            live=("DRP301",),
        ),
    ),
)


@rule.in_source(cst.ClassDef)
def backward_draws_again(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Both halves draw a mask, and no state goes from one to the other."""
    function = functions(source, node)
    if function is None or function.replays:
        return
    assert function.forward is not None and function.backward is not None
    if not any(function.multiplies_by(d) for d in function.masks(function.forward)):
        return
    for draw in function.masks(function.backward):
        yield Report(
            draw,
            f"backward of `{function.facts.name}` draws a mask of its own: gradients pass where "
            f"forward dropped, and are zeroed where it did not",
        )


@rule.in_trace
def other_mask_in_backward(trace: Trace) -> Iterator[Observation]:
    """Gradients that pass where the forward pass dropped, and stop where it kept."""
    for site in evidence(trace):
        if backward_code(site) == "DRP301":
            yield site.observe(
                f"the backward pass of {site.name} used another mask than its "
                f"forward pass: {backward_figures(site)}",
                **backward_counts(site),
            )
