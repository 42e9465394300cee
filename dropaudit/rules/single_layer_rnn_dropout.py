"""
The `dropout` of an RNN that has only one layer.

## What it does

Reports `nn.LSTM`, `nn.GRU` and `nn.RNN` with a dropout rate and one layer: `num_layers` is 1,
or is left out, which means 1.

## Why is this bad

torch applies this rate to the output of every layer but the last. With one layer there is
nothing between layers, so the rate does nothing at all: the model trains without the
regularization that the code (and perhaps the paper) claims. torch prints a warning when the
module is built and goes on.

## Example

```python
self.rnn = nn.LSTM(64, 128, num_layers=1, dropout=0.5)
```

## Use instead

Apply an `nn.Dropout` to the input or output of the RNN, or stack two layers, or drop the argument.

```python
self.rnn = nn.LSTM(64, 128)
self.drop = nn.Dropout(0.5)
...
out, _ = self.rnn(self.drop(x))
```

## Fix safety

There is no fix: whether the dropout or the second layer is missing is for the author to say.

## Not seen

A layer count that comes from a parameter or from a configuration, even if its default is one.

## References

- [torch.nn.LSTM](https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Severity
from dropaudit.static.arguments import Arguments, arguments
from dropaudit.static.constants import constant, origins
from dropaudit.static.expectations import in_expected_trouble
from dropaudit.static.source import Report, Source, is_name, number
from dropaudit.static.walk import descend

rule = Rule(
    "DRP403",
    "single-layer-rnn-dropout",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"\b(LSTM|GRU|RNN)\b", r"\bgetattr\(\s*[\w.]*nn\b"),
    examples=(
        Example(
            """
            import torch.nn as nn
            from torch.nn import GRU

            class Tagger(nn.Module):
                def __init__(self, dim, rate, kind="LSTM"):
                    super().__init__()
                    self.layers = 1
                    self.rate = rate
                    self.one = nn.LSTM(dim, dim, num_layers=1, dropout=0.5)  # DRP403
                    self.two = nn.LSTM(dim, dim, 1, True, True, 0.5)  # DRP403
                    self.three = GRU(dim, dim, batch_first=True, dropout=rate)  # DRP403
                    self.four = nn.RNN(dim, dim, 1, "tanh", True, True, 0.2)  # DRP403
                    self.five = nn.GRU(dim, dim, self.layers, dropout=self.rate)  # DRP403
                    self.six = getattr(nn, kind)(dim, 4, dropout=rate, batch_first=True)  # DRP403
                    options = dict(num_layers=1, dropout=0.3)
                    self.seven = nn.GRU(dim, dim, **options)  # DRP403
                    cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
                    self.eight = cell(dim, dim, 1, dropout=rate)  # DRP403
            """,
        ),
        Example(
            """
            from torch import nn

            class Stacked(nn.LSTM):
                def __init__(self, dim):
                    super().__init__(dim, dim, num_layers=1, dropout=0.1)  # DRP403

            def lstm(dim, hidden, **kwargs):
                return nn.LSTM(dim, hidden, **kwargs)

            layer = lstm(8, 8, num_layers=1, dropout=0.1)  # DRP403
            """,
        ),
        Example(
            """
            import torch.nn as nn
            from other import LSTM

            class Tagger(nn.Module):
                def __init__(self, dim, layers, rate, options, kind, single=1):
                    super().__init__()
                    self.one = nn.LSTM(dim, dim, 2, dropout=0.5)
                    self.two = nn.LSTM(dim, dim, num_layers=layers, dropout=rate)
                    self.three = nn.LSTM(dim, dim, 1, dropout=0.0)
                    self.four = nn.LSTM(dim, dim, layers, dropout=rate if layers > 1 else 0)
                    self.five = nn.LSTM(dim, dim, 1, True, True)
                    self.six = LSTM(dim, dim, 1, dropout=0.5)
                    self.seven = nn.GRU(dim, dim, dropout=0.5, **options)
                    self.eight = nn.RNN(dim, dim, 1, "tanh", True, False, 0, True)
                    self.nine = nn.GRU(dim, dim, single, dropout=rate)
                    self.ten = getattr(nn, kind)(dim, 4, dropout=rate)
                    n = 1 if rate else 2
                    self.eleven = nn.GRU(dim, dim, n, dropout=rate)
                    inner = 0.0 if layers == 1 else rate
                    self.twelve = nn.GRU(dim, dim, dropout=inner)
                    self.cell = nn.LSTMCell(dim, dim)
            """,
        ),
        Example(
            """
            import pytest
            from torch import nn

            def test_one_layer_warns():
                with pytest.warns(UserWarning):
                    nn.LSTM(4, 4, dropout=0.5)
            """,
        ),
    ),
)

_KINDS = ("LSTM", "GRU", "RNN")
_PARAMETERS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
_RNN_PARAMETERS = (*_PARAMETERS[:3], "nonlinearity", *_PARAMETERS[3:])
_SEVERAL, _BY_NAME = "LSTM or GRU", "recurrent module"
_RNN_WORD = re.compile(r"rnn|lstm|gru|recurrent", re.IGNORECASE)


@rule.in_source(cst.Call)
def one_layer_with_a_rate(call: cst.Call, source: Source) -> Iterator[Report]:
    """The count is one for sure, and the rate is not written off by a condition."""
    if len(call.args) < 2 or not _mentions_rate(call):
        return
    kind = _kind(source, call.func)
    if not kind:
        return
    parameters = _RNN_PARAMETERS if kind == "RNN" else _PARAMETERS
    given = arguments(source, call, parameters)
    rate = given.values.get("dropout")
    if rate is None or not _is_one(source, given) or not _acts(source, rate):
        return
    if kind == _BY_NAME and not _looks_recurrent(source, call, given):
        return
    if in_expected_trouble(source, call):
        return
    value = constant(source, rate)
    text = source.text(rate) if value is None else f"{value:g}"
    yield Report(
        call,
        f"`dropout={text}` of this one-layer {kind} never acts: torch drops between layers, "
        f"and one layer has nothing between",
    )


def _mentions_rate(call: cst.Call) -> bool:
    keywords = [a.keyword.value for a in call.args if a.keyword is not None]
    return "dropout" in keywords or len(call.args) >= 6 or any(a.star == "**" for a in call.args)


def _kind(source: Source, func: cst.BaseExpression) -> str:
    """LSTM, GRU or RNN where `func` is one of torch's, for every value it may have."""
    match func:
        case cst.Attribute(
            value=cst.Call(func=cst.Name(value="super")), attr=cst.Name(value="__init__")
        ):
            facts = source.class_of(func)
            bases = () if facts is None else facts.base_names
            return next((_last(b) for b in bases if _is_rnn(b)), "")
    kinds = {_one_kind(source, origin) for origin in origins(source, func)}
    if "" in kinds or not kinds:
        return ""
    return kinds.pop() if len(kinds) == 1 else _SEVERAL


