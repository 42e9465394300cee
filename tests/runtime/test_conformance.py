"""One dropout alone: what is right passes in silence, what is planted is found under its code."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dropaudit.findings import Severity  # noqa: E402
from dropaudit.runtime import conformance, examination  # noqa: E402
from dropaudit.runtime.conformance import check_dropout  # noqa: E402
from dropaudit.runtime.failure import DropoutAuditError  # noqa: E402
from dropaudit.runtime.report import Report  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same weights in every run; one thread, since small tensors only wait for more."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Hand(nn.Module):
    """The parent of dropouts that are written by hand."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.p = p

    def mask(self, x: Tensor) -> Tensor:
        return (torch.rand_like(x) >= self.p).to(x.dtype)


class ClassicDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training else x * (1 - self.p)


class GaussianDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x) * (self.p / (1 - self.p)) ** 0.5
        return x * (1 + noise) if self.training else x


class LockedDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty(1, *x.shape[1:]).bernoulli_(1 - self.p) / (1 - self.p)


class ScaledOnceDropout(Hand):
    """What the constructor derives from p does not follow when p is set."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__(p)
        self.scale = 1 / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) * self.scale if self.training else x


class DropPath(nn.Module):
    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.scale_by_keep = scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        if keep > 0.0 and self.scale_by_keep:
            mask.div_(keep)
        return x * mask


class DropBlock2d(nn.Module):
    def __init__(self, drop_prob: float = 0.1, block_size: int = 3) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        seeds = torch.rand(len(x), 1, *x.shape[2:]) < self.drop_prob / self.block_size**2
        blocks = F.max_pool2d(seeds.to(x), self.block_size, 1, self.block_size // 2)
        mask = 1 - blocks
        return x * mask * (mask.numel() / mask.sum())


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Attention(nn.Module):
    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.dropout = 0.1
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, -1)
        p = self.dropout if self.training or self.always else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p)


class Correct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, training: bool) -> Tensor:
        mask = (torch.rand_like(x) >= p).to(x.dtype) / (1 - p) if training else torch.ones_like(x)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0], None, None


def bias_dropout_add(x: Tensor, bias: Tensor, residual: Tensor, prob: float, training: bool) -> Any:
    return residual + F.dropout(x + bias, prob, training)


def kept(x: Tensor, keep_prob: float = 0.8) -> Tensor:
    return x * (torch.rand_like(x) < keep_prob) / keep_prob


HEALTHY: dict[str, Callable[[], Any]] = {
    "Dropout": lambda: nn.Dropout(0.1),
    "Dropout in place": lambda: nn.Dropout(0.1, inplace=True),
    "Dropout in eval": lambda: nn.Dropout(0.1).eval(),
    "Dropout1d": lambda: nn.Dropout1d(0.2),
    "Dropout2d": lambda: nn.Dropout2d(0.3),
    "Dropout3d": lambda: nn.Dropout3d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.2),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.2),
    "F.dropout": lambda: F.dropout,
    "F.dropout2d": lambda: F.dropout2d,
    "F.alpha_dropout": lambda: F.alpha_dropout,
    "torch.dropout": lambda: torch.dropout,
    "partial": lambda: functools.partial(F.dropout, p=0.3),
    "lambda": lambda: lambda x: F.dropout(x, 0.25),
    "lambda of alpha": lambda: lambda x: F.alpha_dropout(x, 0.3, True),
    "keep probability": lambda: kept,
    "DropPath": lambda: DropPath(0.2),
    "rare DropPath": lambda: DropPath(0.01),
    "residual DropPath": lambda: Residual(DropPath(0.2)),
    "bias-dropout-add": lambda: bias_dropout_add,
    "autograd.Function": lambda: Correct,
    "apply": lambda: Correct.apply,
    "classic": lambda: ClassicDropout(0.3),
    "Gaussian": lambda: GaussianDropout(0.3),
    "locked": lambda: LockedDropout(0.3),
    "scale from the constructor": lambda: ScaledOnceDropout(0.3),
    "two in a row": lambda: nn.Sequential(nn.Dropout(0.1), nn.Dropout(0.1)),
    "DropBlock": lambda: DropBlock2d(0.1),
    "attention by lambda": lambda: (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.2)
    ),
    "attention by partial": lambda: functools.partial(
        F.scaled_dot_product_attention, dropout_p=0.2, is_causal=True
    ),
    "attention in a module": lambda: Attention(),
    "MultiheadAttention": lambda: nn.MultiheadAttention(16, 4, dropout=0.2),
    "LSTM": lambda: nn.LSTM(8, 8, 2, dropout=0.3),
    "GRU": lambda: nn.GRU(8, 8, 2, dropout=0.3, batch_first=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(16, 2, 32),
    "ConvNet": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)
    ),
}


def codes(report: Report) -> list[str]:
    return sorted(finding.code for finding in report.findings)


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_right_passes_in_silence(name: str) -> None:
    """With the full number of draws, in every dtype that it takes."""
    report = check_dropout(HEALTHY[name]())
    assert report.findings == ()
    assert report.sites


def test_what_is_right_passes_with_any_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 seeds in turn, few draws each: where chance has the most room."""
    monkeypatch.setattr(examination, "DRAWS", 1 << 12)
    makers = [make for name, make in HEALTHY.items() if name != "DropBlock"]
    for number in range(200):
        monkeypatch.setattr(conformance, "_SEED", number)
        torch.manual_seed(number)
        assert check_dropout(makers[number % len(makers)]()).findings == ()


class UnscaledDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) if self.training else x


class DividedByPDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) / self.p if self.training else x


class ScaledInEvalDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p) if self.training else x * (1 - self.p)


class InvertedDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 - self.mask(x)) / (1 - self.p) if self.training else x


class APointMoreDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p + 0.01, self.training)


class DeafFunctionDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p)


class DeafMaskDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask(x) / (1 - self.p)


class NeverDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, training=False)


class FrozenDropout(Hand):
    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.kept is None or self.kept.shape != x.shape:
            self.kept = self.mask(x) / (1 - self.p)
        return x * self.kept.to(x.dtype)


class ReseededDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        torch.manual_seed(0)
        return x * self.mask(x) / (1 - self.p)


class OwnSeedDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        own = torch.Generator().manual_seed(0)
        return x * (torch.rand(x.shape, generator=own) >= self.p).to(x.dtype) / (1 - self.p)


class NumpyDropout(Hand):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = torch.from_numpy(np.random.rand(*x.shape) >= self.p)
        return x * mask.to(x.dtype) / (1 - self.p)


class ByElementDropPath(DropPath):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.drop_prob, self.training)


class ByFeatureDropPath(DropPath):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = torch.rand(x.shape[1:]) >= self.drop_prob
        return x * mask.to(x.dtype) / (1 - self.drop_prob)


