"""
An attention kernel that gets its dropout rate whatever the mode is.

## What it does

Reports calls of `F.scaled_dot_product_attention`, of the `flash_attn_*` functions and of
xformers' `memory_efficient_attention` in a module that pass a rate which does not depend on the
mode: an attribute of `self`, the `p` of a dropout module, or a number. Also calls, with such a
rate, of functions that hand it on to a kernel, in whatever file they are defined.

## Why is this bad

A kernel knows nothing of modules: it drops attention weights at whatever rate it is given. The
`p` of an `nn.Dropout` only looks mode-aware; it is a number that `eval()` does not change. The
model goes on dropping attention weights in validation and generation.

## Example

```python
y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)
```

## Use instead

Pass the rate in training and zero otherwise: `dropout_p=self.dropout if self.training else 0.0`.

```python
y = F.scaled_dot_product_attention(
    q, k, v, dropout_p=self.dropout if self.training else 0.0
)
```

## Fix safety

The fix adds the condition where `self` is a module. It is unsafe because it changes what the
model computes in evaluation, which is its purpose.

## Not seen

A rate that is a parameter of the function around the call, where its callers are not at hand;
kernels that are chosen by name at run time.

## References

- [scaled_dot_product_attention](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html),
  which says that dropout is applied according to `dropout_p` alone
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.modes import eval_counts, eval_figures, mode_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.constants import origins
from dropaudit.static.flags import is_mode
from dropaudit.static.functional import attention_kernel, builds_module, is_zero
from dropaudit.static.names import dotted_text
from dropaudit.static.outgoing import outgoing_call, rates
from dropaudit.static.program.answering import called
from dropaudit.static.program.project import Project
from dropaudit.static.program.wrappers import Wrappers
from dropaudit.static.rates import percent
from dropaudit.static.reach import only_without_rate, rate_passers, runs_in_eval, self_in_scope
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP202",
    "attention-dropout-ignoring-mode",
    __doc__,
    triggers=(
        *("scaled_dot_product_attention", "flash_attn_", "memory_efficient_attention"),
        "(?i:drop)",  # calls of what another file defines
    ),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F
            from flash_attn import flash_attn_func
            from xformers.ops import memory_efficient_attention

            class Attention(nn.Module):
                def __init__(self, dim, rate=0.1, fused=True):
                    super().__init__()
                    self.rate = rate
                    self.fused = fused
                    self.drop = nn.Dropout(rate)
                    self.kernel = F.scaled_dot_product_attention

                def forward(self, q, k, v, mask=None):
                    a = F.scaled_dot_product_attention(q, k, v, mask, self.rate)  # DRP202
                    b = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p)  # DRP202
                    c = flash_attn_func(q, k, v, self.rate if self.fused else 0.2)  # DRP202
                    d = memory_efficient_attention(q, k, v, p=0.1,)  # DRP202
                    e = self.kernel(q, k, v, dropout_p=self.rate)  # DRP202
                    rate = self.rate
                    f = self.kernel(q, k, v, dropout_p=rate)  # DRP202
                    options = {"dropout_p": self.rate}
                    g = F.scaled_dot_product_attention(q, k, v, **options)  # DRP202
                    return a, b, c, d, e, f, g
            """,
            fixed="""
            import torch.nn as nn
            import torch.nn.functional as F
            from flash_attn import flash_attn_func
            from xformers.ops import memory_efficient_attention

            class Attention(nn.Module):
                def __init__(self, dim, rate=0.1, fused=True):
                    super().__init__()
                    self.rate = rate
                    self.fused = fused
                    self.drop = nn.Dropout(rate)
                    self.kernel = F.scaled_dot_product_attention

                def forward(self, q, k, v, mask=None):
                    a = F.scaled_dot_product_attention(q, k, v, mask, self.rate if self.training else 0.0)
                    b = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop.p if self.training else 0.0)
                    c = flash_attn_func(q, k, v, (self.rate if self.fused else 0.2) if self.training else 0.0)
                    d = memory_efficient_attention(q, k, v, p=0.1 if self.training else 0.0,)
                    e = self.kernel(q, k, v, dropout_p=self.rate if self.training else 0.0)
                    rate = self.rate
                    f = self.kernel(q, k, v, dropout_p=rate if self.training else 0.0)
                    options = {"dropout_p": self.rate if self.training else 0.0}
                    g = F.scaled_dot_product_attention(q, k, v, **options)
                    return a, b, c, d, e, f, g
            """,  # noqa: E501 (what the fix gives)
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            def attend(q, k, v, rate=0.0):
                return F.scaled_dot_product_attention(q, k, v, dropout_p=rate)

            class Attention(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, q, k, v):
                    q = attend(q, k, v, self.rate if self.training else 0.0)
                    return attend(q, k, v, self.rate)  # DRP202
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from .kernels import attend, fused, manual, plain

            class Attention(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, q, k, v, mask=None):
                    a = attend(q, k, v, mask, self.rate)  # DRP202
                    b = fused(q, k, v, dropout=self.rate)  # DRP202
                    c = attend(q, k, v, dropout=self.rate if self.training else 0.0)
                    d = fused(q, k, v, self.rate, is_training=self.training)
                    e = attend(q, k, v, mask)
                    if self.training:
                        e = attend(q, k, v, mask, self.rate)
                    return a, b, c, d, e, manual(self, q, k, v, self.rate), plain(q, self.rate)
            """,
            fixed="""
            import torch.nn as nn
            from .kernels import attend, fused, manual, plain

            class Attention(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, q, k, v, mask=None):
                    a = attend(q, k, v, mask, self.rate if self.training else 0.0)
                    b = fused(q, k, v, dropout=self.rate if self.training else 0.0)
                    c = attend(q, k, v, dropout=self.rate if self.training else 0.0)
                    d = fused(q, k, v, self.rate, is_training=self.training)
                    e = attend(q, k, v, mask)
                    if self.training:
                        e = attend(q, k, v, mask, self.rate)
                    return a, b, c, d, e, manual(self, q, k, v, self.rate), plain(q, self.rate)
            """,
            others={
                "kernels.py": """
                import torch.nn.functional as F

                def attend(q, k, v, mask=None, dropout=0.0):
                    return F.scaled_dot_product_attention(q, k, v, mask, dropout)

                def fused(q, k, v, dropout, is_training=True):
                    if not is_training:
                        dropout = 0.0
                    return attend(q, k, v, dropout=dropout)

                def manual(module, q, k, v, dropout):
                    dropout = dropout if module.training else 0.0
                    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

                def plain(x, rate):
                    return x * rate
                """
            },
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Attention(nn.Module):
                def __init__(self, rate, drop):
                    super().__init__()
                    self.rate = rate
                    self.drop = nn.Dropout(drop)

                @property
                def active(self):
                    return self.rate if self.training else 0.0

                def forward(self, q, k, v, rate=0.0, mask=None):
                    p = 0.0 if not self.training else self.drop.p
                    q = F.scaled_dot_product_attention(q, k, v)
                    q = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
                    q = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
                    q = F.scaled_dot_product_attention(q, k, v, dropout_p=self.active)
                    q = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
                    q = F.scaled_dot_product_attention(q, k, v, dropout_p=self.training * self.rate)
                    q = F.scaled_dot_product_attention(q, k, v, mask, self.training and self.rate)
                    if self.training:
                        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate)
                    return q

            class Unless(nn.Module):
                def __init__(self, rate, can_fuse):
                    super().__init__()
                    self.rate = rate
                    self.fused = can_fuse and self.rate == 0.0

                def forward(self, q, k, v):
                    if self.fused:
                        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate)
                    return q

            class Fused(torch.autograd.Function):
                @staticmethod
                def forward(ctx, q, k, v, rate):
                    ctx.rate = rate
                    return F.scaled_dot_product_attention(q, k, v, dropout_p=ctx.rate)

                @staticmethod
                def backward(ctx, grad):
                    return grad, grad, grad, None

            def scaled_dot_product_attention(q, k, v, dropout_p):
                return q

            class Own(nn.Module):
                def forward(self, q, k, v):
                    return scaled_dot_product_attention(q, k, v, dropout_p=0.5)

            def test_rates():
                for rate in (0.0, 0.5):
                    F.scaled_dot_product_attention(1, 2, 3, dropout_p=rate)
                F.scaled_dot_product_attention(1, 2, 3, dropout_p=0.3)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            from torch.nn.functional import scaled_dot_product_attention as attend

            class SelfAttention(nn.Module):
                def __init__(self, dim=32, rate=0.1):
                    super().__init__()
                    self.rate = rate
                    self.qkv = nn.Linear(dim, 3 * dim)

                def forward(self, x):
                    q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
                    x = attend(q, k, v, dropout_p=self.rate)  # DRP202
                    return x.transpose(1, 2).flatten(2)

            model, batch = SelfAttention(), torch.randn(4, 12, 32)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            from torch.nn.functional import scaled_dot_product_attention as attend

            class SelfAttention(nn.Module):
                def __init__(self, dim=32, rate=0.1):
                    super().__init__()
                    self.rate = rate
                    self.qkv = nn.Linear(dim, 3 * dim)

                def forward(self, x):
                    q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
                    x = attend(q, k, v, dropout_p=self.rate if self.training else 0.0)
                    return x.transpose(1, 2).flatten(2)

            model, batch = SelfAttention(), torch.randn(4, 12, 32)
            """,
            live=("DRP202",),
        ),
    ),
)


