"""A hand-written dropout mask that is never divided by the keep probability.

## What it does
Finds random masks that are multiplied with activations in code that is dropout (a method of a
Module, or a function or class that calls itself dropout), where no path scales the result by one
over the probability of being kept.

## Why is this bad
With the mask alone the expected activation in training is the keep probability times the
activation in evaluation: the network is trained on values that are too small, and every layer
behind the dropout sees other inputs when it is evaluated. Nothing fails; accuracy is lost.

## Example
```python
def naive_dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask
```

## Use instead
Divide by the keep probability during training, or call `F.dropout(x, p, training=...)`.

```python
def naive_dropout(x, p):
    mask = torch.rand_like(x) > p
    return x * mask / (1 - p)
```

## Fix safety
The fix divides by the keep probability where an expression for it is in reach. It changes what the
network computes in training, so it is unsafe.

## Not seen
Masks that are drawn in one function and applied in another, or scaled by a value that is computed
from the mask; classic dropout, which multiplies by the keep probability in evaluation, is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.maskevidence import (
    DropoutUse,
    calls_without_scale,
    dropout_uses,
    in_test,
    keeps_with_drop_rate,
    scaled_elsewhere,
    verdict,
)
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP101",
    "unscaled-mask",
    __doc__,
    triggers=(
        r"\A(?=[\s\S]*?(?:[Dd]rop|[Kk]eep|[Ss]urviv|[Ss]tochastic|def forward))"
        r"(?=[\s\S]*?(?:[Bb]ernoulli|[Bb]inomial|\brand(?:om|_like)?\(|uniform_?\(|rand_like))",
    ),
    examples=(
        Example(
            """
            import torch

            def naive_dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask  # DRP101
            """,
            fixed="""
            import torch

            def naive_dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / (1 - p)
            """,
        ),
        Example(
            """
            import torch

            def dropout(x, p):
                mask = torch.rand_like(x) > p
                return x * mask / (1 - p)
            """
        ),
    ),
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report products with a mask that stay unscaled on every path."""
    for found in dropout_uses(source):
        if found.use.spared or verdict(found.use.coins) != "unscaled":
            continue
        if in_test(source, found.use.node):
            continue
        for call in calls_without_scale(source, found):
            yield Report(call, _DEAD)
        if scaled_elsewhere(source, found):
            continue
        if keeps_with_drop_rate(source, found):
            continue
        yield Report(
            found.use.node,
            _message(found),
            _changes(found, source),
            title="Divide by the keep probability",
        )


_DEAD = (
    "the dropout called here scales in its evaluation branch, which this guard never lets run: "
    "activations are larger in evaluation than in training"
)


def _message(found: DropoutUse) -> str:
    known = found.use.keep_known
    if known is not None:
        size = f"{round(100 * (1 - known), 1):g} % smaller in training than in eval"
        when = " at the default rate" if re.search("[a-zA-Z_]", found.use.keep_text) else ""
        return f"the mask is never divided by the keep probability: activations are {size}{when}"
    keep = found.use.keep_text.strip("()") or "the keep probability"
    return (
        f"the mask is never divided by the keep probability: activations in training are "
        f"`{keep}` times those in eval on average"
    )


def _changes(found: DropoutUse, source: Source) -> tuple[Change, ...]:
    """Divide by the keep probability, where it has a name and the product can be divided."""
    node, keep = found.use.node, found.use.keep_text
    if not keep:
        return ()
    match node:
        case cst.BinaryOperation():
            text = source.text(node.with_changes(lpar=(), rpar=()))
            return (Change(node, "replace", f"{text} / {keep}"),)
        case cst.AugAssign(value=value):
            text = source.text(value)
            if not isinstance(value, (cst.Name, cst.Attribute, cst.Call)) and not value.lpar:
                text = f"({text})"
            return (Change(value, "replace", f"{text} / {keep}"),)
        case cst.Call(func=cst.Attribute(attr=cst.Name(value="mul_" | "masked_fill_"))):
            divisor = keep[1:-1] if keep.startswith("(") else keep
            return (Change(node, "after", f".div_({divisor})"),)
        case cst.Call():
            parent = source.parents[node]
            plain = (cst.Return, cst.Assign, cst.Arg, cst.AnnAssign, cst.Element)
            if isinstance(parent, plain) or (
                isinstance(parent, cst.BinaryOperation)
                and isinstance(parent.operator, (cst.Add, cst.Subtract))
            ):
                return (Change(node, "after", f" / {keep}"),)
    return ()