class Faulty(torch.autograd.Function):
    """A forward pass that is right."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p = p
        mask = (torch.rand_like(x) >= p).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask / (1 - p)


class Resampled(Faulty):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        return g * (torch.rand_like(g) >= ctx.p) / (1 - ctx.p), None


class Ignored(Faulty):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] / (1 - ctx.p), None


class Unscaled(Faulty):
    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0], None


class ResampledBiasDropoutAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, residual: Tensor, p: float) -> Tensor:
        ctx.p = p
        return residual + (x + bias) * (torch.rand_like(x) >= p) / (1 - p)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,) = grads
        dropped = g * (torch.rand_like(g) >= ctx.p) / (1 - ctx.p)
        return dropped, dropped, g, None


class ResampledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
        weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.p = dropout_p
        return (weights * (torch.rand_like(weights) >= dropout_p) / (1 - dropout_p)) @ v

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (g,), (q, k, v, weights) = grads, ctx.saved_tensors
        mask = (torch.rand_like(weights) >= ctx.p) / (1 - ctx.p)
        d_weights = (g @ v.mT) * mask
        scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdim=True))
        scores = scores / q.shape[-1] ** 0.5
        return scores @ k, scores.mT @ q, (weights * mask).mT @ g, None


class ResampledRegion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.linear(x))
        return Resampled.apply(h, 0.3) if self.training else h


class DeafRegion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.linear(x)), 0.2)


def unscaled_attention(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    weights = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
    return (weights * (torch.rand_like(weights) >= dropout_p)) @ v


def deaf(x: Tensor, p: float = 0.3, training: bool = True) -> Tensor:
    return x * (torch.rand_like(x) >= p) / (1 - p)


PLANTED: list[tuple[str, str, Callable[[], Any]]] = [
    ("not scaled", "DRP101", UnscaledDropout),
    ("attention not scaled", "DRP101", lambda: unscaled_attention),
    ("residual not scaled", "DRP101", lambda: Residual(UnscaledDropout())),
    ("scaled by 1 / p", "DRP102", DividedByPDropout),
    ("scaled again in eval", "DRP102", ScaledInEvalDropout),
    ("inverted", "DRP104", InvertedDropout),
    ("mask by element", "DRP107", lambda: ByElementDropPath(0.3)),
    ("mask by feature", "DRP107", lambda: ByFeatureDropPath(0.3)),
    ("mask from numpy", "DRP108", NumpyDropout),
    ("0.31 for 0.3", "DRP110", APointMoreDropout),
    ("0.11 for 0.1", "DRP110", lambda: APointMoreDropout(0.1)),
    ("0.51 for 0.5", "DRP110", lambda: APointMoreDropout(0.5)),
    ("F.dropout always on", "DRP201", DeafFunctionDropout),
    ("a region always on", "DRP201", DeafRegion),
    ("a function deaf to its mode", "DRP201", lambda: deaf),
    ("attention always on", "DRP202", lambda: Attention(always=True)),
    ("a mask always on", "DRP216", DeafMaskDropout),
    ("never on", "DRP218", NeverDropout),
    ("mask resampled", "DRP301", lambda: Resampled),
    ("mask resampled, bias and residual", "DRP301", lambda: ResampledBiasDropoutAdd),
    ("mask resampled, attention", "DRP301", lambda: ResampledAttention),
    ("mask resampled, region", "DRP301", ResampledRegion),
    ("mask ignored", "DRP302", lambda: Ignored),
    ("scale missing", "DRP302", lambda: Unscaled),
    ("seeded inside", "DRP304", ReseededDropout),
    ("seeded inside, own generator", "DRP304", OwnSeedDropout),
    ("frozen", "DRP306", FrozenDropout),
]


@pytest.mark.parametrize(
    ("code", "make"), [(c, m) for _, c, m in PLANTED], ids=[n for n, _, _ in PLANTED]
)
def test_a_planted_fault_is_found_under_its_code_alone(code: str, make: Any) -> None:
    """One cause, one code."""
    assert codes(check_dropout(make(), on_finding="collect")) == [code]


def test_errors_raise_with_the_report() -> None:
    """As gradcheck raises, all findings in one exception."""
    with pytest.raises(DropoutAuditError, match="DRP101") as caught:
        check_dropout(UnscaledDropout())
    assert codes(caught.value.report) == ["DRP101"]
    assert caught.value.report.findings[0].severity is Severity.ERROR
    assert caught.value.report.findings[0].where.path.endswith("test_conformance.py")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        check_dropout(UnscaledDropout(), on_finding="warn")
    assert len(seen) == 1 and "DRP101" in str(seen[0].message)


def test_the_rate_is_read_from_the_object_or_given() -> None:
    """An attribute, a default, a keyword of a partial; a lambda declares nothing."""
    rates = {
        0.1: nn.Dropout(0.1),
        0.5: F.dropout,
        0.25: functools.partial(F.dropout, p=0.25),
        0.15: DropPath(0.15),
        None: lambda x: F.dropout(x, 0.3),
    }
    for p, dropout in rates.items():
        found = check_dropout(dropout).sites[0].p
        assert found == (p if p is None else pytest.approx(p))
    assert check_dropout(kept).sites[0].p == pytest.approx(0.2)
    assert codes(check_dropout(rates[None], p=0.31, on_finding="collect")) == ["DRP110"]
    assert codes(check_dropout(nn.Dropout(0.1), p=0.2, on_finding="collect")) == ["DRP110"]


def test_the_object_and_all_random_states_are_left_as_they_were() -> None:
    """Modes, attributes, values, gradients; torch, Python and numpy."""
    inner = nn.Dropout(0.3)
    inner.train(False)
    for given in (FrozenDropout(), nn.LSTM(8, 8, 2, dropout=0.3), lambda x: inner(x)):
        modules = [given] if isinstance(given, nn.Module) else [inner]
        before = [dict(vars(module)) for module in modules]
        values = [[p.clone() for p in module.parameters()] for module in modules]
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        check_dropout(given, on_finding="collect")
        assert [dict(vars(module)) for module in modules] == before
        for module, held in zip(modules, values, strict=True):
            assert all(map(torch.equal, module.parameters(), held))
            assert all(p.grad is None and p.dtype == torch.float32 for p in module.parameters())
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert np.random.get_state()[1].tolist() == states[2]


def test_the_result_depends_on_the_arguments_alone() -> None:
    """Whatever was drawn before."""
    first = check_dropout(UnscaledDropout(), on_finding="collect")
    torch.rand(5)
    assert check_dropout(UnscaledDropout(), on_finding="collect") == first


@pytest.mark.parametrize(
    "inputs",
    [
        torch.ones(64, 8),
        (torch.ones(64, 8),),
        (torch.ones(64, 8), 0.3),
        (torch.ones(64, 8), 0.3, True),
        {"x": torch.ones(64, 8)},
        {"x": torch.ones(64, 8, dtype=torch.bfloat16), "p": 0.3},
    ],
    ids=["tensor", "tuple", "rate", "mode", "dict", "rate by name"],
)
def test_inputs_can_be_given(inputs: Any) -> None:
    """As one call takes them, and are not changed."""

    def dropout(x: Tensor, p: float = 0.3, training: bool = True) -> Tensor:
        return x * (torch.rand_like(x) >= p) / (1 - p) if training else x

    assert check_dropout(dropout, inputs).findings == ()
    assert codes(check_dropout(deaf, inputs, on_finding="collect")) == ["DRP201"]


def test_tokens_can_be_given() -> None:
    """Integer inputs: gradients are then those of the parameters."""
    net = nn.Sequential(nn.Embedding(10, 8), nn.Dropout(0.1))
    report = check_dropout(net, torch.arange(10))
    assert report.findings == ()
    assert report.sites[0].backward.products


def test_what_drops_nothing_is_not_called_right() -> None:
    """DRP002: nothing was observed."""
    for idle in (nn.Identity(), nn.Dropout(0.0), nn.Dropout(1.0)):
        assert codes(check_dropout(idle)) == ["DRP002"]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((3,), {}, TypeError, "a module, a function or an autograd.Function"),
        ((nn.Dropout,), {}, TypeError, "not the class Dropout"),
        ((nn.Dropout(), 3), {}, TypeError, "inputs must be"),
        ((nn.Dropout(),), {"p": 1.5}, ValueError, "between 0 and 1"),
        ((nn.Dropout(),), {"p": "half"}, TypeError, "p must be a number"),
        ((nn.Dropout(),), {"on_finding": "shout"}, ValueError, "raise, warn or collect"),
        ((nn.Embedding(3, 4),), {}, ValueError, "inputs="),
        ((nn.Dropout(), torch.arange(3)), {}, ValueError, "no floating tensor"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """What to do instead is in it."""
    with pytest.raises(error, match=words) as caught:
        check_dropout(*arguments, **options)
    assert "\n" not in str(caught.value)


def low_precision(dtype: Any, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A kernel that takes one dtype only, in the order of arguments of fused kernels."""

    def kernel(x: Tensor, bias: Tensor, residual: Tensor, prob: float) -> Tensor:
        if x.dtype != dtype:
            raise TypeError(f"expected {dtype}")
        return function(x, bias, residual, prob)

    return kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_kernels_of_one_dtype_are_seen_through_their_differences(dtype: Any) -> None:
    """Right, and with the mask resampled in the backward pass."""
    right = low_precision(dtype, lambda x, b, r, p: r + F.dropout(x + b, p))
    report = check_dropout(right)
    assert report.findings == ()
    assert report.sites[0].training.scale == pytest.approx(1 / 0.7, rel=0.01)
    wrong = low_precision(dtype, ResampledBiasDropoutAdd.apply)
    assert codes(check_dropout(wrong, on_finding="collect")) == ["DRP301"]


