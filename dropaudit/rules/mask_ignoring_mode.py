"""A hand-written dropout mask that is applied in evaluation too.

## What it does
Finds random masks over activations in the forward of a Module, and calls of helpers that draw
them, that no test of the mode reaches: not in the function, not around the call, and not in the
callers that the file shows. Such a helper may stand in another file. Random subsets of edges or
layers count where they are dropped.

## Why is this bad
`model.eval()` switches off `nn.Dropout`; it cannot switch off a mask that the code draws itself.
Evaluation is then random: two passes over the same input differ, and predictions are worse.

## Example
```python
class EmbeddingDropout(nn.Module):
    def forward(self, x):
        mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p) / (1 - self.p)
        return mask * x
```

## Use instead
Test `self.training` before the mask is drawn, or let `nn.Dropout` or `F.dropout` draw it.

```python
class EmbeddingDropout(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p) / (1 - self.p)
        return mask * x
```

## Fix safety
The fix returns early in evaluation, or hands `self.training` to a helper that takes the mode. It
changes what evaluation computes, on purpose, so it is unsafe.

## Not seen
Modules whose callers are in another file are taken to be gated there, unless the mask stands in a
forward. Classes named for Monte-Carlo dropout and the like drop on purpose; add others
to `always-on`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Observation, Rule
from dropaudit.findings import Finding
from dropaudit.rules.unscaled_mask import DRAWS
from dropaudit.runtime.evidence import evidence
from dropaudit.runtime.modes import eval_counts, eval_figures, mode_code
from dropaudit.runtime.trace import Trace
from dropaudit.static.maskmodes import (
    calls_in_every_mode,
    dropping_helpers,
    masks_in_every_mode,
)
from dropaudit.static.maskrepairs import gated
from dropaudit.static.names import dotted_text
from dropaudit.static.outgoing import outgoing_call, qualified
from dropaudit.static.program.answering import called
from dropaudit.static.program.hearing import callers_hear
from dropaudit.static.program.project import Project
from dropaudit.static.program.resolve import FunctionRef
from dropaudit.static.program.wrappers import Flag, Wrappers
from dropaudit.static.reach import self_in_scope
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP216",
    "mask-ignoring-mode",
    __doc__,
    triggers=(*DRAWS, "(?i:drop)"),  # the second for calls of what another file defines
    examples=(
        Example(
            """
            import torch
            from torch import nn

            class EmbeddingDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p)  # DRP216
                    return mask.expand_as(x) / (1 - self.p) * x
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            class EmbeddingDropout(nn.Module):
                def __init__(self, p):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    if not self.training:
                        return x
                    mask = torch.empty(x.size(1), 1).bernoulli_(1 - self.p)
                    return mask.expand_as(x) / (1 - self.p) * x
            """
        ),
        Example(
            """
            import random

            import torch
            from torch import nn

            def drop_path(x, drop_prob):
                if drop_prob > 0.0:
                    keep_prob = 1.0 - drop_prob
                    mask = x.new_empty(x.size(0), 1, 1, 1).bernoulli_(keep_prob)
                    x = x / keep_prob * mask
                return x

            def scaled_dropout(x, p, training=True):
                if not training:
                    return x
                return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)

            class Block(nn.Module):
                def forward(self, x):
                    x = x + drop_path(self.attention(x), self.drop_prob)  # DRP216
                    return scaled_dropout(x, self.p)  # DRP216

            class Encoder(nn.Module):
                def forward(self, x):
                    for layer in self.layers:
                        if random.random() < self.layerdrop:  # DRP216
                            continue
                        x = layer(x)
                    return x

            class SampledEdges(nn.Module):
                def __init__(self, keep_edges):
                    super().__init__()
                    self.conv = nn.Linear(8, 8)
                    self.keep_edges = keep_edges

                def forward(self, x, edge_index):
                    chosen = torch.rand(edge_index.shape[1]) < self.keep_edges  # DRP216
                    return self.conv(x, edge_index[:, chosen])

            class FixedDropout(nn.Module):
                def __init__(self, hidden_size, p):
                    super().__init__()
                    self.mask = torch.bernoulli(torch.full((1, hidden_size), 1 - p))  # DRP216
                    self.p = p

                def forward(self, x):
                    return x * self.mask / (1 - self.p)

            class NaiveDropout(nn.Module):
                def forward(self, x):
                    mask = torch.rand(x.shape) > self.p  # DRP216
                    return x * mask  # DRP101
            """
        ),
        Example(
            """
            import torch
            from torch import nn

            def drop_path(x, drop_prob):
                keep_prob = 1.0 - drop_prob
                mask = x.new_empty(x.size(0), 1, 1, 1).bernoulli_(keep_prob)
                return x / keep_prob * mask

            def scaled_dropout(x, p, training=True):
                if not training:
                    return x
                return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)

            class Block(nn.Module):
                def forward(self, x):
                    if self.training and self.drop_prob > 0:
                        x = drop_path(x, self.drop_prob)
                    rate = self.rate if self.training else 0.0
                    x = drop_path(x, rate)
                    return scaled_dropout(x, self.p, self.training)

            class Helper(nn.Module):
                def _dropped(self, x):
                    mask = torch.rand_like(x) > self.drop_rate
                    return x * mask / (1 - self.drop_rate)

                def forward(self, x):
                    return self._dropped(x) if self.training else x

            class DrawnAlways(nn.Module):
                def forward(self, x):
                    mask = torch.rand_like(x) > self.drop_rate
                    if self.training:
                        x = x * mask / (1 - self.drop_rate)
                    return x

            class MCDropout(nn.Module):
                def forward(self, x):
                    return x * (torch.rand_like(x) > self.p) / (1 - self.p)

            class WithFlag(nn.Module):
                def forward(self, x, deterministic=False):
                    keep = 1.0 if deterministic else 1 - self.drop_rate
                    return x * torch.bernoulli(torch.full_like(x, keep)) / keep

            class RandomErasing(nn.Module):
                def forward(self, image):
                    return image * (torch.rand_like(image) > self.p)

            class Encoder(nn.Module):
                def forward(self, x):
                    for layer in self.layers:
                        skipped = torch.rand(1) < self.layerdrop
                        if not self.training or not skipped:
                            x = layer(x)
                    return x
            """
        ),
        Example(
            """
            from torch import nn
            from .layers import drop_path, scaled_dropout

            class Block(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    x = x + drop_path(x * 2, self.rate)  # DRP216
                    x = scaled_dropout(x, self.rate)  # DRP216
                    x = scaled_dropout(x * 2, self.rate, self.training)
                    x = drop_path(x * 2, self.rate if self.training else 0.0)
                    if self.training:
                        x = drop_path(x * 2, self.rate)
                    return drop_path(x * 2)
            """,
            fixed="""
            from torch import nn
            from .layers import drop_path, scaled_dropout

            class Block(nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    x = x + drop_path(x * 2, self.rate)
                    x = scaled_dropout(x, self.rate, training=self.training)
                    x = scaled_dropout(x * 2, self.rate, self.training)
                    x = drop_path(x * 2, self.rate if self.training else 0.0)
                    if self.training:
                        x = drop_path(x * 2, self.rate)
                    return drop_path(x * 2)
            """,
            others={
                "layers.py": """
                import torch

                def drop_path(x, drop_prob=0.0):
                    if drop_prob > 0.0:
                        keep_prob = 1.0 - drop_prob
                        mask = x.new_empty(x.size(0), 1, 1, 1).bernoulli_(keep_prob)
                        x = x / keep_prob * mask
                    return x

                def scaled_dropout(x, p, training=True):
                    if not training:
                        return x
                    return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)
                """
            },
        ),
        Example(
            """
            import torch
            import torch.nn as nn

            class EmbeddingDropout(nn.Module):
                def __init__(self, p=0.2):
                    super().__init__()
                    self.p = p

                def forward(self, x):
                    mask = torch.rand_like(x) >= self.p  # DRP216
                    return x * mask / (1 - self.p)

            model, batch = nn.Sequential(nn.Linear(16, 64), EmbeddingDropout()), torch.randn(64, 16)
            """,
            live=("DRP216",),
        ),
    ),
)


@rule.in_source(cst.Module)
def check(module: cst.Module, source: Source) -> Iterator[Report]:
    """Report each draw, or call of a helper that draws, that runs in every mode."""
    for node, what, use in masks_in_every_mode(source):
        method = source.method_of(node)
        entry = method is not None and method.name.value == "forward"
        yield Report(
            node,
            f"{what} in every mode: eval() cannot switch it off",
            gated(source, node, use),
            title="Drop in training only",
            about=("unless", qualified(source, method)) if method and entry else (),
        )


@rule.in_source(cst.Module)
def helpers_for_others(module: cst.Module, source: Source) -> Iterator[Report]:
    """The functions with a mask of their own: modules of other files may call them."""
    for function, _ in dropping_helpers(source):
        about = ("helper", qualified(source, function))
        yield Report(function, function.name.value, about=about)


@rule.in_source(cst.Call)
def call_for_others(call: cst.Call, source: Source) -> Iterator[Report]:
    """A call of a function that another file may define, in a forward and in every mode."""
    about = outgoing_call(source, call)
    if not about or source.definition(call.func) is not None or not call.args:
        return
    if "drop" not in f"{source.text(call)} {source.name_of(call.func)}".lower():
        return
    if calls_in_every_mode(source, call):
        change = Change(call.args[-1].value, "after", ", training=self.training")
        yield Report(
            call,
            f"`{dotted_text(call.func)}` drops in every mode: eval() cannot switch it off",
            (change,) if self_in_scope(source, call) else (),
            title="Drop in training only",
            about=("call", *about),
        )


@rule.in_project
def helper_in_every_mode(project: Project) -> Iterator[Finding]:
    """Masks of modules whose callers leave the mode to them; calls of helpers of other files."""
    wrappers = Wrappers(project.resolver)
    helpers, calls = set(), []
    for claim in project.claims(rule.code):
        ref = FunctionRef(claim.finding.where.path, claim.about[1])
        if claim.about[0] == "helper":
            helpers.add(ref)
        elif claim.about[0] == "call":
            calls.append(claim)
        elif not callers_hear(project.resolver, ref):
            yield claim.finding
    for claim in calls:
        found = called(wrappers, claim.finding.where.path, claim.about[1:])
        if found is None:
            continue
        ref, passed = found
        for drop in wrappers.drops(ref):
            if drop.place.path in project.reported and drop.place not in helpers:
                continue
            if drop.kind != "mask" or passed.is_zero(drop.rate):
                continue
            if drop.flag is None or not passed.given(drop.flag.name, drop.flag.position):
                yield _told(claim.finding, drop.flag)
                break


def _told(finding: Finding, flag: Flag | None) -> Finding:
    """The finding with a fix that hands over the flag; without any where there is none."""
    if finding.fix is None or flag is None:
        return replace(finding, fix=None)
    edits = tuple(replace(e, text=f", {flag.name}={flag.value}") for e in finding.fix.edits)
    return replace(finding, fix=replace(finding.fix, edits=edits))


@rule.in_trace
def mask_active_in_eval(trace: Trace) -> Iterator[Observation]:
    """A mask of the module's own that is applied in eval mode too."""
    for site in evidence(trace):
        if mode_code(site) == "DRP216":
            yield site.observe(
                f"{site.name} applies a random mask in eval mode, where it should return its "
                f"input: {eval_figures(site)}",
                **eval_counts(site),
            )
