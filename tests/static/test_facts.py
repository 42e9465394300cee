"""What one file says of its classes."""

from __future__ import annotations

import textwrap

import libcst as cst
import pytest

from dropaudit.static.facts import ClassFacts, builds_dropout
from dropaudit.static.source import Source

HEAD = """
import abc
import torch
import pytorch_lightning as pl
import flax.linen as linen
from torch import nn
from torch.nn import Module as Base
from torch_geometric.nn import MessagePassing
from transformers import PreTrainedModel, PretrainedConfig, Trainer
from .layers import ModelMixin, Anything, SomeBlock, BenchmarkModel, GraphTrainer

class Local(nn.Module):
    pass
"""
FORWARD = "def forward(self, x):\n        return x"
BUILDS = "def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(2, 2)"


def facts_of(body: str, name: str = "") -> ClassFacts:
    """The facts of the class `name`, or of the last one, in a file that starts with HEAD."""
    source = Source("net.py", (HEAD + textwrap.dedent(body)).encode())
    classes = [c for c in source.nodes[cst.ClassDef] if not name or c.name.value == name]
    return source.facts(classes[-1])


@pytest.mark.parametrize(
    "bases",
    [
        "nn.Module",
        "torch.nn.Module",
        "Base",
        "Base, abc.ABC",
        "Local",
        "nn.Sequential",
        "pl.LightningModule",
        "MessagePassing",
        "PreTrainedModel",
        "torch.jit.ScriptModule",
        "torch.nn.modules.module.Module",
    ],
)
def test_a_base_that_is_a_module_makes_a_module(bases: str) -> None:
    """By alias, through this file, and by the frameworks that build on torch."""
    facts = facts_of(f"class Net({bases}):\n    pass\n")
    assert facts.is_module
    assert facts.is_surely_module


@pytest.mark.parametrize(
    "bases",
    [
        "",
        "object",
        "abc.ABC",
        "dict",
        "torch.autograd.Function",
        "torch.utils.data.Dataset",
        "linen.Module",
        "pl.LightningDataModule",
        "PretrainedConfig",
        "Trainer",
        "GraphTrainer",
        "nn.Parameter",
    ],
)
def test_other_bases_make_no_module_whatever_the_class_does(bases: str) -> None:
    """A trainer that builds a network and calls a method `forward` is no network."""
    head = f"class Net({bases}):" if bases else "class Net:"
    assert not facts_of(f"{head}\n    {BUILDS}\n\n    {FORWARD}\n").is_module


@pytest.mark.parametrize(
    ("base", "body", "expected"),
    [
        ("Anything", f"{BUILDS}\n\n    {FORWARD}", True),
        ("Anything", FORWARD, False),
        ("Anything", BUILDS, False),
        ("SomeBlock", BUILDS, True),
        ("SomeBlock", "pass", False),
        ("ModelMixin", FORWARD, True),
        ("BenchmarkModel", BUILDS, False),
        ("BenchmarkModel", f"{BUILDS}\n\n    def forward(self):\n        return 1", False),
        ("SomeBlock", "@staticmethod\n    def forward(x, y):\n        return x", False),
    ],
)
def test_an_unknown_base_needs_evidence(base: str, body: str, expected: bool) -> None:
    """A forward that takes something, layers on `self`, a base named like a layer."""
    assert facts_of(f"class Net({base}):\n    {body}\n").is_module is expected


def test_values_are_found_however_they_are_written() -> None:
    """Plain, annotated, in tuples, by setattr and add_module, in helpers and in a base."""
    facts = facts_of(
        """
        class Parent(nn.Module):
            def __init__(self):
                self.inherited = 1

        class Net(Parent):
            def __init__(self, rate):
                self.plain = rate
                self.annotated: float = 0.5
                self.left, [self.right, other] = 1, (2, 3)
                self.whole, self.rest = rate.split()
                setattr(self, "named", nn.Dropout(0.1))
                self.add_module("added", nn.Dropout(0.2))
                self.register_module("registered", nn.Dropout(0.3))
                setattr(rate, "foreign", 1)
                setattr(self, rate, 1)
                self.build()

            def build(self):
                self.built = self.chained = nn.Identity()
        """,
        "Net",
    )
    found = {a.name: facts._source.text(a.value) for f in facts.lineage for a in f.assigned}
    assert found == {
        "inherited": "1",
        "plain": "rate",
        "annotated": "0.5",
        "left": "1",
        "right": "2",
        "whole": "rate.split()",
        "rest": "rate.split()",
        "named": "nn.Dropout(0.1)",
        "added": "nn.Dropout(0.2)",
        "registered": "nn.Dropout(0.3)",
        "built": "nn.Identity()",
        "chained": "nn.Identity()",
    }


def test_a_dropout_module_is_one_only_where_all_values_are() -> None:
    """One branch that builds something else leaves the question open."""
    facts = facts_of(
        """
        class Net(nn.Module):
            def __init__(self, rate):
                self.drop = nn.Dropout(rate)
                self.either = nn.Dropout(rate) if rate else nn.Identity()
                self.both = nn.Dropout(rate)
                self.both = nn.Identity()
        """
    )
    assert facts.dropout_module("drop") is not None
    assert facts.dropout_module("either") is None
    assert facts.dropout_module("both") is None
    assert facts.dropout_module("absent") is None


def test_dropout_is_seen_through_the_classes_of_the_file() -> None:
    """In a base, in a part, in a function; a class that builds itself ends the search."""
    code = """
    class Inner(nn.Module):
        def __init__(self):
            self.drop = nn.Dropout(0.5)

    class Outer(nn.Module):
        def __init__(self):
            self.inner = Inner()

    class Child(Inner):
        pass

    class Plain(nn.Module):
        def __init__(self):
            self.again = Plain()
    """
    assert facts_of(code, "Outer").holds_dropout
    assert facts_of(code, "Child").holds_dropout
    assert not facts_of(code, "Plain").holds_dropout


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("nn.Dropout(0.5)", True),
        ("[nn.Linear(2, 2), nn.Dropout2d(0.5)]", True),
        ("nn.LSTM(2, 2, 2, dropout=0.5)", True),
        ("nn.LSTM(2, 2)", False),
        ("nn.LSTM(2, 2, 2, dropout=0.0)", False),
        ("nn.TransformerEncoderLayer(8, 2)", True),
        ("nn.TransformerEncoderLayer(8, 2, dropout=0)", False),
        ("nn.Linear(2, 2)", False),
        ("lambda: nn.Dropout(0.5)", False),
    ],
)
def test_a_value_builds_dropout_when_called_now(value: str, expected: bool) -> None:
    """Torch's own modules count with a rate; a lambda builds later."""
    source = Source("net.py", f"{HEAD}\nx = {value}\n".encode())
    assign = source.nodes[cst.Assign][-1]
    assert builds_dropout(source, assign.value) is expected


def test_methods_under_a_condition_count_and_the_last_definition_wins() -> None:
    """As Python does it."""
    facts = facts_of(
        """
        class Net(nn.Module):
            if torch.cuda.is_available():
                def fast(self): pass

            def forward(self, x): return 1

            def forward(self, x): return 2
        """
    )
    assert set(facts.methods) == {"fast", "forward"}
    forward = facts.method("forward")
    assert forward is not None
    assert "return 2" in facts._source.text(forward)
