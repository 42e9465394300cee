"""E[train] against eval: gaps that are defects, gaps that are not, and a model left as it was."""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dropaudit.runtime.comparison import compare_modes  # noqa: E402
from dropaudit.runtime.failure import DropoutAuditError  # noqa: E402
from dropaudit.runtime.gaps import LayerGap, ModeComparison, half_width  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same weights in every run; one thread, since small tensors only wait for more."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Unscaled(nn.Module):
    """A dropout that forgets 1 / (1 - p)."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.drop_prob) if self.training else x


class Classic(nn.Module):
    """Unscaled in training, times the keep probability in eval: right."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        q = 1 - self.drop_prob
        return x * (torch.rand_like(x) < q) if self.training else x * q


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)


class AlwaysOnDropout(DropPath):
    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.drop_prob) / (1 - self.drop_prob)


class Calls(nn.Module):
    """A model whose forward is a function."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def layer(comparison: ModeComparison, name: str) -> LayerGap:
    return next(layer for layer in comparison.layers if layer.name == name)


def codes(comparison: ModeComparison) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.where.module) for finding in comparison.findings]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Modes, values, gradients, hooks and random states are the same after as before."""
    before = state(model)
    yield
    after = state(model)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert value == after[key], key


def state(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    for name, module in model.named_modules():
        found[f"{name} mode"] = module.training
        hooks = (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._forward_hooks_with_kwargs,
        )
        found[f"{name} hooks"] = [list(held) for held in hooks]
        found[f"{name} attributes"] = {key: id(value) for key, value in vars(module).items()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[name] = tensor.detach().clone()
        found[f"{name} gradient"] = None if tensor.grad is None else tensor.grad.clone()
    return found


def test_linear_nets_with_dropout_have_no_gap() -> None:
    """Every layer's interval holds 0 in at least 99 % of nets, and none is a finding."""
    outside = 0
    for number in range(200):
        torch.manual_seed(number)
        net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1 + 0.004 * number), nn.Linear(8, 3))
        comparison = compare_modes(net, torch.randn(5, 6), samples=24)
        assert comparison.findings == ()
        assert all(record.linear for record in comparison.layers)
        outside += any(record.differs for record in comparison.layers)
    assert outside <= 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("healthy", [nn.Dropout(0.1), Classic(0.3), DropPath(0.2), nn.Dropout1d()])
def test_healthy_dropout_is_silent_in_every_dtype(healthy: nn.Module, dtype: Any) -> None:
    """Also classic dropout, and where the scale itself is rounded."""
    net = nn.Sequential(nn.Linear(8, 8), healthy, nn.GELU(), nn.Linear(8, 8)).to(dtype)
    assert compare_modes(net, torch.randn(16, 8, dtype=dtype), samples=64).findings == ()