@rule.in_source(cst.Call)
def kernel_without_mode(call: cst.Call, source: Source) -> Iterator[Report]:
    """A kernel in a module, with a rate that is no zero and hears nothing of the mode."""
    drop = attention_kernel(source, call)
    if drop is None or not _is_open(source, drop.rate, call):
        return
    if only_without_rate(source, call, drop.rate):
        return
    if runs_in_eval(source, call, drop.rate):
        sites: list[tuple[cst.Call, cst.BaseExpression | None]] = []
        sites.extend(rate_passers(source, call, drop.rate))
        for at, rate in sites or [(call, drop.rate)]:
            yield Report(
                at,
                _message(source, drop.name, rate, wrapped=at is not call),
                _changes(source, at, rate),
                title="Pass a rate of zero outside training",
            )


@rule.in_source(cst.Call)
def call_with_rate(call: cst.Call, source: Source) -> Iterator[Report]:
    """A call in code that runs in evaluation with a rate: does it end up in a kernel?"""
    about = outgoing_call(source, call)
    if not about:
        return
    for at, rate in rates(source, call):
        if not _is_open(source, rate, call) or only_without_rate(source, call, rate):
            continue
        if runs_in_eval(source, call, rate):
            here = "here" if source.definition(call.func) is not None else ""
            yield Report(
                call,
                _message(source, dotted_text(call.func), rate, wrapped=False),
                _changes(source, call, rate),
                title="Pass a rate of zero outside training",
                about=(at, here, *about),
            )


