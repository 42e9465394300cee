"""
A functional dropout that is not told whether the model is training.

## What it does

Reports `F.dropout`, `F.dropout1d` to `F.dropout3d`, `torch.dropout` and
`F.multi_head_attention_forward` in code that runs in evaluation too, when the call passes no
`training` and nothing around it depends on the mode. Also calls of a helper, wherever it is
defined, that hands `training` on and has True for its default (or `deterministic`, and False),
through other helpers and `functools.partial` too; a flag that stays true in evaluation
(`self.training or p > 0`), or is only true there; and a literal True next to a call in the same
method that passes the mode. A helper that takes no mode is right where its callers test it.

## Why is this bad

The functions have no state: `training` defaults to True, and `model.eval()` cannot reach it.
The model goes on dropping activations in validation and in production, so that predictions
are random, worse than the model is, and different on each call.

## Example

```python
def forward(self, x):
    x = F.relu(self.fc1(x))
    x = F.dropout(x, p=0.5)
    return self.fc2(x)
```

## Use instead

Pass `training=self.training`, or build an `nn.Dropout` in `__init__` and call that.

```python
def forward(self, x):
    x = F.relu(self.fc1(x))
    x = F.dropout(x, p=0.5, training=self.training)
    return self.fc2(x)
```

## Fix safety

The fix adds `training=self.training` where `self` is a module. It is unsafe because it changes
what the model computes in evaluation, which is its purpose. In a function without `self` the mode
has to come from the caller, so there is no fix.

## Not seen

A call whose arguments are spread from `*args` or `**kwargs`; a helper that nothing in the files
at hand calls. Dropout that stays on for a purpose (Monte-Carlo dropout, a prenet) is left alone
where a name, docstring or comment of the function or class says so; `always-on` in the settings
names more of them.

## References

- [torch.nn.functional.dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.modes import eval_counts, eval_figures, mode_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.constants import is_constant_true
from dropaudit.static.flags import (
    MULTI_HEAD,
    NEVER_ON,
    forwards_flag,
    holds_in_eval,
    is_mode,
    passes_mode_nearby,
)
from dropaudit.static.functional import Drop, functional_dropout, is_zero
from dropaudit.static.names import dotted_text
from dropaudit.static.outgoing import outgoing_call, qualified, runs_with_its_rates
from dropaudit.static.program.answering import called
from dropaudit.static.program.hearing import callers_hear, is_reached
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.project import Project
from dropaudit.static.program.resolve import FunctionRef
from dropaudit.static.program.wrappers import Flag, Wrappers
from dropaudit.static.rates import percent
from dropaudit.static.reach import exact_callers, runs_in_eval, self_in_scope
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP201",
    "functional-dropout-ignoring-mode",
    __doc__,
    triggers=("(?i:drop)", "multi_head_attention_forward"),
    examples=(
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F
            from torch.nn.functional import dropout2d as drop2d

            class Net(nn.Module):
                def __init__(self, dim, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)
                    self.last = lambda x: F.dropout(x, p=0.1)  # DRP201
                    self.hold = F.dropout

                def forward(self, x):
                    x = F.dropout(x)  # DRP201
                    x = drop2d(self.fc(x), self.rate, inplace=False,)  # DRP201
                    if self.rate:
                        x = nn.functional.dropout(x, p=self.rate)  # DRP201
                    x = self.hold(x + 1, 0.2)  # DRP201
                    return self.step(x)

                def step(self, x):
                    mask = F.dropout(x, self.rate, True)  # DRP201
                    x = F.dropout(x, self.rate, training=self.training or self.rate > 0)  # DRP201
                    return F.dropout(
                        mask * x,
                        p=self.rate,  # as in the paper
                        training=self.training,
                    )
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F
            from torch.nn.functional import dropout2d as drop2d

            class Net(nn.Module):
                def __init__(self, dim, rate=0.3):
                    super().__init__()
                    self.rate = rate
                    self.fc = nn.Linear(dim, dim)
                    self.last = lambda x: F.dropout(x, p=0.1, training=self.training)
                    self.hold = F.dropout

                def forward(self, x):
                    x = F.dropout(x, training=self.training)
                    x = drop2d(self.fc(x), self.rate, inplace=False, training=self.training,)
                    if self.rate:
                        x = nn.functional.dropout(x, p=self.rate, training=self.training)
                    x = self.hold(x + 1, 0.2, training=self.training)
                    return self.step(x)

                def step(self, x):
                    mask = F.dropout(x, self.rate, self.training)
                    x = F.dropout(x, self.rate, training=self.training)
                    return F.dropout(
                        mask * x,
                        p=self.rate,  # as in the paper
                        training=self.training,
                    )
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            def attend(query, key, dropout=None):
                weights = (query @ key).softmax(-1)
                if dropout is not None:
                    weights = F.dropout(weights, p=dropout)  # DRP201
                return weights

            def embed(table, rows, rate=0.1, training=True):
                return F.embedding(rows, F.dropout(table, rate, training))

            class Attention(nn.Module):
                def __init__(self, table, rate):
                    super().__init__()
                    self.rate = rate
                    self.table = table

                def forward(self, rows, key):
                    rows = embed(self.table, rows)  # DRP201
                    return attend(rows, key, self.rate)
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Guarded(nn.Module):
                def __init__(self, rate, block):
                    super().__init__()
                    self.rate, self.block = rate, block
                    self.layer = lambda x: F.dropout(x, 0.1, self.training)

                @property
                def active_rate(self):
                    return self.rate if self.training else 0.0

                def forward(self, x, deterministic=False, targets=None, **options):
                    if self.training and self.rate > 0:
                        x = F.dropout(x, self.rate)
                    x = F.dropout(x + 1, p=self.rate if self.training else 0)
                    x = F.dropout(x + 1, p=self.active_rate)
                    x = F.dropout(x, p=0.0)
                    x = F.dropout(x + 1, self.rate, training=self.block.training)
                    x = F.dropout(x + 1, **options)
                    x = F.dropout(x + 1, 0.2, training=not deterministic)
                    x = F.dropout(x + 1) if not deterministic else x
                    if targets is not None:
                        x = F.dropout(x + 1, self.rate)
                    x = self.mix(x + 1)
                    rate = self.rate
                    if not self.training:
                        rate = 0
                    x = F.dropout(x + 1, rate)
                    x = weigh(x + 1, self.rate if self.training else 0.0)
                    if not self.training:
                        return x
                    return F.dropout(x + 1, self.rate)

                def mix(self, x):
                    return self.noisy(x) if self.training else x

                def noisy(self, x):
                    return F.dropout(x, self.rate)

                def training_step(self, batch):
                    return F.dropout(batch, self.rate)

            def weigh(x, rate):
                return F.dropout(x, rate)

            def unseen(x, rate=0.0):
                return F.dropout(x, rate)
            """,
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            class Prenet(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.5)

            class Sampler(nn.Module):
                '''Monte-Carlo dropout: every call is one sample of the posterior.'''

                def forward(self, x):
                    return F.dropout(x, 0.5)

            class Noisy(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.5)  # stays on at test time for diversity

            class AlwaysOn(nn.Module):
                def __init__(self, eval_dropout=False):
                    super().__init__()
                    self.eval_dropout = eval_dropout

                def forward(self, x):
                    return F.dropout(x, 0.5)

            def test_dropout_drops():
                class Net(nn.Module):
                    def forward(self, x):
                        return F.dropout(x, 0.5)

                assert Net()

            y = F.dropout(Prenet(), 0.5)
            """,
        ),
        Example(
            """
            from functools import partial

            from .layers import Drop, SharedBase, attend, drop, half, noise, settle
            from . import layers

            class Net(SharedBase):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = partial(drop, p=0.2)
                    self.layer = Drop()

                def forward(self, x):
                    x = self.layer(x)  # DRP201
                    x = self.layer(x + 1, not self.training)
                    x = drop(x, self.rate)  # DRP201
                    x = noise(x, rate=self.rate)  # DRP201
                    x = layers.relay(x, self.rate)  # DRP201
                    x = half(x + 1)  # DRP201
                    x = self.drop(x * 2)  # DRP201
                    x = self.dropped(x - 1)  # DRP201
                    x = drop(x, 0.0)
                    x = drop(x + 1, self.rate, self.training)
                    x = noise(x + 1, self.rate, deterministic=not self.training)
                    x = half(x + 2, training=self.training)
                    if self.training:
                        x = drop(x + 1, self.rate)
                        x = self.dropped(x)
                    return settle(attend(x, 0.0), self.rate)
            """,
            fixed="""
            from functools import partial

            from .layers import Drop, SharedBase, attend, drop, half, noise, settle
            from . import layers

            class Net(SharedBase):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate
                    self.drop = partial(drop, p=0.2)
                    self.layer = Drop()

                def forward(self, x):
                    x = self.layer(x, deterministic=not self.training)
                    x = self.layer(x + 1, not self.training)
                    x = drop(x, self.rate, training=self.training)
                    x = noise(x, rate=self.rate, deterministic=not self.training)
                    x = layers.relay(x, self.rate, train=self.training)
                    x = half(x + 1, training=self.training)
                    x = self.drop(x * 2, training=self.training)
                    x = self.dropped(x - 1, training=self.training)
                    x = drop(x, 0.0)
                    x = drop(x + 1, self.rate, self.training)
                    x = noise(x + 1, self.rate, deterministic=not self.training)
                    x = half(x + 2, training=self.training)
                    if self.training:
                        x = drop(x + 1, self.rate)
                        x = self.dropped(x)
                    return settle(attend(x, 0.0), self.rate)
            """,
            others={
                "layers.py": """
                from functools import partial

                import torch.nn as nn
                import torch.nn.functional as F

                def drop(x, p=0.5, training=True):
                    return F.dropout(x, p, training)

                def noise(x, rate, deterministic=False):
                    if deterministic or rate == 0:
                        return x
                    return F.dropout(x, rate)

                def relay(x, rate, train=True):
                    return drop(x, rate, training=train)

                half = partial(drop, p=0.5)

                def attend(x, rate=0.0, training=True):
                    return F.dropout(x.softmax(-1), rate, training=training)

                def settle(x, rate, training=False):
                    return F.dropout(x, rate, training=training)

                class Drop(nn.Module):
                    def forward(self, x, deterministic=False):
                        return F.dropout(x, 0.1, training=not deterministic)

                class SharedBase(nn.Module):
                    def dropped(self, x, training=True):
                        return F.dropout(x, 0.1, training)
                """
            },
        ),
        Example(
            """
            import torch.nn as nn
            import torch.nn.functional as F

            def bare(x, rate):
                return F.dropout(x, rate)  # DRP201

            def gated(x, rate):
                return F.dropout(x, rate)

            def silent(x, rate=0.0):
                return F.dropout(x, rate)

            class Base(nn.Module):
                def thinned(self, x):
                    return F.dropout(x, 0.3)

                def random(self, x):
                    return F.dropout(x, 0.3)  # DRP201

            class Noise(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.3)

            class Loud(nn.Module):
                def forward(self, x):
                    return F.dropout(x, 0.3)  # DRP201
            """,
            others={
                "net.py": """
                from .example import Base, Loud, Noise, bare, gated, silent

                class Net(Base):
                    def __init__(self, rate):
                        super().__init__()
                        self.rate = rate
                        self.noise = Noise() if rate else None
                        self.loud = Loud()

                    def forward(self, x):
                        if self.training:
                            x = self.thinned(gated(x, self.rate))
                            x = self.noise(self.loud(x))
                        x = self.loud(x)
                        x = gated(x + 1, self.rate if self.training else 0.0)
                        return self.random(bare(silent(x), self.rate))  # dropout
                """
            },
        ),
        Example(
            """
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Classifier(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.head = nn.Linear(64, 2)

                def forward(self, x):
                    x = F.dropout(torch.relu(self.fc(x)), p=0.3)  # DRP201
                    return self.head(x)

            model, batch = Classifier(), torch.randn(64, 16)
            """,
            fixed="""
            import torch
            import torch.nn as nn
            import torch.nn.functional as F

            class Classifier(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(16, 64)
                    self.head = nn.Linear(64, 2)

                def forward(self, x):
                    x = F.dropout(torch.relu(self.fc(x)), p=0.3, training=self.training)
                    return self.head(x)

            model, batch = Classifier(), torch.randn(64, 16)
            """,
            live=("DRP201",),
        ),
    ),
)


@rule.in_source(cst.Call)
def call_without_mode(call: cst.Call, source: Source) -> Iterator[Report]:
    """A functional dropout in code that runs in evaluation, and no word of the mode."""
    drop = functional_dropout(source, call)
    if drop is None or drop.name in NEVER_ON:
        return
    why = _defect(source, drop)
    if not why or is_zero(source, drop.rate) or _is_guarded(source, call, drop.rate):
        return
    about = _unless_gated(source, call)
    if not runs_in_eval(source, call, drop.rate):
        about = _where_called(source, call)
        if why != "missing" or not about:
            return
    yield Report(
        call,
        _message(source, drop, why),
        _changes(source, drop),
        title="Pass the module's mode",
        about=about,
    )


@rule.in_source(cst.FunctionDef)
def helper_left_on(function: cst.FunctionDef, source: Source) -> Iterator[Report]:
    """A call of a helper that is on by default and hands its flag to a functional dropout."""
    if source.function_of(function) is not None:
        return
    flag = forwards_flag(source, function)
    if flag is None:
        return
    name = function.name.value
    for call in exact_callers(source, function):
        if source.has_star(call) or source.modes.call_guarded(call):
            continue
        if source.modes.on_purpose(call) or source.modes.in_test(call):
            continue
        if flag.passed(source, call) is not None or not runs_in_eval(source, call, None):
            continue
        changes = _added(source, call, flag.name)
        yield Report(call, _left_on(name, flag.name), changes, title="Pass the module's mode")


@rule.in_source(cst.Call)
def call_of_function(call: cst.Call, source: Source) -> Iterator[Report]:
    """A call in code that runs in evaluation, with no word of the mode: what does it run?"""
    about = outgoing_call(source, call)
    if not about:
        return
    title, message = "Pass the module's mode", dotted_text(call.func)
    if runs_with_its_rates(source, call):
        helper = source.definition(call.func)
        if not isinstance(helper, cst.FunctionDef) or forwards_flag(source, helper) is None:
            changes = _added(source, call, "training")
            yield Report(call, message, changes, title=title, about=("call", "", *about))
    elif "drop" in source.text(call).lower() and (inside := _where_called(source, call)):
        yield Report(call, message, title=title, about=("call", inside[1], *about))


@rule.in_project
def wrapper_left_on(project: Project) -> Iterator[Finding]:
    """Wrappers of a functional dropout that are not told the mode, wherever they are defined."""
    wrappers = Wrappers(project.resolver)
    reached, waiting = set(), []
    for claim in project.claims(rule.code):
        path, what = claim.finding.where.path, claim.about[0]
        if what == "unless":
            if not callers_hear(project.resolver, FunctionRef(path, claim.about[1])):
                yield claim.finding
        elif what == "inside":
            waiting.append((FunctionRef(path, claim.about[1]), claim.finding))
        elif (found := called(wrappers, path, claim.about[2:])) is not None:
            ref, passed = found
            for drop in wrappers.drops(ref):
                if drop.kind != "dropout" or passed.is_zero(drop.rate):
                    continue
                if drop.flag is None:
                    if not claim.about[1]:
                        reached.add(drop.place)
                elif not passed.given(drop.flag.name, drop.flag.position):
                    inside = claim.about[1]
                    finding = _told(claim.finding, drop.flag, in_module=not inside)
                    if inside:
                        waiting.append((FunctionRef(path, inside), finding))
                    else:
                        yield finding
    others = [path for path in project.files if path not in project.reported]
    layers = Layers(project.resolver)
    for place, finding in waiting:
        if place in reached or is_reached(wrappers, layers, place, others):
            yield finding


def _told(finding: Finding, flag: Flag, *, in_module: bool) -> Finding:
    """A claim about a call as the finding that it does not pass `flag`."""
    fix = finding.fix
    if fix is not None:
        edits = tuple(replace(e, text=f", {flag.name}={flag.value}") for e in fix.edits)
        fix = replace(fix, edits=edits)
    cure = "" if in_module else "pass on the mode of the module that calls this"
    message = _left_on(finding.message, flag.name, flag.value, cure)
    return replace(finding, message=message, fix=fix)


def _left_on(name: str, flag: str, value: str = "self.training", cure: str = "") -> str:
    default = not value.startswith("not ")
    return (
        f"`{name}` drops with `{flag}={default}` unless told otherwise, so this call keeps "
        f"dropping after `eval()`; {cure or f'pass `{flag}={value}`'}"
    )


def _unless_gated(source: Source, call: cst.Call) -> tuple[str, ...]:
    """What to ask of a drop in a method that this file does not call: others may test the mode."""
    method = source.method_of(call)
    if method is None or method.name.value == "__init__":
        return ()
    entry = method.name.value in ("forward", "__call__")
    return ("unless", qualified(source, method)) if entry or not source.callers(method) else ()


def _where_called(source: Source, call: cst.Call) -> tuple[str, ...]:
    """What to ask of a drop in a function that no module of this file calls: others may."""
    function = source.function_of(call)
    if function is None or source.class_of(call) is not None:
        return ()
    outer = source.function_of(function) is None
    return ("inside", function.name.value) if outer else ()


def _defect(source: Source, drop: Drop) -> str:
    """What is wrong with the flag; empty where it is right, unknown or another rule's matter."""
    if drop.training is None:
        return "missing" if drop.complete and not is_mode(source, drop.rate) else ""
    if holds_in_eval(source, drop.training):
        return "inverted"
    if is_constant_true(source, drop.training) and passes_mode_nearby(source, drop):
        return "literal"
    return ""


def _is_guarded(source: Source, call: cst.Call, rate: cst.BaseExpression | None) -> bool:
    modes = source.modes
    if modes.guards(call) or modes.decides(rate):
        return True
    return modes.on_purpose(call) or modes.in_test(call)


def _message(source: Source, drop: Drop, why: str) -> str:
    default = None if drop.name in MULTI_HEAD else 0.5
    share = percent(source, drop.rate, default)
    what = "attention weights" if drop.name in MULTI_HEAD else "activations"
    effect = f": {share} of the {what} are zeroed at random in every prediction" if share else ""
    cause = {
        "missing": "pass `training=self.training`",
        "literal": "its `training` is always True where a call beside it passes the mode",
        "inverted": f"its `training` is `{_flag(source, drop)}`, which is true then",
    }[why]
    if why == "missing" and not self_in_scope(source, drop.call):
        cause = "pass the mode of the module that calls this"
    return f"`{drop.shown}` keeps dropping after `eval()`{effect}; {cause}"


def _flag(source: Source, drop: Drop) -> str:
    return "" if drop.training is None else " ".join(source.text(drop.training).split())


def _changes(source: Source, drop: Drop) -> tuple[Change, ...]:
    if not self_in_scope(source, drop.call):
        return ()
    if drop.training is None:
        return _added(source, drop.call, "training")
    if any(a.value is drop.training for a in drop.call.args):
        return (Change(drop.training, "replace", "self.training"),)
    return ()


def _added(source: Source, call: cst.Call, flag: str) -> tuple[Change, ...]:
    if not call.args or not self_in_scope(source, call):
        return ()
    return (Change(call.args[-1].value, "after", f", {flag}=self.training"),)


@rule.in_trace
def active_in_eval(trace: Trace) -> Iterator[Observation]:
    """A function that drops although the module around the call is in eval mode."""
    for site in evidence(trace):
        if mode_code(site) == "DRP201":
            yield site.observe(
                f"{site.name} drops in eval mode, where it should return its input: "
                f"{eval_figures(site)}",
                **eval_counts(site),
            )