def test_an_unscaled_mask_is_found_at_its_layer() -> None:
    """With the figures: 30 % missing."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), Unscaled(0.3), nn.Linear(32, 4), nn.ReLU())
    comparison = compare_modes(net, torch.randn(64, 8), samples=64)
    assert codes(comparison) == [("DRP111", "2")]
    assert dict(comparison.findings[0].figures)["gap"] == pytest.approx(-0.3, abs=0.02)
    gap = layer(comparison, "2")
    assert gap.site and gap.differs and gap.relative_gap == pytest.approx(-0.3, abs=0.02)
    assert layer(comparison, "1").relative_gap == 0


def test_a_mask_that_is_called_something_else_is_found_by_what_it_does() -> None:
    """A rate, no weights, zeros in training; random erasing hides on purpose."""

    class Thinning(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.p = p

        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand_like(x) >= self.p) if self.training else x

    class RandomErasing(Thinning):
        pass

    class Mixing(Thinning):
        def forward(self, x: Tensor) -> Tensor:
            return x + self.p * x.roll(1, 0) if self.training else x

    for module, found in ((Thinning(0.3), ["1"]), (RandomErasing(0.3), []), (Mixing(0.3), [])):
        net = nn.Sequential(nn.GELU(), module, nn.GELU())
        comparison = compare_modes(net, torch.randn(64, 8), samples=32)
        assert codes(comparison) == [("DRP111", name) for name in found]


def test_a_mask_in_the_forward_of_an_affine_net_is_found() -> None:
    """No module is to blame, but the first layer behind it says it."""
    net = Calls(
        lambda self, x: self.parts[1](
            self.parts[0](x) * (torch.rand(64, 8) > 0.25 if self.training else 1)
        ),
        nn.Linear(8, 8),
        nn.Linear(8, 8),
    )
    comparison = compare_modes(net, torch.randn(64, 8), samples=256)
    assert codes(comparison) == [("DRP111", "parts.1")]


def test_a_gap_behind_a_nonlinearity_is_reported_and_no_finding() -> None:
    """A square has E[y^2] > E[y]^2."""
    net = Calls(lambda self, x: self.parts[0](x) ** 2, nn.Dropout(0.5))
    comparison = compare_modes(net, torch.randn(16, 8), samples=128)
    top = layer(comparison, "")
    assert comparison.findings == ()
    assert top.differs and not top.asserted
    assert top.relative_gap == pytest.approx(1.0, abs=0.2)


def test_functional_dropout_without_the_mode_is_found() -> None:
    """At the line that calls it, in the module that is running; eval is then known by its mean."""
    net = Calls(lambda self, x: self.parts[0](F.dropout(x, 0.4)), nn.Linear(8, 8))
    comparison = compare_modes(net, torch.randn(16, 8), samples=64)
    assert codes(comparison) == [("DRP201", "")]
    assert comparison.findings[0].where.path.endswith("test_comparison.py")
    assert layer(comparison, "parts.0").random_in_eval
    assert not layer(comparison, "parts.0").differs


def test_attention_without_the_mode_is_found() -> None:
    """As DRP202."""
    net = Calls(lambda self, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.2))
    assert codes(compare_modes(net, torch.randn(2, 4, 8), samples=4)) == [("DRP202", "")]


def test_a_mask_of_its_own_that_is_always_on_is_found() -> None:
    """As DRP216."""
    net = nn.Sequential(nn.Linear(8, 8), AlwaysOnDropout(0.4))
    assert codes(compare_modes(net, torch.randn(16, 8), samples=4)) == [("DRP216", "1")]


def test_a_dropout_outside_the_tree_is_found() -> None:
    """As DRP204: eval() cannot reach it."""
    hidden = [nn.Dropout(0.3)]
    net = Calls(lambda self, x: hidden[0](x))
    assert codes(compare_modes(net, torch.randn(16, 8), samples=4)) == [("DRP204", "")]
    assert hidden[0].training


def test_alpha_dropout_and_noise_are_not_asserted() -> None:
    """Their expectation differs by element, or they are no dropout."""
    net = nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout(0.4), nn.Linear(8, 8))
    assert compare_modes(net, torch.randn(16, 8), samples=64).findings == ()


def test_rare_drops_are_no_gap() -> None:
    """A path dropped once in two hundred passes, or never: intervals say what could be missing."""
    for number in range(40):
        torch.manual_seed(number)
        rate = 0.002 + 0.0005 * number
        net = nn.Sequential(nn.Linear(4, 64), DropPath(rate), nn.Linear(64, 64), nn.Dropout(0.1))
        assert compare_modes(net, torch.randn(1, 4), samples=64).findings == ()


def test_batch_norm_is_left_as_it_was_and_its_variance_shift_shown() -> None:
    """Running statistics bit for bit, also the count of batches; 1 / (1 - p) at its input."""
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Dropout(0.5), nn.BatchNorm1d(16))
    net(torch.randn(64, 8))
    x = torch.randn(512, 8)
    with untouched(net):
        comparison = compare_modes(net, x, samples=16)
    assert layer(comparison, "2").variance_ratio == pytest.approx(2.0, rel=0.1)
    assert layer(comparison, "1").variance_ratio == pytest.approx(2.0, rel=0.1)
    assert comparison.findings == ()


def test_an_odd_mix_of_modes_gradients_and_random_states_survives() -> None:
    """Whatever each part was set to."""
    net = nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), nn.BatchNorm1d(4), nn.Dropout(0.5)
    )
    x = torch.randn(8, 4)
    net(x).sum().backward()
    for root in (True, False):
        net.training, net[0].training, net[0][1].training = root, False, True
        net[1].eval()
        with untouched(net):
            compare_modes(net, x, samples=3)


def test_an_exception_restores_everything_too() -> None:
    """In the middle of a training pass, with a buffer already changed."""

    def fail(self: Any, x: Tensor) -> Tensor:
        y = self.parts[0](x)
        if self.training and torch.rand(()) < 0.5:
            raise KeyboardInterrupt
        return self.parts[1](y)

    net, x = Calls(fail, nn.BatchNorm1d(4), nn.Dropout(0.5)), torch.randn(8, 4)
    with untouched(net), pytest.raises(KeyboardInterrupt):
        compare_modes(net, x, samples=50)


def test_overridden_train_is_followed_and_undone() -> None:
    """A frozen part stays frozen; weights merged in eval are split again."""

    class Merged(nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merged:
            if self.merged == mode:
                self.weight.data.add_(1.0 if self.merged else -1.0)
                self.merged = not mode
            return super().train(mode)

    net, x = nn.Sequential(Merged(4, 4), nn.Dropout(0.2)), torch.randn(8, 4)
    with untouched(net):
        compare_modes(net, x, samples=3)
    assert not vars(net[0]).get("merged", False)


class Output(OrderedDict):  # type: ignore[type-arg]
    """As transformers' ModelOutput: a mapping that is also indexed by position."""


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y, self: (y, None, y.argmax()),
        lambda y, self: {"y": y, "more": [y, y]},
        lambda y, self: Output(y=y),
        lambda y, self: None,
        lambda y, self: y.argmax(),
        lambda y, self: y.new_zeros(0),
        lambda y, self: (y, y) if self.training else y,
        lambda y, self: y.to_sparse() if y.dim() == 2 else y,
    ],
)
def test_outputs_of_all_kinds_are_taken(wrap: Any) -> None:
    """Tuples, mappings, nothing, integers; other shapes in training; sparse tensors."""
    net = Calls(lambda self, x: wrap(self.parts[0](self.parts[0](x)), self), nn.Dropout(0.2))
    comparison = compare_modes(net, torch.randn(64, 8), samples=32)
    assert comparison.findings == ()
    assert layer(comparison, "parts.0").calls == 2
    assert not layer(comparison, "parts.0").differs
    assert max(map(len, str(comparison).splitlines())) <= 100
    json.loads(comparison.to_json())


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x,
        lambda x: (x,),
        lambda x: [x],
        lambda x: {"x": x},
    ],
)
def test_inputs_are_a_tensor_a_tuple_or_a_mapping(give: Any) -> None:
    """And are not changed by a model that works in place."""
    net = Calls(
        lambda self, x: self.parts[1](self.parts[0](x)),
        nn.ReLU(True),
        nn.Dropout(0.2, inplace=True),
    )
    inputs = torch.randn(16, 8, requires_grad=True)
    kept = inputs.detach().clone()
    comparison = compare_modes(net, give(inputs), samples=16)
    assert torch.equal(inputs, kept) and inputs.grad is None
    assert comparison.findings == ()


