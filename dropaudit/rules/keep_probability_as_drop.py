"""
A keep probability that is handed over as a drop probability.

## What it does

Reports a value that is named, or documented, as the probability to keep or retain an element
where torch takes the probability to drop it: in dropout modules, functional dropouts, and the
`dropout` of recurrent and attention layers.

## Why is this bad

Other frameworks count the other way round: a `keep_prob` of 0.8 drops 20 % there and 80 % in
torch. The network keeps a fifth of its activations where it should lose a fifth, and with a keep
probability of 1 everything is zero. At 0.5 the mistake is hidden until someone tunes the value.

## Example

```python
self.drop = nn.Dropout(keep_prob)
```

## Use instead

Pass `1 - keep_prob`, or rename the value to what it is.

```python
self.drop = nn.Dropout(1 - keep_prob)
```

## Fix safety

The fix passes one minus the value. It is unsafe because the model then drops at another rate,
and because callers may have made up for the mistake.

## Not seen

A value whose name and documentation do not say which of the two it is.

## References

- [torch.nn.Dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.constants import origins
from dropaudit.static.expectations import in_test
from dropaudit.static.functional import attention_kernel, functional_dropout
from dropaudit.static.given import module_rate
from dropaudit.static.names import Kind
from dropaudit.static.source import Change, Report, Source, is_name, number

rule = Rule(
    "DRP103",
    "keep-probability-as-drop",
    __doc__,
    triggers=("[kK]eep|KEEP|[rR]etain|RETAIN|[sS]urviv",),
    requires=(
        "[dD]ropout|LSTM|GRU|RNN|Multihead|Transformer"
        "|scaled_dot_product_attention|flash_attn_|memory_efficient_att",
    ),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, dim, keep_prob, config, keep_dropout=0.8):
                    super().__init__()
                    self.keep_dropout = keep_dropout
                    self.one = nn.Dropout(keep_prob)  # DRP103
                    self.two = nn.Dropout2d(p=config["keep_prob"])  # DRP103
                    self.rnn = nn.LSTM(dim, dim, 2, dropout=config.keep_prob)  # DRP103
                    rate = keep_prob
                    self.three = nn.Dropout(rate)  # DRP103

                def forward(self, x):
                    x = self.three(self.two(self.one(self.rnn(x)[0])))
                    return F.dropout(x + 1, self.keep_dropout, self.training)  # DRP103
            """,
            fixed="""
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, dim, keep_prob, config, keep_dropout=0.8):
                    super().__init__()
                    self.keep_dropout = keep_dropout
                    self.one = nn.Dropout(1 - keep_prob)
                    self.two = nn.Dropout2d(p=1 - config["keep_prob"])
                    self.rnn = nn.LSTM(dim, dim, 2, dropout=1 - config.keep_prob)
                    rate = keep_prob
                    self.three = nn.Dropout(1 - rate)

                def forward(self, x):
                    x = self.three(self.two(self.one(self.rnn(x)[0])))
                    return F.dropout(x + 1, 1 - self.keep_dropout, self.training)
            """,
        ),
        Example(
            """
            import torch.nn as nn

            class Head(nn.Module):
                \'\'\'A classifier.

                Args:
                    dim: width
                    dropout: the probability to retain a unit
                \'\'\'

                def __init__(self, dim, dropout):
                    super().__init__()
                    self.drop = nn.Dropout(dropout)  # DRP103
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    return self.fc(self.drop(x))
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                \'\'\'A network.

                Args:
                    dropout: probability to drop a unit, so that 1 - dropout are kept
                    keep_prob: probability to keep a unit
                \'\'\'

                def __init__(self, dim, keep_prob, dropout, keepdim=True, keep_dropout=True):
                    super().__init__()
                    self.keep_prob = keep_prob
                    self.one = nn.Dropout(1 - keep_prob)
                    self.two = nn.Dropout(p=1.0 - self.keep_prob)
                    rate = 1 - keep_prob
                    self.three = nn.Dropout(rate)
                    self.four = nn.Dropout(dropout)
                    keep_prob = 1.0 - keep_prob
                    self.five = nn.Dropout(keep_prob)
                    self.six = nn.Dropout(0.1 if keep_dropout else 0.0)

                def forward(self, x):
                    x = self.three(x) + self.two(x) + self.one(x)
                    x = self.six(x) + self.five(x) + self.four(x)
                    return F.dropout(x, 1 - self.keep_prob, self.training)
            """,
        ),
    ),
)

