"""What an audit takes for a dropout, and for one draw of it."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropaudit.runtime.auditor import audit
from dropaudit.runtime.report import Report


def trained(model: nn.Module, x: Tensor, steps: int) -> Report:
    """The report on some training steps and an evaluation."""
    with audit(model, on_finding="collect") as watched:
        for _ in range(steps):
            model(x).sum().backward()
        model.eval()
        with torch.no_grad():
            model(x)
    return watched.report


class Attention(nn.Module):
    """No parameters, and a rate called `dropout`."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        weights = F.softmax(x @ x.transpose(-2, -1), dim=-1)
        return F.dropout(weights, self.dropout) @ x


def test_attention_with_a_rate_is_no_dropout_itself() -> None:
    """The function that it calls is the site, with its own line."""
    report = trained(Attention(0.2), torch.randn(4, 16, 16).requires_grad_(), 2)
    assert [site.function for site in report.sites] == ["F.dropout"]
    assert [finding.code for finding in report.findings] == ["DRP201"]
    assert report.findings[0].where.line == Attention.forward.__code__.co_firstlineno + 2


class Skip(nn.Module):
    """Stochastic depth that decides once for a whole batch, and hands on the tensor it keeps."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.training and random.random() < self.drop_prob:
            return torch.zeros_like(x)
        return x if self.training else x * (1 - self.drop_prob)


class DropPath(Skip):
    """The same, called what it is."""


@pytest.mark.parametrize("layer", [Skip, DropPath])
def test_a_batch_handed_on_is_one_draw(layer: type[Skip]) -> None:
    """A few batches that happen to be kept are no evidence of a dropout that never drops."""
    random.seed(1)
    model = nn.Sequential(nn.Linear(16, 16), layer(0.1), nn.Linear(16, 16))
    report = trained(model, torch.randn(64, 16), 3)
    (site,) = report.sites
    assert (site.training.draws, site.training.drops) == (3, 0)
    assert not {finding.code for finding in report.findings} - {"DRP000"}


class Masked(nn.Module):
    """Attention whose weights a bias presses to the least numbers there are."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(-2, -1) - 7 * torch.arange(16.0)
        weights = F.softmax(F.pad(scores, (1, 0)), dim=-1)[..., 1:]
        return self.dropout(weights) @ x


def test_weights_too_small_to_have_digits_break_no_identity() -> None:
    """Products of subnormal numbers are rounded by more than their scale."""
    torch.manual_seed(0)
    x = (torch.randn(8, 16, 8) * 0.1).requires_grad_()
    report = trained(Masked(), x, 4)
    (site,) = report.sites
    assert site.backward.broken == 0
    assert report.findings == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_activations_that_overflow_where_they_are_kept_do_not_count(dtype: torch.dtype) -> None:
    """Else a diverging model would seem to drop more than it declares."""
    torch.manual_seed(0)
    x = torch.full((64, 64), torch.finfo(dtype).max * 0.7, dtype=dtype)
    x[:, ::2] = 1
    report = trained(nn.Sequential(nn.Dropout(0.5)), x.requires_grad_(), 10)
    (site,) = report.sites
    assert site.training.draws == 10 * 2048
    assert report.findings == ()


@pytest.mark.parametrize("seed", range(4))
def test_one_activation_larger_than_all_others_makes_no_gap(seed: int) -> None:
    """Whether it is kept or dropped is a single draw, however many others there are."""
    torch.manual_seed(seed)
    x = torch.randn(64, 64)
    x[0, 0] = 1e9
    report = trained(nn.Sequential(nn.Dropout(0.5)), x.requires_grad_(), 1)
    assert report.findings == ()
