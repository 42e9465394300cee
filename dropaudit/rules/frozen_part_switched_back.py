"""
A frozen part of a model that the first `train()` switches back to training mode.

## What it does

Reports an attribute of a module that the constructor freezes and puts in eval mode, where the
part has dropout or batch normalization inside and the class does not override `train`.

## Why is this bad

`eval()` in a constructor lasts until somebody calls `model.train()`, which switches every child,
frozen or not. From then on the part drops units and normalizes with the statistics of the batch,
and its running averages drift, although no optimizer touches it: the features that were meant to
be fixed are random, and at evaluation they are others. `torch.no_grad()` changes none of that.

## Example

```python
class Captioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torchvision.models.resnet50(weights="DEFAULT")
        self.backbone.requires_grad_(False)
        self.backbone.eval()
```

## Use instead

Override `train` so that the frozen part goes back to eval mode whenever the model is switched.

```python
    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self
```

## Fix safety

The fix adds such a `train` at the end of the class. It is unsafe: the part then acts otherwise in
training, which is its purpose.

## Not seen

Parts that come in as arguments, models of libraries that are not known by name, classes that only
predict, and parts that some file of the program puts in eval mode (`model.backbone.eval()` after
`model.train()`). Lightning modules are left alone: from 2.2 on, Lightning keeps the mode of each
part.

## References

- [torch.nn.Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Finding, Severity
from dropaudit.static.facts import ClassFacts
from dropaudit.static.modelayers import builder_of, mode_layers
from dropaudit.static.names import dotted_text
from dropaudit.static.outgoing import qualified
from dropaudit.static.pinned import Constructor, Part, is_kept
from dropaudit.static.program.callers import Callers
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.pinning import pinned_elsewhere
from dropaudit.static.program.project import Project
from dropaudit.static.program.resolve import ClassRef, FunctionRef
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP212",
    "frozen-part-switched-back",
    __doc__,
    severity=Severity.WARNING,
    triggers=(r"\.\s*eval\s*\(\s*\)", r"\.\s*train\s*\(\s*(?:mode\s*=\s*)?False\s*\)"),
    requires=(r"requires_?grad|[fF]reez|no_grad|inference_mode", r"__init__"),
    examples=(
        Example(
            """
            import torch
            import torchvision
            from torch import nn
            from transformers import BertModel

            class Block(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Captioner(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = torchvision.models.resnet50(weights="DEFAULT")  # DRP212
                    for parameter in self.backbone.parameters():
                        parameter.requires_grad = False
                    self.backbone.eval()
                    self.head = nn.Linear(dim, dim)

                def forward(self, x):
                    return self.head(self.backbone(x))

            class Tagger(nn.Module):
                def __init__(self, name, dim):
                    super().__init__()
                    self.bert = BertModel.from_pretrained(name).eval()  # DRP212
                    self.teacher = Block(dim)  # DRP212
                    self._freeze()
                    self.head = nn.Linear(768, dim)

                def _freeze(self):
                    self.teacher.requires_grad_(False).eval()

                def forward(self, ids):
                    with torch.no_grad():
                        states = self.bert(ids)[0]
                    return self.head(states)
            """,
            fixed="""
            import torch
            import torchvision
            from torch import nn
            from transformers import BertModel

            class Block(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.fc = nn.Linear(dim, dim)
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Captioner(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = torchvision.models.resnet50(weights="DEFAULT")
                    for parameter in self.backbone.parameters():
                        parameter.requires_grad = False
                    self.backbone.eval()
                    self.head = nn.Linear(dim, dim)

                def forward(self, x):
                    return self.head(self.backbone(x))

                def train(self, mode=True):
                    super().train(mode)
                    self.backbone.eval()
                    return self

            class Tagger(nn.Module):
                def __init__(self, name, dim):
                    super().__init__()
                    self.bert = BertModel.from_pretrained(name).eval()
                    self.teacher = Block(dim)
                    self._freeze()
                    self.head = nn.Linear(768, dim)

                def _freeze(self):
                    self.teacher.requires_grad_(False).eval()

                def forward(self, ids):
                    with torch.no_grad():
                        states = self.bert(ids)[0]
                    return self.head(states)

                def train(self, mode=True):
                    super().train(mode)
                    self.bert.eval()
                    self.teacher.eval()
                    return self
            """,
        ),
        Example(
            """
            import torch
            import torchvision.models as models
            from torch import nn

            class Pinned(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50().eval().requires_grad_(False)
                    self.head = nn.Linear(dim, dim)

                def train(self, mode=True):
                    super().train(mode)
                    self.backbone.eval()
                    return self

            class SwitchedInForward(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50().eval().requires_grad_(False)
                    self.head = nn.Linear(dim, dim)

                def forward(self, x):
                    self.backbone.eval()
                    return self.head(self.backbone(x))

            class PinsItself(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50().eval().requires_grad_(False)
                    self.backbone.train = lambda mode: self.backbone
                    self.head = nn.Linear(dim, dim)

            class NoModeLayers(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.features = models.vgg16(pretrained=True).features[:16].eval()
                    self.projection = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0)).eval()
                    self.requires_grad_(False)
                    self.head = nn.Linear(dim, dim)

            class TriedOnce(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50()
                    self.backbone.eval()
                    with torch.no_grad():
                        width = self.backbone(torch.zeros(1, 3, 64, 64)).shape[1]
                    self.backbone.train()
                    self.head = nn.Linear(width, dim)

            class Trained(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50().eval()
                    self.head = nn.Linear(dim, dim)

                def forward(self, x):
                    return self.head(self.backbone(x))

            class SwitchedByHand(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = models.resnet50().eval().requires_grad_(False)
                    self.head = nn.Linear(dim, dim)

                def to_train(self):
                    self.head.train()

                def forward(self, x):
                    return self.head(self.backbone(x))

            class Given(nn.Module):
                def __init__(self, backbone, dim):
                    super().__init__()
                    self.backbone = backbone.eval().requires_grad_(False)
                    self.head = nn.Linear(dim, dim)

            class Extractor(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.backbone = models.resnet50().eval().requires_grad_(False)

                def forward(self, x):
                    return self.backbone(x)
            """
        ),
        Example(
            """
            from torch import nn
            from parts import Base, Dropping, Plain, build, build_plain

            class Tagger(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.teacher = Dropping(0.1).eval().requires_grad_(False)  # DRP212
                    self.plain = Plain().eval().requires_grad_(False)
                    self.switched = Dropping(0.1).eval().requires_grad_(False)
                    self.head = nn.Linear(8, dim)

                def forward(self, x):
                    return self.head(self.switched(self.plain(self.teacher(x))))

            class Pinned(Base):
                def __init__(self, dim):
                    super().__init__()
                    self.part = Dropping(0.1).eval().requires_grad_(False)
                    self.head = nn.Linear(8, dim)

                def forward(self, x):
                    return self.head(self.part(x))

            class Made(nn.Module):
                def __init__(self, dim):
                    super().__init__()
                    self.made = build(0.1)  # DRP212
                    self.made.eval().requires_grad_(False)
                    self.made_plain = build_plain()
                    self.made_plain.eval().requires_grad_(False)
                    self.head = nn.Linear(8, dim)

                def forward(self, x):
                    return self.head(self.made_plain(self.made(x)))
            """,
            others={
                "parts.py": """
                from torch import nn

                class Base(nn.Module):
                    def train(self, mode=True):
                        super().train(mode)
                        self.part.eval()
                        return self

                class Dropping(nn.Module):
                    def __init__(self, rate):
                        super().__init__()
                        self.body = nn.Sequential(nn.Linear(8, 8), nn.Dropout(rate))

                    def forward(self, x):
                        return self.body(x)

                class Plain(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.body = nn.Linear(8, 8)

                    def forward(self, x):
                        return self.body(x)

                def build(rate):
                    return Dropping(rate)

                def build_plain():
                    return Plain()
                """,
                "loop.py": """
                def fit(model, loader):
                    for x in loader:
                        model.train()
                        model.switched.eval()
                        model(x).sum().backward()
                """,
            },
        ),
        Example(
            """
            import pytorch_lightning as pl
            import torchvision
            from torch import nn

            class Classifier(pl.LightningModule):
                def __init__(self, dim):
                    super().__init__()
                    self.backbone = torchvision.models.resnet50().eval().requires_grad_(False)
                    self.head = nn.Linear(2048, dim)
            """
        ),
    ),
)

_LIGHTNING = re.compile(r"^(pytorch_lightning|lightning)(\.|$)")
_USED_ONLY = re.compile(
    r"Predict|Infer|Demo|Translator|Pipeline|Interface|Recogni[sz]er|Exporter|Loss|Criterion|Metric"
    r"|Scorer?$|FID|Trainer|Benchmark"
)


@rule.in_source(cst.ClassDef)
def pinned_only_once(node: cst.ClassDef, source: Source) -> Iterator[Report]:
    """Parts put in eval mode by the constructor alone, in a module that is trained."""
    facts = source.facts(node)
    if not facts.is_module or _is_spared(facts, source):
        return
    constructor = Constructor(facts, source)
    parts = list(constructor.parts())
    open_ = [part for part in parts if not is_kept(constructor, part.name)]
    if not open_ or constructor.is_inference() or not constructor.trains({p.name for p in parts}):
        return
    known = [(part, mode_layers(source, part.value)) for part in open_]
    sure = [part for part, inside in known if inside]
    for part, inside in known:
        builder = builder_of(source, part.value)
        built = dotted_text(builder.func) if isinstance(builder, cst.Call) else ""
        if inside or built:
            shown = inside or "mode layers"
            yield Report(
                builder,
                f"`self.{part.name}` is frozen and put in eval mode only once: the first `train()` "
                f"of `{facts.name}` switches its {shown} on again",
                _override(node, sure if inside else [*sure, part], source),
                title=f"Keep `self.{part.name}` in eval mode",
                about=(qualified(source, node), part.name, _class_of(built), inside),
            )


@rule.in_project
def pinned_nowhere(project: Project) -> Iterator[Finding]:
    """Of those parts, the ones that no other file pins, with something inside that has a mode."""
    claims = project.claims(rule.code)
    layers, callers = Layers(project.resolver), Callers(project.resolver)
    for claim in claims:
        finding, (owner, part, built, inside) = claim.finding, claim.about
        path = finding.where.path
        symbol = project.resolver.resolve(path, built) if built else None
        if isinstance(symbol, (ClassRef, FunctionRef)):
            found = layers.inside(symbol)
            if not found.layer and not (inside and found.unknown):
                continue
            finding = replace(finding, message=finding.message.replace("mode layers", found.layer))
        elif not inside:
            continue
        if not pinned_elsewhere(project.resolver, callers, path, owner, part):
            yield finding


def _class_of(built: str) -> str:
    return built.removesuffix(".from_pretrained")


def _is_spared(facts: ClassFacts, source: Source) -> bool:
    if _USED_ONLY.search(facts.name) or source.modes.in_test(facts.node):
        return True
    imported = (
        b.dotted for s in (source.scopes[source.module],) for bs in s.names.values() for b in bs
    )
    return any(_LIGHTNING.match(name) for name in imported) or any(
        name.endswith("LightningModule") for name in facts.foreign_bases
    )


def _override(node: cst.ClassDef, parts: list[Part], source: Source) -> tuple[Change, ...]:
    body = node.body
    if not isinstance(body, cst.IndentedBlock) or not source.module.has_trailing_newline:
        return ()
    step = source.module.default_indent
    indent = "".join(
        step if b.indent is None else b.indent
        for b in (body, *(a for a in source.ancestors(node) if isinstance(a, cst.IndentedBlock)))
    )
    newline = source.module.default_newline
    lines = [
        f"{indent}def train(self, mode=True):",
        f"{indent}{step}super().train(mode)",
        *(f"{indent}{step}self.{part.name}.eval()" for part in parts),
        f"{indent}{step}return self",
    ]
    text = newline + newline.join(lines) + newline
    return (Change(body.body[-1], "after", text),)