@rule.in_project
def wrapper_with_rate(project: Project) -> Iterator[Finding]:
    """Functions that hand a rate on to a kernel, and are given one that ignores the mode."""
    wrappers = Wrappers(project.resolver)
    for claim in project.claims(rule.code):
        at, here, *about = claim.about
        found = called(wrappers, claim.finding.where.path, about)
        if found is None:
            continue
        ref, passed = found
        drops = wrappers.drops(ref)
        if any(drop.flag is not None and drop.kind == "dropout" for drop in drops):
            continue  # its mode is what is missing
        for drop in drops:
            if drop.kind != "kernel" or (here and drop.flag is None and drop.place == ref):
                continue
            if drop.flag is not None and passed.given(drop.flag.name, drop.flag.position):
                continue
            position = drop.rate.position - passed.bound
            if drop.rate.name and at in (drop.rate.name, str(position)):
                yield claim.finding
                break


def _is_open(source: Source, rate: cst.BaseExpression | None, at: cst.Call) -> bool:
    if rate is None or is_zero(source, rate) or is_mode(source, rate):
        return False
    if builds_module(source, rate) or source.modes.guards(at) or source.modes.decides(rate):
        return False
    return not source.modes.on_purpose(at) and not source.modes.in_test(at)


def _message(source: Source, name: str, rate: cst.BaseExpression | None, *, wrapped: bool) -> str:
    share = percent(source, rate)
    effect = f": {share} of the attention weights are zeroed in every prediction" if share else ""
    text = "" if rate is None else " ".join(source.text(rate).split())
    note = ""
    if any(isinstance(o, cst.Attribute) and o.attr.value == "p" for o in origins(source, rate)):
        note = ", and the `p` of a module is a number that `eval()` leaves as it is"
    through = " that this reaches" if wrapped else ""
    gated = f"({text})" if isinstance(rate, cst.IfExp) else text
    return (
        f"`{name}`{through} keeps dropping after `eval()`{effect}{note}; "
        f"pass `{gated} if self.training else 0.0`"
    )


def _changes(source: Source, call: cst.Call, rate: cst.BaseExpression | None) -> tuple[Change, ...]:
    if rate is None or not self_in_scope(source, call) or not self_in_scope(source, rate):
        return ()
    if source.method_of(rate) is not source.method_of(call):
        return ()
    condition = " if self.training else 0.0"
    loose = isinstance(rate, (cst.IfExp, cst.Lambda, cst.NamedExpr)) and not rate.lpar
    if loose:
        return (Change(rate, "before", "("), Change(rate, "after", ")" + condition))
    return (Change(rate, "after", condition),)


@rule.in_trace
def attention_active_in_eval(trace: Trace) -> Iterator[Observation]:
    """Attention whose weights are dropped although the module around it is in eval mode."""
    for site in evidence(trace):
        if mode_code(site) == "DRP202":
            yield site.observe(
                f"{site.name} drops attention weights in eval mode: {eval_figures(site)}",
                **eval_counts(site),
            )
