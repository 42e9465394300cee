"""What an audit sees of programs as people write them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropaudit.runtime.auditor import Audit, audit
from dropaudit.runtime.declared import site
from dropaudit.runtime.failure import DropoutAuditError, DropoutAuditWarning
from dropaudit.runtime.trace import Site


class Net(nn.Module):
    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 64)
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.drop(torch.relu(self.fc(x))))
        return y


class Forgetful(Net):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.dropout(self.fc(x), 0.3))
        return y


def codes(audited: Audit) -> list[str]:
    return sorted(finding.code for finding in audited.report.findings)


def only_site(audited: Audit) -> Site:
    (found,) = audited.report.sites
    return found


def train(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(16, 32)).square().mean().backward()
        optimizer.step()


def evaluate(model: nn.Module, batches: int = 3) -> None:
    with torch.no_grad():
        for _ in range(batches):
            model(torch.randn(16, 32))


# The contract of the call


def test_a_finding_raises_at_the_end_with_everything_in_one_message() -> None:
    """As an AssertionError that names the site, the step and the number."""
    model = Forgetful()
    with pytest.raises(AssertionError) as caught, audit(model):
        train(model)
        model.eval()
        evaluate(model)
    assert isinstance(caught.value, DropoutAuditError)
    assert "DRP201" in str(caught.value)
    assert "test_audit.py" in str(caught.value)


def test_findings_can_be_warned_about_or_collected() -> None:
    """`on_finding` decides."""
    model = Forgetful().eval()
    with pytest.warns(DropoutAuditWarning, match="DRP201"), audit(model, on_finding="warn"):
        evaluate(model)
    with audit(model, on_finding="collect") as watched:
        evaluate(model)
    assert codes(watched) == ["DRP201"]


def test_warnings_raise_when_asked_to() -> None:
    """A finding of severity warning passes by default."""
    model = Net()
    with audit(model):
        train(model)
        evaluate(model)
    with pytest.raises(DropoutAuditError, match="DRP209"), audit(model, fail_on="warning"):
        train(model)
        evaluate(model)


def test_an_audit_can_be_started_stopped_and_started_again() -> None:
    """Each run has a report of its own."""
    model = Net()
    watched = audit(model)
    with pytest.raises(RuntimeError, match="has not run"):
        _ = watched.report
    for _ in range(2):
        watched.start()
        train(model)
        assert watched.report.sites  # so far
        report = watched.stop()
        assert report.sites[0].training.calls == 3
    with pytest.raises(RuntimeError, match="does not run"):
        watched.stop()


def test_every_nth_step_is_audited() -> None:
    """The others cost next to nothing, and are not counted as calls."""
    model = Net()
    with audit(model, every=4) as watched:
        train(model, steps=10)
    assert only_site(watched).training.calls == 3
    assert (watched.report.trace.steps, watched.report.trace.audited_steps) == (10, 3)


def test_several_models_are_audited_together_and_others_are_left_alone() -> None:
    """Names tell them apart."""
    one, two, three = Net(), Net(), Net()
    with audit(one, two) as watched:
        for model in (one, two, three):
            train(model)
    assert [s.module for s in watched.report.sites] == ["drop", "Net.drop"]


def test_without_a_model_everything_is_audited() -> None:
    """Functions outside of any module too."""
    with audit() as watched:
        train(Net())
        F.dropout(torch.ones(64, 64, requires_grad=True), 0.5).sum().backward()
    assert [s.function for s in watched.report.sites] == ["nn.Dropout", "F.dropout"]


def test_an_audit_that_saw_no_dropout_says_so() -> None:
    """It never says that all is well."""
    with audit(on_finding="collect") as watched:
        pass
    assert codes(watched) == ["DRP002"]


def test_too_few_elements_are_no_pass() -> None:
    """Fewer than 64 informative elements decide nothing."""
    model = nn.Dropout(0.5)
    with audit(model, on_finding="collect") as watched:
        model(torch.ones(10))
    assert codes(watched) == ["DRP000"]


# Sites


@pytest.mark.parametrize(
    ("module", "shape", "kind"),
    [
        (nn.Dropout(0.2), (64, 64), "elementwise"),
        (nn.Dropout(0.2, inplace=True), (64, 64), "elementwise"),
        (nn.Dropout1d(0.2), (64, 8, 16), "feature"),
        (nn.Dropout2d(0.2), (32, 16, 4, 4), "feature"),
        (nn.Dropout3d(0.2), (32, 16, 2, 2, 2), "feature"),
        (nn.AlphaDropout(0.2), (64, 64), "alpha"),
        (nn.FeatureAlphaDropout(0.2), (64, 64, 4), "alpha"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_modules_of_torch_are_healthy_sites(
    module: nn.Module, shape: tuple[int, ...], kind: str, dtype: torch.dtype
) -> None:
    """Each kind in each precision: rate, scale and both masks are measured, nothing is found."""
    torch.manual_seed(0)
    module.train()
    with audit(module) as watched:
        for _ in range(4):
            x = torch.randn(shape, dtype=dtype, requires_grad=True)
            module(x * 1).sum().backward()
        module.eval()
        module(torch.randn(shape, dtype=dtype))
    found = only_site(watched)
    assert found.kind == kind
    assert found.training.calls == found.backward.calls == 4
    assert found.backward.elements > 1000
    assert abs(found.training.drops / found.training.draws - 0.2) < 0.05
    assert codes(watched) == []


def test_functions_are_seen_under_any_name() -> None:
    """Imported by name, renamed, in place, from torch itself."""
    from torch.nn.functional import dropout as d

    calls: list[Callable[[Tensor], Any]] = [
        lambda x: d(x, 0.3),
        lambda x: torch.dropout(x, 0.3, True),
        lambda x: torch.dropout_(x * 1, 0.3, True),
        lambda x: F.dropout1d(x, 0.3),
        lambda x: F.feature_alpha_dropout(x, 0.3, True),
        lambda x: torch.native_dropout(x, 0.3, True)[0],
    ]
    with audit(on_finding="collect") as watched:
        for call in calls:
            call(torch.randn(64, 64, requires_grad=True)).sum().backward()
    assert [s.function for s in watched.report.sites] == [
        *("F.dropout", "torch.dropout", "torch.dropout_", "F.dropout1d"),
        *("F.feature_alpha_dropout", "torch.native_dropout"),
    ]
    assert [s.backward.calls for s in watched.report.sites] == [1] * 6


def test_declared_functions_are_sites() -> None:
    """By decorator, or by the option."""

    @site(p="rate")
    def kernel(x: Tensor, rate: float, training: bool) -> Tensor:
        return F.dropout(x, rate, training)

    class Model(Net):
        def forward(self, x: Tensor) -> Tensor:
            return kernel(self.fc(x), 0.25, self.training)

    model = Model()
    with audit(model) as watched:
        train(model)
    assert (only_site(watched).function, only_site(watched).p) == ("kernel", 0.25)


class Gate(nn.Module):
    """Drops, though neither its name nor its attributes say so."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) < 0.7) / 0.7 if self.training else x


