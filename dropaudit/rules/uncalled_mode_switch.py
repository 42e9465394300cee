"""
`model.eval` or `model.train` without the parentheses that call it.

## What it does

Reports a statement that consists of `.eval` or `.train` on some object and nothing else: the
method is looked up and thrown away, so the mode does not change.

## Why is this bad

Nothing fails. A script that means to evaluate goes on with dropout active and with batch
normalization updating its statistics, and reports worse, random figures.

## Example

```python
model.eval
with torch.no_grad():
    accuracy = evaluate(model, loader)
```

## Use instead

Call the method: `model.eval()`.

```python
model.eval()
with torch.no_grad():
    accuracy = evaluate(model, loader)
```

## Fix safety

The fix adds the parentheses. It is unsafe because the mode then changes, which is its purpose.

## Not seen

A switch looked up through `getattr`. The last expression of a notebook cell is left alone unless
what stands before the dot is known to be a module: a cell shows its value.

## References

- [torch.nn.Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.eval)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.modules import is_known_module
from dropaudit.static.names import dotted_text
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP206",
    "uncalled-mode-switch",
    __doc__,
    triggers=(r"\.\s*(?:eval|train)\s*(?:$|[#;])",),
    examples=(
        Example(
            """
            import torch

            def evaluate(model, loader):
                model.eval  # DRP206
                with torch.no_grad():
                    scores = [model(x) for x in loader]
                model.train  # DRP206
                return scores
            """,
            fixed="""
            import torch

            def evaluate(model, loader):
                model.eval()
                with torch.no_grad():
                    scores = [model(x) for x in loader]
                model.train()
                return scores
            """,
        ),
        Example(
            """
            def run(model, dataset, frame, trainer):
                model.eval()
                switch = model.train
                switch()
                dataset.train
                frame.eval("a = b")
                trainer.train(model.eval())
                return model.train
            """,
        ),
    ),
)

_DATA = re.compile(
    r"(data\w*|\w*dataset\w*|\w*split\w*|ds|df|task|config|cfg|args|opts?|hparams)_?$"
)


@rule.in_source(cst.Expr)
def looked_up_and_thrown_away(statement: cst.Expr, source: Source) -> Iterator[Report]:
    """An expression statement that is an attribute called `eval` or `train`."""
    value = statement.value
    if not isinstance(value, cst.Attribute) or value.attr.value not in ("eval", "train"):
        return
    owner = source.text(value.value)
    if not is_known_module(source, value.value):
        if source.ends_a_cell(statement):
            return
        if _DATA.match(dotted_text(value.value).rpartition(".")[2].lower()):
            return
    called = f"{owner}.{value.attr.value}"
    yield Report(
        value,
        f"`{called}` is not called, so the mode does not change; write `{called}()`",
        (Change(value, "after", "()"),),
        title="Call the method",
    )
