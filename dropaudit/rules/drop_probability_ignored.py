"""
A drop probability that the code takes and does not use.

## What it does

Reports a parameter of a function, or of the constructor of a module, that is named for a drop
probability and that nothing reads; one that is only kept in an attribute that nothing reads; the
same of a field of a config class whose other fields are all read in the file; a dropout with a rate
written down as a number, where the probability in scope only decides whether to drop at all; and an
`nn.Sequential` that one method of a class builds without the dropout that another gives it.

## Why is this bad

Whoever sets the probability, in a call, a configuration or a search over hyperparameters, changes
nothing: another rate is in effect, or none. Results of such a search are noise, and a paper that
states the rate is wrong.

## Example

```python
class Head(nn.Module):
    def __init__(self, dim, classes, dropout=0.1):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(dim, classes)
```

## Use instead

Hand the probability to the dropout that it is meant for, or remove it.

```python
        self.drop = nn.Dropout(dropout)
```

## Fix safety

Where one dropout with a number for its rate stands in reach, the fix hands it the probability. It
is unsafe: another rate is in effect from then on.

## Not seen

Parameters that a base in the same file prescribes, or a class beside it with the very same
parameters, or that belong to methods of classes whose bases another file defines; functions with
decorators that may read them, or that read all of their arguments at once; and what a comment or
docstring calls unused, deprecated or kept for compatibility. A function that is not a constructor
is left alone where nobody in the file asks it to drop. Rates of whole paths, tokens or edges are
not looked at. Nor are config classes that other files read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Severity
from dropaudit.static.facts import ClassFacts
from dropaudit.static.functional import is_zero
from dropaudit.static.reach import argument_for, exact_callers
from dropaudit.static.rebuilt import rebuilt_without
from dropaudit.static.source import Change, Report, Source, is_name, number
from dropaudit.static.switches import literal_dropouts, switch_of
from dropaudit.static.unread import (
    excuses,
    is_closed,
    is_read_attribute,
    params,
    stored_only,
    takes_over,
    unread_params,
)
from dropaudit.static.walk import descend

rule = Rule(
    "DRP404",
    "drop-probability-ignored",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"drop",),
    examples=(
        Example(
            """
            from dataclasses import dataclass
            import torch.nn as nn
            import torch.nn.functional as F

            @dataclass
            class Settings:
                dim: int = 64
                heads: int = 4
                layers: int = 2
                attn_drop: float = 0.1  # DRP404

            class Head(nn.Module):
                def __init__(self, dim, classes, dropout=0.1):
                    super().__init__()
                    self.drop = nn.Dropout(0.5)  # DRP404
                    self.fc = nn.Linear(dim, classes)

                def forward(self, x):
                    return self.fc(self.drop(x))

            class Graph(nn.Module):
                def __init__(
                    self,
                    settings,
                    rate=0.5,
                    feat_drop=0.1,
                    dropout_rate=0.3,
                ):
                    super().__init__()
                    self.rate = rate
                    self.dropout_rate = dropout_rate
                    self.heads, self.layers = settings.heads, settings.layers
                    self.fc = nn.Linear(settings.dim, settings.dim)
                    self.drop = nn.Dropout(feat_drop)

                def forward(self, x):
                    x = F.dropout(self.fc(x), 0.6, training=self.training)  # DRP404
                    x = F.relu(self.fc(x))
                    x = self.fc(self.drop(x))
                    return F.dropout(x, self.rate, training=self.training)

            class Classifier(nn.Module):
                def __init__(self, dim, classes, dropout=0.1):
                    super().__init__()
                    self.dim, self.dropout = dim, dropout
                    self.head = nn.Sequential(  # DRP404
                        nn.LayerNorm(dim),
                        nn.Linear(dim, dim),
                        nn.Linear(dim, classes),
                    )

                def reset(self, classes):
                    self.head = nn.Sequential(
                        nn.LayerNorm(self.dim),
                        nn.Linear(self.dim, self.dim),
                        nn.Dropout(self.dropout),
                        nn.Linear(self.dim, classes),
                    )

                def forward(self, x):
                    return self.head(x)

            def block(x, weight, drop_prob, training):
                if drop_prob > 0:
                    x = F.dropout(x, p=0.5, training=training)  # DRP404
                return F.linear(x, weight)

            def encoder(dim, depth, dropout=0.1):  # DRP404
                return nn.Sequential(*[nn.Linear(dim, dim) for _ in range(depth)])
            """,
            fixed="""
            from dataclasses import dataclass
            import torch.nn as nn
            import torch.nn.functional as F

            @dataclass
            class Settings:
                dim: int = 64
                heads: int = 4
                layers: int = 2
                attn_drop: float = 0.1

            class Head(nn.Module):
                def __init__(self, dim, classes, dropout=0.1):
                    super().__init__()
                    self.drop = nn.Dropout(dropout)
                    self.fc = nn.Linear(dim, classes)

                def forward(self, x):
                    return self.fc(self.drop(x))

            class Graph(nn.Module):
                def __init__(
                    self,
                    settings,
                    rate=0.5,
                    feat_drop=0.1,
                    dropout_rate=0.3,
                ):
                    super().__init__()
                    self.rate = rate
                    self.dropout_rate = dropout_rate
                    self.heads, self.layers = settings.heads, settings.layers
                    self.fc = nn.Linear(settings.dim, settings.dim)
                    self.drop = nn.Dropout(feat_drop)

                def forward(self, x):
                    x = F.dropout(self.fc(x), self.dropout_rate, training=self.training)
                    x = F.relu(self.fc(x))
                    x = self.fc(self.drop(x))
                    return F.dropout(x, self.rate, training=self.training)

            class Classifier(nn.Module):
                def __init__(self, dim, classes, dropout=0.1):
                    super().__init__()
                    self.dim, self.dropout = dim, dropout
                    self.head = nn.Sequential(
                        nn.LayerNorm(dim),
                        nn.Linear(dim, dim),
                        nn.Linear(dim, classes),
                    )

                def reset(self, classes):
                    self.head = nn.Sequential(
                        nn.LayerNorm(self.dim),
                        nn.Linear(self.dim, self.dim),
                        nn.Dropout(self.dropout),
                        nn.Linear(self.dim, classes),
                    )

                def forward(self, x):
                    return self.head(x)

            def block(x, weight, drop_prob, training):
                if drop_prob > 0:
                    x = F.dropout(x, p=drop_prob, training=training)
                return F.linear(x, weight)

            def encoder(dim, depth, dropout=0.1):
                return nn.Sequential(*[nn.Linear(dim, dim) for _ in range(depth)])
            """,
        ),
        Example(
            """
            from abc import abstractmethod
            from dataclasses import dataclass
            import torch.nn as nn
            import torch.nn.functional as F
            from other import Base, register_to_config

            @dataclass
            class Settings:
                dim: int = 64
                heads: int = 4
                layers: int = 2
                dropout: float = 0.1
                warmup: int = 100

            class Layer(nn.Module):
                def __init__(self, dim, drop_last=False, drop_path=0.1, use_dropout=True):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)

                def forward(self, x):
                    return self.fc(x)

                @abstractmethod
                def mix(self, x, dropout=0.1):
                    raise NotImplementedError

            class Wide(Layer):
                def __init__(self, dim, dropout=0.1):
                    super().__init__(dim)
                    self.drop = nn.Dropout(dropout)

                def mix(self, x, dropout=0.1):
                    return self.drop(self.fc(x))

            class Narrow(Wide):
                def __init__(self, dim, dropout=0.1):
                    nn.Module.__init__(self)
                    self.fc = nn.Linear(dim, dim)

            class Flat(nn.Module):
                def __init__(self, dim, classes, dropout):
                    super().__init__()
                    self.fc = nn.Linear(dim, classes)

            class Deep(nn.Module):
                def __init__(self, dim, classes, dropout):
                    super().__init__()
                    self.fc = nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, classes))

            class Kept(nn.Module):
                def __init__(self, dim, dropout=0.1):
                    super().__init__()
                    self.save_hyperparameters()

            class Listed(nn.Module):
                def __init__(self, dim, dropout=0.1):
                    super().__init__()
                    self.options = {n: v for n, v in locals().items() if n != "self"}

            class Registered(nn.Module):
                @register_to_config
                def __init__(self, dim, dropout=0.1):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)

            class Old(nn.Module):
                def __init__(self, dim, dropout=0.1, attn_drop=0.0, _drop=0.1):
                    '''A layer.

                    dropout: unused, kept for older checkpoints.
                    '''
                    super().__init__()
                    del attn_drop
                    self.fc = nn.Linear(dim, dim)

            class Foreign(Base):
                def attend(self, x, dropout=0.1):
                    return x + 1

            class Open(Base):
                def __init__(self, dim, dropout=0.1):
                    super().__init__(dim)
                    self.dropout = dropout

            class Stages(nn.Module):
                def __init__(self, settings, dropout=False, rate=0.1, final_dropout=None):
                    super().__init__()
                    self.final_dropout = final_dropout
                    self.layers = [settings.dim, settings.heads, settings.layers]
                    self.first = nn.Dropout(0.2) if dropout else nn.Identity()
                    if rate > 0:
                        self.second = nn.Dropout2d(0.2)
                    self.third = nn.Dropout(rate)

                def forward(self, x):
                    p = getattr(self, "final_dropout")
                    x = F.relu(self.second(F.relu(self.first(x))))
                    return F.dropout(F.relu(self.third(x)), p, self.training)

            def linear(dim, classes, dropout=0.0):
                return nn.Linear(dim, classes)

            def test_rate(dropout=0.5):
                assert linear(1, 2) is not None
            """
        ),
    ),
)

_RATE = re.compile(
    r"^_?([a-z0-9]+_)*(dropouts?|drop|pdrop|drop_?p|drop_?prob|drop_?probability|drop_?rate"
    r"|drop_?ratio|dropout_?(p|prob|probs|probability|rate|ratio|value))(_?\d+)?$"
    r"|^(p_?dropout|p_?drop|dropout_(in|out|input|output|hidden|emb|embed|embedding|attn|attention|ff|ffn"
    r"|fc|head|rnn|lstm|conv|res|resid|mlp|proj|cls|pos|enc|dec|encoder|decoder|feat))$"
)
# words of what is no probability, or of what drops something else than elements
_OTHER_WORD = re.compile(
    r"path|connect|block|layerdrop|layer|edge|node|token|word|use|with|without|no|not|is|do|enable"
    r"|apply|has|add|mc|last|na|cols?|columns?|first|keys?|type|mode|fn|func|module|cls|class|mask"
    r"|lr|loss|stochastic|variational|spatial|kind|position|positions|index|dim|shape|schedule"
)


def _is_rate(name: str) -> bool:
    words = name.lower().strip("_").split("_")
    return bool(_RATE.match(name)) and not any(_OTHER_WORD.fullmatch(w) for w in words)


@rule.in_source(cst.FunctionDef)
def parameter_never_read(function: cst.FunctionDef, source: Source) -> Iterator[Report]:
    """Parameters that the body does not name, or only keeps where nothing reads them."""
    named = [p for p in params(function) if _is_rate(p.name.value) and not _is_flag(source, p)]
    if not named or source.modes.in_test(function.body) or not _is_torch(source):
        return
    facts = source.class_of(function)
    builds = facts is not None and function.name.value == "__init__"
    if facts is not None and not facts.is_module:
        return
    unread = unread_params(source, function)
    for param in named:
        name = param.name.value
        if excuses(source, function, param):
            continue
        instead = _only_literal(source, function) if param in unread else None
        if instead is None and takes_over(source, function, param):
            continue
        if not builds and not _is_given(source, function, param):
            continue
        if param in unread:
            yield _report(source, param, f"`{name}` is never read", name, instead)
        elif builds and facts is not None and is_closed(source, facts):
            kept = stored_only(source, facts, function, param)
            if kept is not None:
                what = f"`{name}` is kept in `self.{kept.name}`, which is never read"
                instead = _only_literal(source, facts.node)
                value = name if instead and source.function_of(instead[0]) is function else ""
                yield _report(source, param, what, value or f"self.{kept.name}", instead)


@rule.in_source(cst.Call)
def rate_only_a_switch(call: cst.Call, source: Source) -> Iterator[Report]:
    """A dropout with a number for a rate, under a test of a probability that has no other use."""
    found = next(iter(literal_dropouts(source, [call])), None)
    if found is None or source.modes.in_test(call):
        return
    rate = switch_of(source, call, _is_rate)
    if rate is None:
        return
    shown = source.text(rate)
    what = f"`{shown}` only decides whether this drops, not how much"
    yield _report(source, call, what, shown, found)


def _report(
    source: Source,
    node: cst.CSTNode,
    what: str,
    value: str,
    instead: tuple[cst.Call, cst.BaseExpression | None] | None,
) -> Report:
    if instead is None:
        return Report(node, f"{what}: whoever sets it changes nothing")
    call, literal = instead
    used = "the default of 0.5" if literal is None else f"{number(literal):g}"
    changes = () if literal is None else (Change(literal, "replace", value),)
    return Report(call, f"{what}: the rate here is {used}", changes, title=f"Pass `{value}`")


def _only_literal(
    source: Source, around: cst.FunctionDef | cst.ClassDef
) -> tuple[cst.Call, cst.BaseExpression | None] | None:
    calls = [n for n in descend(around.body) if isinstance(n, cst.Call)]
    found = list(literal_dropouts(source, calls))
    return found[0] if len(found) == 1 else None


def _is_flag(source: Source, param: cst.Param) -> bool:
    said = "" if param.annotation is None else source.text(param.annotation.annotation)
    return "bool" in said or is_name(param.default, "True") or is_name(param.default, "False")


def _is_given(source: Source, function: cst.FunctionDef, param: cst.Param) -> bool:
    """Whether a rate above zero is asked for: by default, or by a call in this file."""
    if param.default is not None and not is_zero(source, param.default):
        return True
    passed = (argument_for(source, c, function, param) for c in exact_callers(source, function))
    return any(p is not None and not is_zero(source, p) for p in passed)


def _is_torch(source: Source) -> bool:
    if "torch" not in source.memo:
        imports = [*source.nodes[cst.Import], *source.nodes[cst.ImportFrom]]
        source.memo["torch"] = any("torch" in source.text(i) for i in imports)
    return bool(source.memo["torch"])


@rule.in_source(cst.ClassDef)
def field_never_read(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """A field of a config class, where this file reads all the others."""
    if not _is_config(source, source.facts(node)) or source.modes.in_test(node):
        return
    fields = [s for s in _fields(node) if isinstance(s.target, cst.Name)]
    names = [f.target.value for f in fields if isinstance(f.target, cst.Name)]
    unread = [n for n in names if not is_read_attribute(source, n)]
    if len(unread) != 1 or len(names) < 4 or not _is_rate(unread[0]):
        return
    field = fields[names.index(unread[0])]
    yield Report(field, f"`{unread[0]}` is never read: whoever sets it changes nothing")


@rule.in_source(cst.ClassDef)
def rebuilt_without_dropout(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """A Sequential that another method of the class builds with a dropout in it."""
    facts = source.facts(node)
    if not facts.is_module or source.modes.in_test(node):
        return
    for found in rebuilt_without(source, facts):
        shown, method = source.text(found.missing), found.other.name.value
        what = f"`self.{found.name}` is built here without the `{shown}` that `{method}` gives it"
        yield Report(found.without, what)


def _fields(node: cst.ClassDef) -> Iterator[cst.AnnAssign]:
    for line in node.body.body:
        if isinstance(line, cst.SimpleStatementLine):
            yield from (s for s in line.body if isinstance(s, cst.AnnAssign))


def _is_config(source: Source, facts: ClassFacts) -> bool:
    if facts.foreign_bases or facts.local_bases or facts.subclasses:
        return False
    decorators = [source.text(d.decorator) for d in facts.node.decorators]
    if not any(re.match(r"(dataclasses\.)?dataclass\b", d) for d in decorators):
        return False
    spread = ("asdict", "astuple", "fields", "vars", "__dict__", "replace")
    return not any(source.calls_by_name.get(n) or source.attributes_by_name.get(n) for n in spread)