def test_what_cannot_be_compared_is_said() -> None:
    """A region in low precision, and random numbers that cannot be replayed."""

    def low(x: Tensor, p: float = 0.3) -> Tensor:
        if x.dtype != torch.bfloat16:
            raise TypeError("expected bfloat16")
        return F.dropout(x.cumsum(-1).sin(), p)

    def unseeded(x: Tensor, p: float = 0.3) -> Tensor:
        own = torch.Generator()
        own.seed()
        mask = torch.rand(x.shape, generator=own) >= p
        return x.cumsum(-1).sin() * mask / (1 - p)

    for function in (low, unseeded):
        report = check_dropout(function)
        assert codes(report) == ["DRP000"]
        assert "backward pass" in report.findings[0].message


def test_a_generator_of_its_own_is_no_fault() -> None:
    """It is replayed, and is no mask from the host."""

    class OwnDropout(Hand):
        def __init__(self, p: float = 0.3) -> None:
            super().__init__(p)
            self.generator = torch.Generator().manual_seed(1)

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x
            mask = torch.rand(x.shape, generator=self.generator) >= self.p
            return x * mask.to(x.dtype) / (1 - self.p)

    assert check_dropout(OwnDropout()).findings == ()
    assert check_dropout(nn.Sequential(nn.Linear(8, 8), OwnDropout())).findings == ()