def test_in_place_followers_do_not_hide_a_gap() -> None:
    """Outputs are sampled before the next layer overwrites them."""
    net = nn.Sequential(nn.Linear(8, 8), Unscaled(0.5), nn.ReLU(inplace=True))
    assert codes(compare_modes(net, torch.randn(32, 8), samples=64)) == [("DRP111", "1")]


def test_token_models_and_caches_are_compared() -> None:
    """Integer inputs; a module that keeps what it computed is put back."""

    def remember(self: Any, tokens: Tensor) -> Tensor:
        self.seen.append(tokens)
        self.last = self.parts[1](self.parts[0](tokens))
        return self.last

    net = Calls(remember, nn.Embedding(9, 8), nn.Dropout(0.1))
    net.seen, net.last = [], None
    with untouched(net):
        comparison = compare_modes(net, torch.arange(9), samples=16)
    assert net.seen == [] and net.last is None
    assert comparison.findings == ()


def test_transformer_layers_are_compared() -> None:
    """Fused in eval, shared submodules, a residual stream."""
    net = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    comparison = compare_modes(net, torch.randn(4, 6, 16), samples=32)
    assert comparison.findings == ()
    assert layer(comparison, "dropout1").site
    assert not any(record.random_in_eval for record in comparison.layers)


def test_the_result_depends_on_the_arguments_alone() -> None:
    """Twice the same, whatever was drawn between."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    x = torch.randn(4, 4)
    first = compare_modes(net, x, samples=8)
    torch.rand(3)
    assert compare_modes(copy.deepcopy(net), x, samples=8) == first


def test_findings_can_raise_or_warn() -> None:
    """All of them at once."""
    net = nn.Sequential(Unscaled(0.5))
    x = torch.randn(32, 8)
    with pytest.raises(DropoutAuditError, match="DRP111"):
        compare_modes(net, x, samples=32, on_finding="raise")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compare_modes(net, x, samples=32, on_finding="warn")
    assert len(caught) == 1 and "DRP111" in str(caught[0].message)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((F.relu, torch.ones(2)), TypeError, "nn.Module"),
        ((nn.ReLU(), 3), TypeError, "tensor, a tuple or a dict"),
        ((nn.ReLU(), {1: torch.ones(2)}), TypeError, "names of arguments"),
        ((nn.ReLU(), torch.ones(2), 1), ValueError, "at least 2"),
        ((nn.ReLU(), torch.ones(2), 2.5), TypeError, "int"),
        ((nn.ReLU(), torch.ones(2), 2, "shout"), ValueError, "raise, warn or collect"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(
    arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    """Before anything runs."""
    named = dict(zip(("model", "inputs", "samples", "on_finding"), arguments, strict=False))
    with pytest.raises(error, match=words) as caught:
        compare_modes(named.pop("model"), named.pop("inputs"), **named)
    assert "\n" not in str(caught.value)


def test_intervals_hold_for_skewed_values() -> None:
    """Means of 256 values that are 1 once in a hundred times: no miss in 2,000 tries."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(2000, 256, generator=generator) < 0.01).double()
    for row in values:
        half = half_width(float(row.var()), float(row.max() - row.min()), 256, 1e-3)
        assert row.max() == row.min() or abs(float(row.mean()) - 0.01) <= half
