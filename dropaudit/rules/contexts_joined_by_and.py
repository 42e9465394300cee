"""
Two context managers joined by `and` in one `with`.

## What it does

Reports `with a() and b():` where both sides are calls of known context managers, such as
`torch.no_grad()` and `torch.autocast(...)`.

## Why is this bad

`and` gives back its right side when the left one is true, as a context manager is. The left one is
built and never entered: gradients are recorded, or autocast stays off, or the random state is not
kept, and nothing says so. With `or` the right one is lost.

## Example

```python
with torch.no_grad() and torch.autocast("cuda"):
    scores = model(batch)
```

## Use instead

Separate the context managers by a comma.

```python
with torch.no_grad(), torch.autocast("cuda"):
    scores = model(batch)
```

## Fix safety

The fix puts a comma in place of `and`. It is unsafe: from then on both contexts act.

## Not seen

Context managers of your own whose names do not tell what they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP407",
    "contexts-joined-by-and",
    __doc__,
    triggers=(r"^[ \t]*(async[ \t]+)?with\b[^#]{0,300}?\)[\s\\]*(and|or)\b",),
    examples=(
        Example(
            """
            import torch
            from torch.cuda.amp import autocast

            def evaluate(model, batch):
                model.eval()
                with torch.no_grad() and autocast():  # DRP407
                    return model(batch)

            @torch.no_grad()
            def predict(model, batch):
                model.eval()
                with torch.inference_mode() and torch.autocast("cuda") as context:  # DRP407
                    return model(batch)
            """,
            fixed="""
            import torch
            from torch.cuda.amp import autocast

            def evaluate(model, batch):
                model.eval()
                with torch.no_grad(), autocast():
                    return model(batch)

            @torch.no_grad()
            def predict(model, batch):
                model.eval()
                with torch.inference_mode(), torch.autocast("cuda") as context:
                    return model(batch)
            """,
        ),
        Example(
            """
            from contextlib import nullcontext

            import torch

            def evaluate(model, batch, half, context=None):
                model.eval()
                with half and torch.autocast("cuda") or nullcontext():
                    first = model(batch)
                with context or torch.no_grad():
                    second = model(batch)
                with torch.no_grad(), torch.autocast("cuda", enabled=half and True):
                    third = model(batch)
                with torch.cuda.is_available() and torch.autocast("cuda") or nullcontext():
                    return first, second, third, model(batch)
            """,
        ),
    ),
)

_CONTEXT = re.compile(
    r"(^|\.)_?(no_grad|enable_grad|inference_mode|set_grad_enabled|\w*autocast|nullcontext|no_sync"
    r"|fork_rng|device|stream|profile|record_function|detect_anomaly|suppress|catch_warnings"
    r"|graph|evaluating|eval_mode|open|\w*ctx|\w*context|\w*_scope|sdp_kernel|sdpa_kernel"
    r"|TemporaryDirectory|ExitStack|saved_tensors_hooks|save_on_cpu|raises|warns)$"
)


@rule.in_source(cst.WithItem)
def only_the_last_is_entered(item: cst.WithItem, source: Source) -> Iterator[Report]:
    """Both sides are calls of context managers, so the left one is always true."""
    joined = item.item
    if not isinstance(joined, cst.BooleanOperation):
        return
    sides = _sides(joined, type(joined.operator))
    if not all(_is_context(source, side) for side in sides):
        return
    is_and = isinstance(joined.operator, cst.And)
    lost = sides[:-1] if is_and else sides[1:]
    names = ", ".join(f"`{source.text(side)}`" for side in lost)
    texts = [source.text(side) for side in sides]
    changes: tuple[Change, ...] = ()
    if is_and and not joined.lpar and not any(_comments(side) for side in sides):
        changes = (Change(joined, "replace", ", ".join(texts)),)
    word = "and" if is_and else "or"
    yield Report(
        joined,
        f"{names} is never entered: `{word}` picks one of the context managers",
        changes,
        title="Separate the context managers by a comma",
    )


def _sides(node: cst.BaseExpression, operator: type) -> list[cst.BaseExpression]:
    if isinstance(node, cst.BooleanOperation) and isinstance(node.operator, operator):
        return [*_sides(node.left, operator), *_sides(node.right, operator)]
    return [node]


def _is_context(source: Source, node: cst.BaseExpression) -> bool:
    if not isinstance(node, cst.Call):
        return False
    name = source.name_of(node.func)
    return bool(_CONTEXT.search(name or source.text(node.func)))


def _comments(node: cst.CSTNode) -> bool:
    return any(isinstance(n, cst.Comment) for n in _every(node))


def _every(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    stack = [node]
    while stack:
        one = stack.pop()
        yield one
        stack.extend(one.children)
