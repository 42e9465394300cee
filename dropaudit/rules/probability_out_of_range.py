"""
A dropout rate that is no probability.

## What it does

Reports a rate below 0 or above 1 (often a percentage), a boolean or the mode in the place of the
rate (`F.dropout(x, self.training)`), and a dropout module where an attention kernel or a
functional dropout takes a number.

## Why is this bad

torch raises for numbers out of range and for modules, on the first call, which may be far into
a run or in a branch that only training takes. A boolean is worse: True counts as a rate of 1,
so that `F.dropout(x, self.training)` zeroes everything in training, without a word.

## Example

```python
x = F.dropout(x, self.training)
```

## Use instead

Pass a number from 0 to 1 as the rate, and the mode as `training`.

```python
x = F.dropout(x, p=0.5, training=self.training)
```

## Fix safety

There is no fix: the rate that was meant is for the author to say.

## Not seen

A rate that comes from a parameter or from a configuration. Code that waits for the error, as in
`with pytest.raises(ValueError)`.

## References

- [torch.nn.Dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.Dropout.html)
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.static.constants import constant, origins
from dropaudit.static.expectations import in_expected_trouble, in_test
from dropaudit.static.flags import is_mode
from dropaudit.static.functional import attention_kernel, builds_module, functional_dropout
from dropaudit.static.given import Rate, module_rate
from dropaudit.static.source import Report, Source, is_name

rule = Rule(
    "DRP106",
    "probability-out-of-range",
    __doc__,
    triggers=("[dD]ropout", "scaled_dot_product_attention", "flash_attn_", "memory_efficient_att"),
    examples=(
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            PERCENT = 20

            class Net(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.drop = nn.Dropout(0.1)
                    self.one = nn.Dropout(50)  # DRP106
                    self.two = nn.Dropout2d(p=-0.1)  # DRP106
                    self.three = nn.Dropout(PERCENT)  # DRP106
                    self.four = nn.Dropout(True)  # DRP106
                    self.five = nn.LSTM(dim, dim, 2, dropout=1.5)  # DRP106

                def forward(self, x, training=True):
                    x = F.dropout(self.one(x) + self.two(x), self.training)  # DRP106
                    x = F.dropout(self.three(x + 1) + self.four(x + 1), p=training)  # DRP106
                    x = F.dropout(self.five(x)[0], self.drop, self.training)  # DRP106
                    x = F.dropout(x + 1, 2, self.training)  # DRP106
                    return F.scaled_dot_product_attention(  # DRP106
                        x, x, self.drop(x + 1), dropout_p=self.drop if self.training else 0.0
                    )
            """,
        ),
        Example(
            """
            import pytest
            import torch.nn as nn
            import torch.nn.functional as F

            class Net(nn.Module):
                def __init__(self, dim, rate, percent):
                    super().__init__()
                    self.rate = rate
                    self.none = nn.Dropout(0)
                    self.all = nn.Dropout(1.0)
                    self.half = nn.Dropout(inplace=True)
                    self.scaled = nn.Dropout(percent / 100)
                    self.scaled_literal = nn.Dropout(50 / 100)

                def forward(self, x):
                    x = self.all(x) + self.scaled(x) + self.scaled_literal(x)
                    x = self.half(self.none(x))
                    x = F.dropout(x + 1, self.training and self.rate)
                    x = F.dropout(x + 1, self.rate * self.training)
                    return F.dropout(x + 1, self.rate, self.training)

            def test_refused():
                with pytest.raises(ValueError):
                    nn.Dropout(1.1)
            """,
        ),
    ),
)


@rule.in_source(cst.Call)
def rate_that_is_none(call: cst.Call, source: Source) -> Iterator[Report]:
    """A number out of range, a boolean, or a module where the rate belongs."""
    found = _rate(source, call)
    if found is None or found.node is None:
        return
    why = _trouble(source, found)
    if why and not in_expected_trouble(source, call) and not in_test(source, call):
        yield Report(call, why)


def _rate(source: Source, call: cst.Call) -> Rate | None:
    drop = functional_dropout(source, call) or attention_kernel(source, call)
    if drop is not None:
        return Rate(drop.shown, drop.rate, drop.training is None)
    return module_rate(source, call)


def _trouble(source: Source, rate: Rate) -> str:
    assert rate.node is not None
    text = " ".join(source.text(rate.node).split())
    value = constant(source, rate.node)
    if value is not None and not 0 <= value <= 1:
        meant = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
        return f"`{rate.owner}` takes a rate from 0 to 1 and raises for {value:g}{meant}"
    if rate.is_function and builds_module(source, rate.node):
        return (
            f"`{rate.owner}` gets a dropout module (`{text}`) where it takes a number: "
            f"this raises as soon as it runs; pass the module's `p`"
        )
    if all(is_name(o, "True") for o in origins(source, rate.node)):
        return f"`{rate.owner}` gets True as its rate, which is 1: everything is zeroed"
    if rate.is_function and is_mode(source, rate.node) and not is_name(rate.node, "False"):
        rest = " and in evaluation nothing is dropped" if rate.flag_is_free else ""
        return (
            f"`{rate.owner}` gets the mode (`{text}`) as its rate: in training the rate is 1 and "
            f"everything is zeroed{rest}; pass it as `training`"
        )
    return ""
