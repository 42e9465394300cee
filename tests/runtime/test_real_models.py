"""Healthy models of torch and transformers are trained and evaluated without a single finding."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from benchmarks.models import (
    TORCH,
    TRANSFORMERS,
    Candidate,
    LanguageModel,
    Program,
    audited,
    train_and_evaluate,
)
from dropaudit.runtime.auditor import audit
from dropaudit.runtime.report import Report


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models gain nothing from threads, and wait for them on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@functools.cache
def report_of(candidate: Candidate) -> Report:
    return audited(candidate)


def codes(report: Report) -> list[str]:
    return [f"{each.code} {each.where}: {each.message}" for each in report.findings]


@pytest.mark.parametrize("candidate", TORCH, ids=str)
def test_torch_models_are_silent(candidate: Candidate) -> None:
    """Nothing is found in five steps, an evaluation and two steps more."""
    report = report_of(candidate)
    assert codes(report) == []
    assert report.sites


@pytest.mark.parametrize("candidate", TRANSFORMERS, ids=str)
def test_transformers_are_silent(candidate: Candidate) -> None:
    """Nothing is found in the models of transformers, by whatever attention they attend."""
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of another library are not ours to forbid
        report = audited(candidate)
    assert codes(report) == []
    kinds = {site.kind for site in report.sites}
    assert ("attention" in kinds) == (candidate.attention == "sdpa")


@pytest.mark.parametrize("candidate", TORCH, ids=str)
def test_every_dropout_was_seen_at_work(candidate: Candidate) -> None:
    """Silence means checked: each site dropped in training, never in eval, and each of its calls
    was compared with its backward pass."""
    report = report_of(candidate)
    for site in report.sites:
        if site.p:
            assert site.training.acted == site.training.asked > 0, site
        assert site.eval.acted == 0, site
        if (
            site.p and site.kind != "recurrent"
        ):  # inside a kernel: its random state is all that is seen
            assert site.backward.calls == site.training.calls, site


@pytest.mark.parametrize("candidate", TORCH, ids=str)
def test_all_elements_are_silent_too(candidate: Candidate) -> None:
    """Looking at every element finds no more than looking at some."""
    torch.manual_seed(1)
    program = candidate.build()
    with audit(program.model, elements="all", on_finding="collect") as watched:
        train_and_evaluate(program, 2)
    assert codes(watched.report) == []


@pytest.mark.parametrize("candidate", TORCH, ids=str)
def test_an_evaluation_in_training_mode_is_found(candidate: Candidate) -> None:
    """The silence above can break: without `eval()`, each of these models is reported."""
    torch.manual_seed(0)
    program = candidate.build()
    optimizer = torch.optim.AdamW(program.model.parameters())
    with audit(program.model, on_finding="collect") as watched:
        for _ in range(2):
            program.loss().backward()
            optimizer.step()
        with torch.no_grad():
            program.loss()
    assert {finding.code for finding in watched.report.findings} == {"DRP209"}


def test_a_dropout_that_never_stops_is_found_in_a_language_model() -> None:
    """One functional dropout without the mode is found among healthy ones."""

    class Careless(LanguageModel):
        def forward(self, words: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(super().forward(words), 0.1)

    def loss() -> torch.Tensor:
        return model(words).square().mean()

    torch.manual_seed(0)
    model = Careless()
    words = torch.randint(50, (4, 12))
    with audit(model, on_finding="collect") as watched:
        train_and_evaluate(Program(model, loss), 3)
    assert [finding.code for finding in watched.report.findings] == ["DRP201"]
