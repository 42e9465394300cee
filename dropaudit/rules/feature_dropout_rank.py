"""
A channel dropout that is given a tensor of the wrong rank.

## What it does

Reports `nn.Dropout1d`, `nn.Dropout2d` and `nn.Dropout3d` right after a layer whose output has no
channels of that kind: `nn.Linear`, `nn.Flatten` or `nn.Embedding` in one `Sequential`, or a tensor
that was flattened to two dimensions in `forward`; and a 2d or 3d dropout after a convolution of
another dimension. `nn.Dropout2d` on the output of `nn.Conv1d` is what people wrote before
`nn.Dropout1d` existed, and works.

## Why is this bad

A channel dropout zeroes all that stands behind the first two dimensions. On a matrix of features
there is nothing behind, and torch warns, or (`Dropout1d`) takes it for one sample and zeroes whole
rows: the entire features of a sample.

## Example

```python
nn.Sequential(nn.Flatten(), nn.Linear(512, 128), nn.Dropout2d(0.5))
```

## Use instead

Use `nn.Dropout` after linear layers, or the channel dropout that fits the rank of the tensor.

```python
nn.Sequential(nn.Flatten(), nn.Linear(512, 128), nn.Dropout(0.5))
```

## Fix safety

There is no fix: channels may have been meant, and then the tensor must change.

## Not seen

Tensors whose rank the file does not show. `nn.Linear` works on any rank, so it only counts after
`nn.Flatten`, or where a flattened tensor comes in.

## References

- [torch.nn.Dropout2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout2d.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Severity
from dropaudit.static.applications import application
from dropaudit.static.constants import origins
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.flow import reaching
from dropaudit.static.sequences import runs_before
from dropaudit.static.source import Report, Source, is_name, number

rule = Rule(
    "DRP405",
    "feature-dropout-rank",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"[dD]ropout[123]d",),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.body = nn.Sequential(
                        nn.Conv2d(3, 8, 3),
                        nn.Flatten(),
                        nn.Linear(512, 64),
                        nn.ReLU(),
                        nn.Dropout2d(rate),  # DRP405
                    )
                    self.volume = nn.Sequential(nn.Conv3d(1, 8, 3), nn.Dropout2d(rate))  # DRP405
                    self.fc = nn.Linear(64, 64)
                    self.drop = nn.Dropout2d(rate)

                def forward(self, x):
                    x = self.body(x)
                    x = x.view(x.size(0), -1)
                    x = F.relu(self.fc(x))
                    x = self.drop(x)  # DRP405
                    return F.dropout2d(F.relu(x.flatten(1)), 0.5, self.training)  # DRP405
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.one = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout2d(rate))
                    self.two = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.Dropout(rate))
                    self.three = nn.Sequential(nn.Conv1d(3, 8, 3), nn.Dropout1d(rate))
                    self.four = nn.Sequential(nn.Linear(8, 8), nn.Dropout2d(rate))
                    self.five = nn.Sequential(nn.Flatten(2), nn.Dropout1d(rate))
                    self.drop = nn.Dropout2d(rate)
                    self.fc = nn.Linear(8, 8)

                def forward(self, x):
                    x = self.drop(self.fc(x))
                    x = F.relu(x).view(x.size(0), -1, 1, 1)
                    x = self.drop(x)
                    x = x.flatten(1).unsqueeze(-1)
                    return F.dropout1d(x, 0.1, self.training)
            """,
        ),
    ),
)

_RANKS = {"dropout1d": 1, "dropout2d": 2, "dropout3d": 3}
_CONVOLUTION = re.compile(r"^torch\.nn\.(?:Lazy)?(?:Conv|ConvTranspose)([123])d$")
_SAME_RANK = re.compile(
    r"^torch\.nn\.(\w*ReLU6?|\w*ELU|SiLU|Mish|Tanh|Sigmoid|Hard\w+|Softplus|Dropout\w*|Identity"
    r"|LayerNorm|BatchNorm[123]d|InstanceNorm[123]d|GroupNorm|(Max|Avg)Pool[123]d"
    r"|Softmax|LogSoftmax|Linear)$"
)
_SAME_RANK_FUNCTION = re.compile(
    r"^torch(\.nn\.functional)?\.(relu6?_?|\w*elu_?|silu|mish|tanh|sigmoid|hard\w+|softplus"
    r"|dropout\w*|softmax|log_softmax|layer_norm|batch_norm|linear|(max|avg)_pool[123]d)$"
)