@pytest.mark.parametrize("declared", [Gate, "gates.*"], ids=["class", "pattern"])
def test_modules_can_be_declared_by_class_or_path(declared: Any) -> None:
    """A user's module that looks like nothing is a site when the audit is told."""
    model = nn.ModuleDict({"gates": nn.Sequential(Gate(), Gate())})
    run = model["gates"]
    with audit(model, sites=[declared]) as watched:
        run(torch.randn(64, 64, requires_grad=True)).sum().backward()
    assert [s.module for s in watched.report.sites] == ["gates.0", "gates.1"]


def test_gradients_are_those_of_the_call_alone() -> None:
    """Other uses of the input, user hooks, and changes of the output in place do not matter."""

    class Busy(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x)
            y = self.drop(h)
            y.register_hook(lambda grad: grad * 3)
            h.register_hook(lambda grad: grad * 5)
            z = y + h * 2
            return z.add_(1)

    model = Busy()
    with audit(model) as watched:
        train(model)
    assert only_site(watched).backward.elements > 1000


def test_several_backward_passes_and_double_backward_are_compared() -> None:
    """Through a retained graph, and through a graph of gradients."""
    model = Net()
    with audit(model) as watched:
        x = torch.randn(64, 32, requires_grad=True)
        y = model(x).square().sum()
        y.backward(retain_graph=True)
        y.backward(retain_graph=True)
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        gradient.square().sum().backward()
    assert only_site(watched).backward.calls >= 4


