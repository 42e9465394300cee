"""A dropout mask that is not drawn from what the probability is compared with.

## What it does
Finds normal noise (`torch.randn`) compared with a probability, and masks that are inferred from
where the output of a dropout is zero.

## Why is this bad
`torch.randn(n) < p` is true with the probability that a normal number is below `p`: 0.58 for
p = 0.2, and 0.5 for p = 0. The rate that is asked for is never the rate that is applied. A mask
taken from `out != 0` also counts every zero that was there before: after a ReLU, half of them.

## Example
```python
mask = torch.randn(x.shape) < p
```

## Use instead
Draw uniform numbers with `torch.rand`, and keep the mask itself for the backward pass.

```python
mask = torch.rand(x.shape) < p
```

## Fix safety
Replacing `randn` by `rand` changes what is drawn, on purpose, so the fix is unsafe.

## Not seen
Noise that is drawn in a function of another file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.maskevidence import calls_itself_dropout, in_test
from dropaudit.static.source import Change, Report, Source, number
from dropaudit.static.walk import descend

rule = Rule(
    "DRP105",
    "non-uniform-mask-source",
    __doc__,
    triggers=(r"randn\w*\s*\(", r"normal_\s*\(", r"dropout\s*\(", r"class \w*[Dd]rop\w*\s*\("),
    examples=(
        Example(
            """
            import torch

            def hide_features(x, p, training=True):
                if not training:
                    return x
                mask = torch.randn_like(x) >= p  # DRP105
                return x.masked_fill(~mask, 0)
            """,
            fixed="""
            import torch

            def hide_features(x, p, training=True):
                if not training:
                    return x
                mask = torch.rand_like(x) >= p
                return x.masked_fill(~mask, 0)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn.functional as F

            class Dropout(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x, p):
                    out = F.dropout(x, p, True)
                    mask = out != 0  # DRP105
                    ctx.save_for_backward(mask)
                    ctx.p = p
                    return out

                @staticmethod
                def backward(ctx, grad):
                    (mask,) = ctx.saved_tensors
                    return grad * mask / (1 - ctx.p), None
            """
        ),
        Example(
            """
            import torch

            x = torch.randn(3, 4)
            positive = x > 0
            outliers = torch.randn(10) > 2.5
            threshold = 0.5
            chosen = torch.randn(10) < threshold
            """
        ),
    ),
)

_PROBABILITY = re.compile(
    r"^(1(\.0*)? *- *)?([\w.]*[._])?(p|\w*prob(s|a|ability)?|\w*drop(out)?\w*|\w*keep\w*|\w*ratio"
    r"|(mask|sampl|surviv|retain)\w*_rate|rate)$",
    re.IGNORECASE,
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report comparisons of normal draws with a probability, and masks read off an output."""
    for masks in source.masks.functions:
        for node, against in masks.normals:
            literal = number(against)
            rate = bool(_PROBABILITY.match(source.text(against))) or (
                literal is not None
                and 0 < literal < 1
                and calls_itself_dropout(source, masks.function)
            )
            if rate and not in_test(source, node):
                yield Report(
                    node,
                    "normal noise is compared with a probability: the rate that is applied is not "
                    "the one that is asked for",
                    _changes(node, source),
                    title="Draw uniform numbers",
                )
        if not in_test(source, masks.function):
            for node in masks.inferred:
                yield Report(node, _INFERRED)


@rule.in_source(cst.FunctionDef)
def check_backward(function: cst.FunctionDef, source: Source) -> Iterator[Report]:
    """Report `out != 0` as the mask in the backward of a dropout Function."""
    facts = source.class_of(function)
    if function.name.value != "backward" or facts is None or not facts.is_function:
        return
    if not re.search(r"drop", facts.name, re.IGNORECASE) or in_test(source, function):
        return
    for node in descend(function.body):
        match node:
            case cst.Comparison(
                left=cst.Name(value=left),
                comparisons=[cst.ComparisonTarget(cst.NotEqual() | cst.Equal(), zero)],
            ) if number(zero) == 0 and re.match(r"(out(put)?s?|y|res(ult)?|dropped)$", left):
                yield Report(node, _INFERRED)


_INFERRED = (
    "the mask is inferred from where the output is zero: values that were zero before count as "
    "dropped"
)


def _changes(node: cst.CSTNode, source: Source) -> tuple[Change, ...]:
    for inner in descend(node):
        if isinstance(inner, cst.Call):
            match inner.func:
                case cst.Attribute(value=cst.Name(value="torch"), attr=name):
                    if name.value in ("randn", "randn_like"):
                        return (Change(name, "replace", name.value.replace("randn", "rand")),)
    return ()
