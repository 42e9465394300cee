"""
A model that is traced or exported while it is in training mode.

## What it does

Reports `torch.jit.trace`, `torch.export.export`, `torch.onnx.dynamo_export` and
`torch.onnx.export(..., dynamo=True)` of a model that the same function or script has built and
never put in eval mode, where the model has dropout or batch normalization inside.

## Why is this bad

A trace records what the model did, not what it would do in another mode: dropout is baked into the
graph, and so are the statistics of the batch. The exported model drops units in production, gives
another answer on every call, and `eval()` on it changes nothing.

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

## Fix safety

The fix calls `eval()` on the line before. It is unsafe: the exported graph is another one, which is
its purpose.

## Not seen

Models that come in as arguments or attributes, and models of libraries that are not known by name.
`torch.jit.script` keeps the switch, and `torch.onnx.export` without `dynamo=True` switches the
model itself unless it is told otherwise: both are left alone.

## References

- [torch.jit.trace](https://docs.pytorch.org/docs/stable/generated/torch.jit.trace.html)
- [torch.export](https://docs.pytorch.org/docs/stable/export.html)
- [torch.onnx](https://docs.pytorch.org/docs/stable/onnx.html)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from dropaudit.catalogue import Example, Rule
from dropaudit.findings import Severity
from dropaudit.static.localmode import Mode, built_value, mode_at
from dropaudit.static.modelayers import mode_layers
from dropaudit.static.source import Change, Report, Source, is_name
from dropaudit.static.walk import descend

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
    ),
    requires=(r"\btorch\b", r"\b(?:jit|export|onnx)\b"),
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
            from torch import nn
            from torchvision import models
            from other import prepare

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
                prepare(model)
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

            def test_trace(x):
                model = Net()
                assert torch.jit.trace(model, x)
            """
        ),
    ),
)

_TRACES = {
    "torch.jit.trace": "func",
    "torch.jit.trace_module": "mod",
    "torch.export.export": "mod",
    "torch.onnx.export": "model",
    "torch.onnx.dynamo_export": "model",
}
_FOR_TRAINING = re.compile(
    r"train(ing|able)?_?(graph|trace|traced|export|jit|step)|(export|trace|jit|graph)\w*train|qat"
    r"|quanti|benchmark|profile|flops|visuali|tensorboard",
    re.IGNORECASE,
)


@rule.in_source(cst.Call)
def traced_while_training(call: cst.Call, source: Source) -> Iterator[Report]:
    """The model is built in this function or script, and nothing on the way puts it in eval."""
    name = source.name_of(call.func)
    if name not in _TRACES or _is_meant(call, name, source):
        return
    given = source.argument(call, _TRACES[name], 0)
    if given is None:
        return
    model, value = given.value, given.value
    if isinstance(model, cst.Name):
        built = built_value(source, model, call)
        if built is None or mode_at(source, model, call) not in (Mode.FRESH, Mode.TRAIN):
            return
        value = built
    if not isinstance(value, cst.Call) or _is_switched(value) or _is_loaded(source, value):
        return
    inside = mode_layers(source, value)
    if inside:
        shown = model.value if isinstance(model, cst.Name) else "the model"
        shown = f"`{shown}`" if isinstance(model, cst.Name) else shown
        yield Report(
            call,
            f"{shown} is in training mode when `{name}` records it: its {inside} is baked into "
            "the graph",
            _eval_before(call, model, source),
            title="Put the model in eval mode",
        )


def _is_meant(call: cst.Call, name: str, source: Source) -> bool:
    """Whether a training graph is wanted, or the export switches the mode by itself."""
    if name == "torch.onnx.export":
        dynamo = source.argument(call, "dynamo")
        if dynamo is None or not is_name(dynamo.value, "True"):
            return True
    if source.argument(call, "training") is not None or source.modes.in_test(call):
        return True
    around = [source.statement_of(call), source.function_of(call)]
    for node in around:
        if isinstance(node, cst.FunctionDef) and _FOR_TRAINING.search(node.name.value):
            return True
        if isinstance(node, cst.Assign) and any(
            _FOR_TRAINING.search(source.text(t.target)) for t in node.targets
        ):
            return True
    return any(
        re.search(r"prepare_qat|add_graph|move_exported_model_to_eval", n)
        for n in source.calls_by_name
    )


def _is_switched(value: cst.Call) -> bool:
    """Whether the construction ends in eval mode: `Net().to(device).eval()`."""
    return any(
        isinstance(n, cst.Call)
        and isinstance(n.func, cst.Attribute)
        and n.func.attr.value in ("eval", "train")
        for n in descend(value)
    )


def _is_loaded(source: Source, value: cst.Call) -> bool:
    """Whether the model comes from a call that gives it in eval mode, or may."""
    return any(
        isinstance(n, cst.Call)
        and re.search(r"(^|[._])(from_pretrained|load\w*)$", source.text(n.func))
        for n in descend(value)
    )


def _eval_before(call: cst.Call, model: cst.BaseExpression, source: Source) -> tuple[Change, ...]:
    statement = source.statement_of(call)
    line = source.parents.get(statement)
    if not isinstance(model, cst.Name) or not isinstance(line, cst.SimpleStatementLine):
        return ()
    if line.body[0] is not statement:
        return ()
    step = source.module.default_indent
    blocks = [a for a in source.ancestors(line) if isinstance(a, cst.IndentedBlock)]
    indent = "".join(step if b.indent is None else b.indent for b in reversed(blocks))
    text = f"{model.value}.eval(){source.module.default_newline}{indent}"
    return (Change(statement, "before", text),)