def test_inputs_without_gradient_are_said() -> None:
    """Dropout on frozen features: there is nothing to compare."""
    model = nn.Sequential(nn.Dropout(0.3), nn.Linear(32, 2))
    with audit(model) as watched:
        train(model)
    assert only_site(watched).no_gradient == 3
    assert only_site(watched).backward.calls == 0


def test_the_value_gradient_of_attention_is_told_from_the_others() -> None:
    """Query, key and value may be one tensor."""
    with audit() as watched:
        for _ in range(3):
            x = torch.randn(2, 4, 16, 8, requires_grad=True)
            F.scaled_dot_product_attention(x, x, x, dropout_p=0.2).square().sum().backward()
    found = only_site(watched)
    assert found.backward.products == 3 * 8
    assert found.backward.worst_product < 1e-4


def test_replicas_of_data_parallel_are_the_modules_that_they_copy() -> None:
    """Each runs in a thread of its own."""
    model = Net()

    def replica() -> nn.Module:
        copy: Any = model._replicate_for_data_parallel()
        for name, child in model.named_children():
            twin: Any = child._replicate_for_data_parallel()
            for key, value in child._parameters.items():
                setattr(twin, key, value)
            copy._modules[name] = twin
        return copy

    def work(each: nn.Module) -> None:
        each(torch.randn(64, 32)).sum().backward()

    with audit(model) as watched:
        threads = [threading.Thread(target=work, args=(replica(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (only_site(watched).module, only_site(watched).training.calls) == ("drop", 2)


# Modes


def test_a_loop_that_switches_modes_is_silent() -> None:
    """Train, evaluate, train again."""
    model = Net()
    with audit(model, fail_on="warning"):
        for _ in range(3):
            model.train()
            train(model)
            model.eval()
            evaluate(model)


def test_training_on_in_eval_mode_is_found() -> None:
    """`eval()` before the first evaluation, and no `train()` after it."""
    model = Net()
    with audit(model, on_finding="collect") as watched:
        for _ in range(2):
            train(model)
            model.eval()
            evaluate(model)
    assert codes(watched) == ["DRP210"]


@pytest.mark.parametrize("batches", [1, 5])
def test_evaluation_in_training_mode_is_found(batches: int) -> None:
    """Also when it is a single batch."""
    model = Net()
    with audit(model, on_finding="collect") as watched:
        train(model)
        evaluate(model, batches)
    assert codes(watched) == ["DRP209"]


def test_a_generator_without_gradient_inside_each_step_is_silent() -> None:
    """As a GAN trains its discriminator."""
    generator, critic = Net(), nn.Linear(32, 1)
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in (generator, critic)]
    with audit(generator, critic, fail_on="warning"):
        for _ in range(4):
            with torch.no_grad():
                fake = generator(torch.randn(16, 32))
            critic(fake).sum().backward()
            optimizers[1].step()
            critic(generator(torch.randn(16, 32))).sum().backward()
            optimizers[0].step()


def test_one_of_two_models_left_in_eval_mode_is_found() -> None:
    """Both are trained by one optimizer."""
    one, two = Net(), Net()
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], 0.01)
    one.eval()
    with audit(one, two, on_finding="collect") as watched:
        for _ in range(3):
            (one(torch.randn(16, 32)) + two(torch.randn(16, 32))).square().mean().backward()
            optimizer.step()
    assert codes(watched) == ["DRP211"]


def test_monte_carlo_dropout_is_silent() -> None:
    """Everything evaluates, and the dropout is switched on again by itself."""
    model = Net().eval()
    model.drop.train()
    with audit(model, fail_on="warning"):
        evaluate(model, batches=20)


# What cannot be seen


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_scripted_dropout_is_said_to_be_unseen() -> None:
    """Neither is a pass."""
    scripted = torch.jit.script(Net())
    with audit(scripted, on_finding="collect") as watched:
        scripted(torch.randn(16, 32))
    assert "DRP000" in codes(watched)


def test_values_hidden_by_vmap_are_said_to_be_unseen() -> None:
    """They are no tensors that could be read."""
    model = Net()
    with audit(model, on_finding="collect") as watched:
        torch.func.vmap(model, randomness="different")(torch.randn(4, 32))
    assert set(codes(watched)) == {"DRP000"}


class Sampled(Net):
    """Keeps dropout on in evaluation, to estimate uncertainty."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(F.dropout(self.fc(x), 0.3))
        return y


def test_dropout_that_its_author_wants_in_evaluation_is_silent() -> None:
    """The docstring of its class says so."""
    model = Sampled().eval()
    with audit(model, fail_on="warning"):
        evaluate(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_runs_as_it_was_compiled_and_is_said_to_be_unseen() -> None:
    """No graph break, no second graph."""
    from torch._dynamo.utils import counters

    model = torch.compile(Net(), backend="aot_eager")
    train(model)
    before = {name: dict(found) for name, found in counters.items()}
    with audit(model, on_finding="collect") as watched:
        train(model)
    after = {name: dict(found) for name, found in counters.items()}
    assert after.get("stats") == before.get("stats")
    assert after.get("graph_break") == before.get("graph_break")
    assert codes(watched) == ["DRP000"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_can_be_compiled_while_it_is_audited() -> None:
    """Dynamo finds `nn.Module.__call__` as it is used to it."""
    with audit(on_finding="collect") as watched:
        model = torch.compile(Net(), backend="aot_eager", fullgraph=True)
        train(model)
    assert codes(watched) == ["DRP000"]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Dropout(0.2), (64, 512)),
        (nn.Dropout(0.2, inplace=True), (64, 512)),
        (nn.Dropout2d(0.2), (64, 8, 8, 8)),
        (nn.AlphaDropout(0.2), (64, 512)),
        (Gate(), (64, 512)),
    ],
    ids=["dropout", "in place", "feature", "alpha", "user's"],
)
def test_all_elements_means_all_of_them(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Whatever the kind of the site."""
    module.train()
    with audit(module, elements="all", sites=[Gate]) as watched:
        module(torch.randn(shape, requires_grad=True) * 1).sum().backward()
    found = only_site(watched)
    least = 0.999 * torch.Size(shape).numel()  # alpha dropout: what lies near its constant
    assert found.backward.elements >= least
    if found.kind != "feature":  # its decisions are counted by channel, from the sample
        assert found.training.elements >= least


class InPlace(nn.Module):
    """Overwrites activations that nothing reads again, and reads much else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(32, 32)
        self.drop = nn.Dropout(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        p = 0.3
        h = F.dropout(self.fc(x), p, self.training, inplace=True)
        y = self.drop(self.fc(h) + p)
        z = F.dropout(y, p, self.training, True)
        return self.fc(z) + x.reshape(y.shape) * p


def test_in_place_dropout_of_values_that_are_not_read_again_is_silent() -> None:
    """Rates, shapes and other names around the call may be read as often as they like."""
    model = InPlace()
    with audit(model, fail_on="warning", on_finding="collect") as watched:
        train(model)
    assert "DRP308" not in codes(watched)