_KEEP = re.compile(r"keep(?!_?dims?)|(?<![a-z])kp(?![a-z])|retain(?!_?graph)|surviv", re.IGNORECASE)
_KEPT = re.compile(
    r"(probabilit\w*|prob|rate|ratio|fraction|chance)[\w ]{0,24}(keep|kept|retain|surviv)"
    r"|(keep\w*|retain\w*|retention|surviv\w*)[ -]+(probabilit|prob\b|rate|ratio)",
    re.IGNORECASE,
)
_DROPPED = re.compile(r"drop(ped|ping)?\b(?! ?out)|zero|1(\.0)? ?-", re.IGNORECASE)


@rule.in_source(cst.Call)
def kept_rate(call: cst.Call, source: Source) -> Iterator[Report]:
    """A rate whose name, or the name it comes from, speaks of keeping."""
    rate, owner = _rate(source, call)
    if rate is None or in_test(source, call):
        return
    said = _says_keep(source, rate)
    if not said:
        return
    text = " ".join(source.text(rate).split())
    yield Report(
        call,
        f"`{owner}` takes the probability to drop and gets {said}: at 0.9 it would drop 90 %; "
        f"pass `1 - {text}`",
        (Change(rate, "before", "1 - "),) if _is_simple(rate) else (),
        title="Pass one minus the keep probability",
    )


def _rate(source: Source, call: cst.Call) -> tuple[cst.BaseExpression | None, str]:
    drop = functional_dropout(source, call) or attention_kernel(source, call)
    if drop is not None:
        passed = any(a.value is drop.rate for a in call.args)
        return (drop.rate if passed else None), drop.shown
    built = module_rate(source, call)
    if built is None or not any(a.value is built.node for a in call.args):
        return None, ""
    return built.node, built.owner


def _says_keep(source: Source, rate: cst.BaseExpression) -> str:
    """What names the rate as one to keep; empty unless every value it may have is such."""
    found = list(origins(source, rate))
    if any(not _may_keep(o) for o in found):
        return ""
    for node in (rate, *found):
        word = _word(node)
        if word and _KEEP.search(word):
            return f"the keep probability `{' '.join(source.text(node).split())}`"
    for node in found:
        if isinstance(node, cst.Name) and _documented(source, node):
            return f"`{node.value}`, which the docstring calls the probability to keep"
    return ""


def _may_keep(node: cst.CSTNode) -> bool:
    if is_name(node, "True") or is_name(node, "False") or is_name(node, "None"):
        return False
    return number(node) != 0 and (number(node) is not None or bool(_word(node)))


def _word(node: cst.CSTNode) -> str:
    """The name that a plain value goes by: `keep`, `config.keep`, `config["keep"]`."""
    match node:
        case cst.Name(value=word) | cst.Attribute(attr=cst.Name(value=word)):
            return word
        case cst.Subscript(
            slice=[cst.SubscriptElement(slice=cst.Index(value=cst.SimpleString(value=word)))]
        ):
            return word.strip("'\"")
        case cst.Subscript(value=value):
            return _word(value)
        case cst.Call(func=cst.Name(value="float"), args=[one]):
            return _word(one.value)
    return ""


def _documented(source: Source, name: cst.Name) -> bool:
    if not any(b.kind is Kind.PARAMETER for b in source.bindings(name)):
        return False
    for around in source.ancestors(name):
        if not isinstance(around, (cst.FunctionDef, cst.ClassDef)):
            continue
        text = around.get_docstring() or ""
        entry = re.search(
            rf"^[ \t]*(:param \w* ?)?[-*`]*{re.escape(name.value)}\b[^\n]*(\n[ \t]+[^\n:]*$)?",
            text,
            re.MULTILINE,
        )
        if entry and _KEPT.search(entry[0]) and not _DROPPED.search(entry[0]):
            return True
    return False


def _is_simple(rate: cst.BaseExpression) -> bool:
    return isinstance(rate, (cst.Name, cst.Attribute, cst.Subscript, cst.Call))