@rule.in_source(cst.Call)
def wrong_rank(call: cst.Call, source: Source) -> Iterator[Report]:
    """Where the file shows how many dimensions come in, in a container or in forward."""
    name = source.name_of(call.func)
    if name in DROPOUT_MODULES:
        wanted = _RANKS.get(name.rsplit(".", 1)[-1].lower())
        if wanted is None:
            return
        dims = _rank_before(source, call)
    else:
        used = application(source, call)
        wanted = None if used is None else _RANKS.get(used.name.rsplit(".", 1)[-1].lower())
        if used is None or wanted is None:
            return
        name, dims = used.name, _rank(source, used.input)
    if dims is None or dims == wanted + 2 or (wanted, dims) == (2, 3):
        return  # Dropout2d still takes a sequence for what Dropout1d is for now
    short = name.rsplit(".", 1)[-1]
    effect = (
        "there are no channels to drop"
        if dims == 2
        else f"it is made for {wanted + 2} dimensions, and whole channels go at another rank"
    )
    yield Report(call, f"`{short}` is given a tensor of {dims} dimensions: {effect}")


def _rank_before(source: Source, entry: cst.BaseExpression, depth: int = 0) -> int | None:
    """The dimensions of what runs before `entry` in its container, a batch included."""
    ranks = set()
    for module in runs_before(source, entry):
        built = [o for o in origins(source, module) if not is_name(o, "None")]
        for one in built:
            ranks.add(_module_rank(source, one, module, depth))
    return ranks.pop() if len(ranks) == 1 else None


def _module_rank(
    source: Source, built: cst.CSTNode, entry: cst.BaseExpression, depth: int
) -> int | None:
    if not isinstance(built, cst.Call) or depth > 8:
        return None
    name = source.name_of(built.func)
    if match := _CONVOLUTION.match(name):
        return int(match[1]) + 2
    if name == "torch.nn.Flatten":
        return 2 if not built.args else None
    if _SAME_RANK.match(name):
        return _rank_before(source, entry, depth + 1)
    return None


def _rank(source: Source, node: cst.BaseExpression | None, depth: int = 0) -> int | None:
    """The dimensions of the value `node`, where the function shows them."""
    if node is None or depth > 10:
        return None
    if isinstance(node, cst.Name):
        found = list(reaching(source, node.value, source.statement_of(node)))
        ranks = {_value_rank(source, value, depth) for _, value in found}
        return ranks.pop() if len(ranks) == 1 else None
    return _value_rank(source, node, depth)


def _value_rank(source: Source, node: cst.CSTNode | None, depth: int) -> int | None:
    if isinstance(node, cst.Name):
        return _rank(source, node, depth + 1)
    if not isinstance(node, cst.Call):
        return None
    name = source.name_of(node.func)
    positional = [a.value for a in node.args if a.keyword is None and not a.star]
    if _SAME_RANK_FUNCTION.match(name) and positional:
        return _rank(source, positional[0], depth + 1)
    if name == "torch.flatten" and len(positional) == 2 and number(positional[1]) == 1:
        return 2 if len(node.args) == 2 else None
    if isinstance(node.func, cst.Attribute) and node.func.attr.value in ("view", "reshape"):
        if len(positional) == len(node.args) == 2 and not isinstance(positional[0], cst.Tuple):
            return 2
        return None
    if isinstance(node.func, cst.Attribute) and node.func.attr.value == "flatten":
        return 2 if len(node.args) == 1 and positional and number(positional[0]) == 1 else None
    built = [b for b in origins(source, node.func) if isinstance(b, cst.Call)]
    if len(built) == 1 and positional:
        kind = source.name_of(built[0].func)
        if match := _CONVOLUTION.match(kind):
            return int(match[1]) + 2
        if _SAME_RANK.match(kind):
            return _rank(source, positional[0], depth + 1)
    return None
