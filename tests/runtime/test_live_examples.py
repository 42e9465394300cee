"""The examples of the rules, run: what a scan reports, an audit sees, and a fix mends for both."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dropaudit.catalogue import Example, Rule, rules
from dropaudit.runtime.auditor import audit

LIVE = [
    pytest.param(rule, example, id=f"{rule.code}-{n}")
    for rule in rules()
    for n, example in enumerate(rule.examples)
    if example.live
]


def codes(source: str, folder: Path, others: Mapping[str, str]) -> list[str]:
    """What an audit finds in a program that defines `model` and `batch`: training, then eval.

    A model that is not in training mode is only evaluated, as it is.
    """
    torch.manual_seed(0)
    file = folder / "program.py"  # a real file: where the audit says that things happen
    file.write_text(source)
    for name, text in others.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    space: dict[str, Any] = {"__name__": "program"}
    with beside(folder):
        exec(compile(source, str(file), "exec"), space)
    model, batch = space["model"], space["batch"]
    optimizer = torch.optim.SGD([*model.parameters(), torch.nn.Parameter(torch.ones(1))], 1e-3)
    with audit(model, on_finding="collect") as watched:
        started_in_training = model.training
        for _ in range(3 if started_in_training else 0):
            optimizer.zero_grad()
            x = batch.clone().requires_grad_(batch.is_floating_point())
            with breaking(watched):
                _sum(model(x)).backward()
            optimizer.step()
        if started_in_training:
            model.eval()
        with torch.no_grad():
            for _ in range(2):
                model(batch)
    return sorted({finding.code for finding in watched.report.findings} - {"DRP000"})


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """The modules in `folder` can be imported, and are forgotten afterwards."""
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


@contextmanager
def breaking(watched: Any) -> Iterator[None]:
    """In-place dropout may break the backward pass: that error is torch's own report."""
    try:
        yield
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise


def _sum(result: Any) -> Tensor:
    first = result[0] if isinstance(result, tuple) else result
    assert isinstance(first, Tensor)
    return first.square().sum()


@pytest.mark.parametrize(("rule", "example"), LIVE)
def test_the_audit_sees_what_the_scan_reports(rule: Rule, example: Example, tmp_path: Path) -> None:
    """Before the fix, exactly the codes in `live`."""
    assert codes(example.code, tmp_path, example.others) == sorted(example.live)


@pytest.mark.parametrize(("rule", "example"), [p for p in LIVE if p.values[1].fixed])  # type: ignore[union-attr]
def test_the_fix_mends_the_running_program_too(
    rule: Rule, example: Example, tmp_path: Path
) -> None:
    """After it, none."""
    assert example.fixed is not None
    assert codes(example.fixed, tmp_path, example.others) == []


def test_most_defects_of_a_running_model_have_a_live_example() -> None:
    """Rules with checks of both kinds show in one program that these agree."""
    both = {rule.code for rule in rules() if rule.source_checks and rule.trace_checks}
    shown = {rule.code for rule in rules() for example in rule.examples if example.live}
    assert both - shown <= {"DRP000"}