def _one_kind(source: Source, node: cst.CSTNode) -> str:
    name = source.name_of(node)
    if _is_rnn(name):
        return _last(name)
    match node:
        case cst.Call(func=cst.Name(value="getattr"), args=[module, attribute, *_]):
            text = source.text(module.value)
            if text.endswith("nn") and source.name_of(module.value) == "torch.nn":
                return _named_kind(source, attribute.value)
        case cst.Subscript(value=table):
            return _table_kind(source, table)
    definition = source.definition(node)
    if isinstance(definition, cst.FunctionDef):
        return _forwarded_kind(source, definition)
    if isinstance(definition, cst.ClassDef) and "__init__" not in source.facts(definition).methods:
        return next((_last(b) for b in source.facts(definition).base_names if _is_rnn(b)), "")
    return ""


def _named_kind(source: Source, node: cst.BaseExpression) -> str:
    values = list(origins(source, node))
    words = [str(v.evaluated_value) for v in values if isinstance(v, cst.SimpleString)]
    if len(words) == len(values):
        return words[0] if all(w in _KINDS for w in words) else ""
    return _BY_NAME


def _table_kind(source: Source, table: cst.BaseExpression) -> str:
    for origin in origins(source, table):
        if not isinstance(origin, cst.Dict) or not origin.elements:
            return ""
        if not all(_is_rnn(source.name_of(e.value)) for e in origin.elements):
            return ""
    return _SEVERAL


def _forwarded_kind(source: Source, function: cst.FunctionDef) -> str:
    """The type that a helper builds from its own `**kwargs`, all other parameters in place."""
    options = function.params.star_kwarg
    if options is None:
        return ""
    for statement in descend(function.body):
        if not isinstance(statement, cst.Call) or source.function_of(statement) is not function:
            continue
        name = source.name_of(statement.func)
        if _is_rnn(name) and any(
            a.star == "**" and is_name(a.value, options.name.value) for a in statement.args
        ):
            given = {a.keyword.value for a in statement.args if a.keyword is not None}
            own = {p.name.value for p in function.params.params}
            return "" if (given | own) & {"num_layers", "dropout"} else _last(name)
    return ""


def _looks_recurrent(source: Source, call: cst.Call, given: Arguments) -> bool:
    if {"batch_first", "bidirectional"} & set(given.values):
        return "nhead" not in given.values and "num_heads" not in given.values
    statement = source.statement_of(call)
    return bool(_RNN_WORD.search(source.text(statement)))


def _is_one(source: Source, given: Arguments) -> bool:
    count = given.values.get("num_layers")
    if count is None:
        return given.complete
    return constant(source, count) == 1


def _acts(source: Source, rate: cst.BaseExpression) -> bool:
    """Whether nothing shows that the rate is zero, or zero on a condition."""
    if isinstance(rate, (cst.IfExp, cst.BooleanOperation, cst.Comparison, cst.BinaryOperation)):
        return False
    for origin in origins(source, rate):
        if number(origin) == 0 or is_name(origin, "None") or is_name(origin, "False"):
            return False
        if isinstance(origin, (cst.BooleanOperation, cst.Comparison)):
            return False
    return True


def _is_rnn(name: str) -> bool:
    return name.startswith("torch.nn.") and _last(name) in _KINDS and name.count(".") == 2


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
