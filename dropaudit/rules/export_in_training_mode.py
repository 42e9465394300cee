"""
A model that is traced or exported while it is in training mode.

## What it does

Reports `torch.jit.trace`, `torch.export.export`, `torch.onnx.dynamo_export` and
`torch.onnx.export(..., dynamo=True)` of a model that has dropout or batch normalization inside and
that nobody has put in eval mode on the way there from where it was built, in whatever files of the
program. Also reports a functional dropout with `training=self.training` in a class that
`torch.fx.symbolic_trace`, or `to_hetero` of PyTorch Geometric, turns into a graph; where the class
is in another file, the call that makes the graph.

## Why is this bad

A trace records what the model did, not what it would do in another mode: dropout is baked into the
graph, and so are the statistics of the batch. The exported model drops units in production, gives
another answer on every call, and `eval()` on it changes nothing. A graph of torch.fx keeps its
modules, which heed `eval()`, but `self.training` is read once and stays a constant.

## Example

```python
model = Net()
model.load_state_dict(torch.load("net.pt"))
traced = torch.jit.trace(model, example)
```

## Use instead

Call `model.eval()` before the model is traced or exported.

```python
model = Net()
model.load_state_dict(torch.load("net.pt"))
model.eval()
traced = torch.jit.trace(model, example)
```

In a class that is turned into a graph by torch.fx, use an `nn.Dropout` module.

## Fix safety

The fix calls `eval()` on the line before. It is unsafe: the exported graph is another one, which is
its purpose. A functional dropout in a graph has no fix.

## Not seen

Models that come from a call that cannot be followed, that some callers put in eval mode, and models
of libraries that are not known by name. A graph that is made before a backward pass in the same
function or script is taken for one that is to be trained.
`torch.jit.script` keeps the switch, and `torch.onnx.export` without `dynamo=True` switches the
model itself unless it is told otherwise: both are left alone.

## References

- [torch.jit.trace](https://docs.pytorch.org/docs/stable/generated/torch.jit.trace.html)
- [torch.export](https://docs.pytorch.org/docs/stable/export.html)
- [torch.onnx](https://docs.pytorch.org/docs/stable/onnx.html)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Finding, Severity
from dropaudit.static.exports import FOR_TRAINING, constant_modes, exported, graphed, recorded
from dropaudit.static.modelayers import mode_layers
from dropaudit.static.program.callers import calls_in
from dropaudit.static.program.code import Attribute, Name, dotted
from dropaudit.static.program.lexicon import DROPS
from dropaudit.static.program.project import Project
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef
from dropaudit.static.program.verdicts import exports, place, told
from dropaudit.static.record import Claim
from dropaudit.static.source import Change, Report, Source

rule = Rule(
    "DRP215",
    "export-in-training-mode",
    __doc__,
    severity=Severity.WARNING,
    triggers=(
        r"\b(?:trace|trace_module|export|dynamo_export)\s*\(",
        r"\b(?:trace|trace_module|export|dynamo_export)\s+as\b",
        r"\b(?:jit|export|onnx)\s*\.\s*(?:trace|export|dynamo_export)",
        r"=\s*(?:trace|trace_module|export|dynamo_export)\b",
        r"\bsymbolic_trace\b|\bto_hetero",
    ),
    requires=(r"\btorch", r"\b(?:jit|export|onnx|fx|torch_geometric)\b"),
    examples=(
        Example(
            """
            import torch
            import torchvision
            from torch import nn
            from other import init_weights, load_checkpoint

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    return self.drop(self.fc(x))

            def convert(path, device):
                model = Net().to(device)
                model.load_state_dict(torch.load(path))
                with torch.no_grad():
                    traced = torch.jit.trace(model, torch.zeros(1, 8))  # DRP215
                traced.save("net.pt")

            def fit(loader, optimizer):
                model = torchvision.models.resnet18()
                model.apply(init_weights)
                load_checkpoint(model, "net.pt")
                for epoch in range(10):
                    model.train()
                    for x, y in loader:
                        model(x).sum().backward()
                        optimizer.step()
                return torch.export.export(model, (torch.zeros(1, 3, 32, 32),))  # DRP215

            if __name__ == "__main__":
                net = Net()
                torch.onnx.export(net, torch.zeros(1, 8), "net.onnx", dynamo=True)  # DRP215
            """,
            fixed="""
            import torch
            import torchvision
            from torch import nn
            from other import init_weights, load_checkpoint

            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.drop = nn.Dropout(0.1)

                def forward(self, x):
                    return self.drop(self.fc(x))

            def convert(path, device):
                model = Net().to(device)
                model.load_state_dict(torch.load(path))
                with torch.no_grad():
                    model.eval()
                    traced = torch.jit.trace(model, torch.zeros(1, 8))
                traced.save("net.pt")

            def fit(loader, optimizer):
                model = torchvision.models.resnet18()
                model.apply(init_weights)
                load_checkpoint(model, "net.pt")
                for epoch in range(10):
                    model.train()
                    for x, y in loader:
                        model(x).sum().backward()
                        optimizer.step()
                model.eval()
                return torch.export.export(model, (torch.zeros(1, 3, 32, 32),))

            if __name__ == "__main__":
                net = Net()
                net.eval()
                torch.onnx.export(net, torch.zeros(1, 8), "net.onnx", dynamo=True)
            """,
        ),
        Example(
            """
            import torch
            import torch.nn.functional as F
            from torch_geometric.nn import SAGEConv, to_hetero

            class Graph(torch.nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.rate = rate
                    self.first = SAGEConv((-1, -1), dim)
                    self.second = SAGEConv((-1, -1), dim)

                def forward(self, x, edges):
                    x = self.first(x, edges).relu()
                    x = F.dropout(x, p=self.rate, training=self.training)  # DRP215
                    return self.second(x, edges)

            class Modules(torch.nn.Module):
                def __init__(self, dim, rate):
                    super().__init__()
                    self.drop = torch.nn.Dropout(rate)
                    self.first = SAGEConv((-1, -1), dim)

                def forward(self, x, edges):
                    return self.drop(self.first(x, edges))

            class Plain(torch.nn.Module):
                def __init__(self, rate):
                    super().__init__()
                    self.rate = rate

                def forward(self, x):
                    return F.dropout(x, p=self.rate, training=self.training)

            class Typed(torch.nn.Module):
                def __init__(self, metadata, dim, rate):
                    super().__init__()
                    model = Graph(dim, rate)
                    self.model = to_hetero(model, metadata, aggr="sum")
                    self.other = to_hetero(Modules(dim, rate), metadata)
                    self.plain = Plain(rate)

            def inspect():
                model = Plain(0.1)
                model.eval()
                return torch.fx.symbolic_trace(model)
            """,
        ),
        Example(
            """
            import torch
            from torch_geometric.nn import to_hetero
            from torch.fx import symbolic_trace

            from nets import Functional, Modular, Net, Wrapped, evaluate, fit

            def convert(model, x):
                return torch.jit.trace(model, x)  # DRP215

            def convert_judged(model, x):
                return torch.jit.trace(model, x)

            def train_as_graph(model, loader, x):
                model = torch.jit.trace(model, x)
                for inputs in loader:
                    model(inputs).sum().backward()

            def main(loader, x, metadata):
                model = Net(0.1)
                fit(model, loader)
                convert(model, x)
                torch.onnx.export(Wrapped(model), x, "net.onnx", dynamo=True)  # DRP215
                evaluate(model, loader)
                convert_judged(model, x)
                torch.onnx.export(Wrapped(model), x, "net.onnx", dynamo=True)
                train_as_graph(Net(0.1), loader, x)
                to_hetero(Functional(0.1), metadata)  # DRP215
                to_hetero(Modular(0.1), metadata)
                return symbolic_trace(Functional(0.1).eval())
            """,
            others={
                "nets.py": """
                import torch.nn.functional as F
                from torch import nn

                class Net(nn.Module):
                    def __init__(self, rate):
                        super().__init__()
                        self.drop = nn.Dropout(rate)

                    def forward(self, x):
                        return self.drop(x)

                class Wrapped(nn.Module):
                    def __init__(self, inner):
                        super().__init__()
                        self.inner = inner

                    def forward(self, x):
                        return self.inner(x)

                class Functional(nn.Module):
                    def __init__(self, rate):
                        super().__init__()
                        self.rate = rate

                    def forward(self, x):
                        return F.dropout(x, self.rate, training=self.training)

                class Modular(nn.Module):
                    def __init__(self, rate):
                        super().__init__()
                        self.drop = nn.Dropout(rate)

                    def forward(self, x):
                        return self.drop(x)

                def fit(model, loader):
                    model.train()
                    for x in loader:
                        model(x).sum().backward()

                def evaluate(model, loader):
                    model.eval()
                    return [model(x) for x in loader]
                """
            },
        ),
        Example(
            """
            import torch
            from torch import nn
            from torchvision import models
            from other import finish

            class Net(nn.Module):
                def __init__(self, rate=0.1):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.drop = nn.Dropout(rate)

                def forward(self, x):
                    return self.drop(self.fc(x))

            class Plain(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.fc = nn.Linear(8, 8)
                    self.norm = nn.LayerNorm(8)

                def forward(self, x):
                    return self.norm(self.fc(x))

            def validate(model, loader):
                model.eval()
                return [model(x) for x in loader]

            def switched(x):
                model = Net()
                model.eval()
                return torch.jit.trace(model, x), torch.jit.trace(Net().eval(), x)

            def switched_on_a_path(x, fast):
                model = Net()
                if fast:
                    model.eval()
                return torch.jit.trace(model, x)

            def switched_by_a_helper(loader, x):
                model = Net()
                for epoch in range(3):
                    model.train()
                    validate(model, loader)
                return torch.jit.trace(model, x)

            def switched_by_another_name(x):
                encoder = Net()
                decoder = Net()
                for part in (encoder, decoder):
                    part.eval()
                return torch.jit.trace(encoder, x)

            def switched_by_an_alias(x):
                model = Net()
                network = model
                network.eval()
                return torch.jit.trace(model, x)

            def prepared_elsewhere(x):
                model = Net()
                finish(model)
                return torch.jit.trace(model, x)

            def given(model, x):
                return torch.jit.trace(model, x)

            def without_mode_layers(x):
                model = Plain()
                return torch.jit.trace(model, x)

            def scripted():
                model = Net()
                return torch.jit.script(model)

            def exports_that_switch_themselves(x):
                model = models.resnet18()
                torch.onnx.export(model, x, "net.onnx")
                torch.onnx.export(model, x, "net.onnx", dynamo=False)

            def training_graph(x):
                model = Net()
                model.train()
                return torch.export.export(model, (x,))

            def trace_for_training(x):
                model = Net()
                return torch.jit.trace(model, x)

            def trained_as_a_graph(loader, x):
                model = Net()
                model = torch.jit.trace(model, x)
                for inputs in loader:
                    model(inputs).sum().backward()

            def test_trace(x):
                model = Net()
                assert torch.jit.trace(model, x)
            """
        ),
    ),
)


@rule.in_source(cst.Call)
def traced_while_training(call: cst.Call, source: Source) -> Iterator[Report]:
    """The model is built in this function or script, and nothing on the way puts it in eval."""
    whole = exported(source, call)
    if whole is None or source.modes.in_test(call):
        return
    model = recorded(source, call)
    inside = "" if model is None else mode_layers(source, model.built)
    if model is None or not inside:
        shown = f"`{source.text(whole)}`" if isinstance(whole, cst.Name) else "the model"
        yield Report(
            call,
            f"{shown} is in training mode when `{source.name_of(call.func)}` records it",
            _eval_before(call, whole.value if isinstance(whole, cst.Name) else "", source),
            title="Put the model in eval mode",
            about=("exported",),
        )
    else:
        shown = f"`{model.name}`" if model.name else "the model"
        yield Report(
            call,
            f"{shown} is in training mode when `{source.name_of(call.func)}` records it: its "
            f"{inside} is baked into the graph",
            _eval_before(call, model.name, source),
            title="Put the model in eval mode",
        )


@rule.in_source(cst.Call)
def mode_read_by_a_graph(call: cst.Call, source: Source) -> Iterator[Report]:
    """The class of what torch.fx turns into a graph hands `self.training` to a function."""
    name = source.name_of(call.func).rpartition(".")[2]
    for owner, dropout in constant_modes(source, call):
        if not source.modes.in_test(call):
            yield Report(
                dropout,
                f"`{name}` turns `{owner}` into a graph in which `self.training` is a constant: "
                "this dropout stays on in evaluation",
            )


@rule.in_source(cst.Call)
def mode_of_others_read_by_a_graph(call: cst.Call, source: Source) -> Iterator[Report]:
    """As above, for classes of other files: the call is reported."""
    name = source.name_of(call.func).rpartition(".")[2]
    for model in graphed(source, call):
        if not source.modes.in_test(call):
            shown = model.rpartition(".")[2]
            yield Report(
                call,
                f"`{name}` turns `{shown}` into a graph in which `self.training` is a constant: "
                "its functional dropout stays on in evaluation",
                about=("graph", model),
            )


@rule.in_project
def exported_while_training(project: Project) -> Iterator[Finding]:
    """Exports that a model reaches in training mode, whoever built it."""
    claims = project.claims(rule.code)
    asked = {one.finding.where: one.finding for one in claims if one.about == ("exported",)}
    for export in exports(project.sightings) if asked else ():
        finding = asked.get(place(export.at))
        if finding is None or any(FOR_TRAINING.search(s.function) for s in export.way.steps):
            continue
        way = told(export.way, project, export.at.path)
        message = f"{finding.message}{way}, with {export.layer} on: that is baked into the graph"
        yield replace(finding, message=message)
    for claim in claims:
        if claim.about[0] == "graph" and _hands_mode_on(project, claim):
            yield claim.finding


def _hands_mode_on(project: Project, claim: Claim) -> bool:
    """Whether a method of the class hands `self.training` to a functional dropout."""
    resolver = project.resolver
    cls = resolver.imported(claim.finding.where.path, claim.about[1])
    if not isinstance(cls, ClassRef):
        return False
    for method in resolver.class_facts(cls).methods:
        ref = FunctionRef(cls.path, f"{cls.qualified}.{method}")
        for call in calls_in(resolver.function_facts(ref).body):
            symbol = resolver.resolve(cls.path, dotted(call.function))
            if isinstance(symbol, External) and DROPS.search(symbol.dotted):
                flags = [a.value for a in call.arguments if a.name == "training"]
                flags += [a.value for a in call.arguments[2:3] if not a.name]
                if flags and flags[0] == Attribute(Name("self"), "training"):
                    return True
    return False


def _eval_before(call: cst.Call, name: str, source: Source) -> tuple[Change, ...]:
    statement = source.statement_of(call)
    line = source.parents.get(statement)
    if not name or not isinstance(line, cst.SimpleStatementLine) or line.body[0] is not statement:
        return ()
    step = source.module.default_indent
    blocks = [a for a in source.ancestors(line) if isinstance(a, cst.IndentedBlock)]
    indent = "".join(step if b.indent is None else b.indent for b in reversed(blocks))
    text = f"{name}.eval(){source.module.default_newline}{indent}"
    return (Change(statement, "before", text),)
