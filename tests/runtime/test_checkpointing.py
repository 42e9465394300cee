"""What is run again for its gradient: masks that differ are found, in every way to checkpoint."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from dropaudit.runtime.auditor import audit
from dropaudit.runtime.checkpointing import name_of_state
from dropaudit.runtime.report import Report
from tests.runtime.checkpoints import DRILLS, HELD, LAYERS, RERUNS, Checkpointed, Stack
from tests.runtime.fault_layers import FunctionDropout, Recipe
from tests.runtime.fault_programs import train, train_and_evaluate

pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
"""Torch says so of each evaluation, and of an inner checkpoint, which runs without gradient."""
SHAPE = (16, 12, 32)
DIM = SHAPE[-1]
ONE_WAY = {"own Function", "saved draw"}
"""Blocks that come with a checkpoint of their own."""
WAYS = [
    (name, reentrant)
    for name in HELD
    for reentrant in (False, True)
    if not (reentrant and name in ONE_WAY)
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are no faster on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch() -> Tensor:
    return torch.randn(SHAPE)


def checkpointed(layer: str, rerun: str, keeps: bool) -> nn.Module:
    return Checkpointed(DIM, LAYERS[layer](DIM), RERUNS[rerun], keeps)


def held(name: str, keeps: bool, reentrant: bool) -> nn.Module:
    return Stack(DIM, *(HELD[name](DIM, keeps, reentrant) for _ in range(3)))


def report_of(
    make: Callable[[], nn.Module],
    drill: Callable[[nn.Module, Callable[[], Tensor]], None] = train_and_evaluate,
    seed: int = 0,
    elements: int | Literal["all"] = 4096,
) -> Report:
    torch.manual_seed(seed)
    model = make()
    with audit(model, elements=elements, on_finding="collect") as watched:
        drill(model, batch)
    return watched.report


def codes(report: Report) -> list[str]:
    return sorted({each.code for each in report.findings if each.severity != "info"})


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rerun", RERUNS)
def test_another_mask_in_the_second_run_is_found(rerun: str, layer: str) -> None:
    """The code, and no other."""
    assert codes(report_of(lambda: checkpointed(layer, rerun, keeps=False))) == ["DRP303"]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rerun", RERUNS)
def test_the_same_mask_in_the_second_run_is_right(rerun: str, layer: str) -> None:
    """And the second run is no call: neither of the site, nor of the rates, nor of the steps."""
    report = report_of(lambda: checkpointed(layer, rerun, keeps=True))
    (site,) = report.sites
    assert codes(report) == []
    assert (report.trace.steps, site.training.calls) == (5, 5)
    assert site.eval.calls in (0, 2)  # attention without dropout is no site
    assert site.training.acted == site.training.asked == 5
    assert site.freshness.compared == 4
    assert site.training.elements in (0, 5 * 4096)
    again = site.recompute
    assert again.calls >= 5
    assert (again.redrawn, again.unpaired) == (0, 0)
    assert again.compared + again.stopped == again.calls


# torch has no `autograd.grad` through reentrant checkpoints
_DRILLED = [
    (*way, drill) for way in WAYS for drill in DRILLS if not (way[1] and drill == "by grad")
]


@pytest.mark.parametrize(("name", "reentrant", "drill"), _DRILLED)
def test_what_is_run_again_is_told_apart(name: str, reentrant: bool, drill: str) -> None:
    """Blocks that share their lines or their dropout, with nothing around them, in any order."""
    for keeps, expected in ((True, []), (False, ["DRP303"])):
        report = report_of(lambda keeps=keeps: held(name, keeps, reentrant), DRILLS[drill])
        assert codes(report) == expected, keeps
        assert not any(site.recompute.unpaired for site in report.sites if keeps)
        assert all(site.recompute.calls == site.training.calls for site in report.sites)


def test_all_elements_can_be_compared() -> None:
    """The second runs still count once."""
    for keeps, expected in ((True, []), (False, ["DRP303"])):
        for rerun in ("non-reentrant", "reentrant", "own Function"):
            for layer in ("nn.Dropout", "nn.AlphaDropout", "module"):
                report = report_of(
                    lambda made=(layer, rerun, keeps): checkpointed(*made), elements="all"
                )
                assert codes(report) == expected
                assert report.sites[0].training.elements == 5 * 16 * 12 * 32


def test_the_finding_says_what_differs() -> None:
    """The site, the share of elements, and both random states."""
    report = report_of(lambda: checkpointed("nn.Dropout", "reentrant", keeps=False))
    (finding,) = (each for each in report.findings if each.code == "DRP303")
    share = dict(finding.figures)["share"]
    assert finding.where.module == "block.2"
    assert abs(share - 2 * 0.2 * 0.8) < 0.02
    assert "(32%) that one run kept were dropped by the other" in finding.message
    assert "in 5 of 5 runs, first in step 1" in finding.message
    assert finding.message.count("seed 0, state ") == 2


def test_a_generator_of_the_users_is_told_from_a_state_that_was_lost() -> None:
    """Both runs began from one state of torch's generator."""
    report = report_of(lambda: held("own generator", False, True))
    assert "though both began from one random state" in report.findings[0].message


@pytest.mark.parametrize("rerun", RERUNS)
@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        (Recipe(0.2, backward="resampled"), "DRP301"),
        (Recipe(0.2, backward="ignored"), "DRP302"),
        (Recipe(0.2), None),
    ],
    ids=str,
)
def test_a_wrong_backward_pass_is_not_laid_to_the_checkpoint(
    rerun: str, recipe: Recipe, code: str | None
) -> None:
    """Where both runs drew the same mask, the function itself is wrong."""
    report = report_of(lambda: Checkpointed(DIM, FunctionDropout(recipe), RERUNS[rerun], True))
    assert codes(report) == ([] if code is None else [code])


@pytest.mark.parametrize(("name", "reentrant"), WAYS)
def test_runs_whose_first_run_was_not_seen_are_no_alarm(name: str, reentrant: bool) -> None:
    """The audit begins between a forward pass and its backward pass."""
    torch.manual_seed(0)
    model = held(name, True, reentrant)
    before = model(batch()).sum()
    with audit(model, on_finding="collect") as watched:
        first = model(batch()).sum()
        first.backward()
        before.backward()
        model(batch()).sum().backward()
    assert not [each for each in watched.report.findings if each.severity == "error"]


def test_a_run_that_cannot_be_paired_is_said_to_be_unchecked() -> None:
    """Rather than passed: only the last backward pass is of a forward pass that was seen."""
    torch.manual_seed(0)
    model = held("one dropout for all", True, True)
    before = [model(batch()).sum() for _ in range(2)]
    with audit(model, on_finding="collect") as watched:
        model(batch()).sum()
        for loss in before:
            loss.backward()
    assert codes(watched.report) == ["DRP000"]


def outcome(model: nn.Module, steps: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(SHAPE, requires_grad=True)
        y = model(x)
        y.square().mean().backward()
        optimizer.step()
        seen += [y.detach(), x.grad, *(p.grad.clone() for p in model.parameters())]
    return [*seen, *model.state_dict().values(), torch.get_rng_state()]


MAKES: dict[str, Callable[[], nn.Module]] = {
    **{
        f"{rerun} {layer}": lambda rerun=rerun, layer=layer: checkpointed(layer, rerun, True)
        for rerun in RERUNS
        for layer in ("F.dropout", "module", "SDPA", "LSTM")
    },
    **{f"{n} {r}": lambda n=n, r=r: held(n, False, r) for n, r in WAYS},
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_checkpointed_steps_are_bit_identical(make: Callable[[], nn.Module]) -> None:
    """With and without an audit: outputs, gradients, parameters, the generator's state."""
    torch.manual_seed(0)
    bare = outcome(make())
    torch.manual_seed(0)
    model = make()
    with audit(model, on_finding="collect"):
        watched = outcome(model)
    assert len(bare) == len(watched)
    assert all(map(torch.equal, bare, watched))


def test_the_engine_is_put_back() -> None:
    """Also when a backward pass raises in the middle of a second run."""
    before = vars(torch.autograd)["_engine_run_backward"]
    model = held("functions", True, False)
    loss = None
    with pytest.raises(ZeroDivisionError), audit(model, on_finding="collect"):
        loss = model(batch()).sum()
        model.blocks[0].run = lambda x: 1 / 0  # type: ignore[assignment,union-attr]
        held_run = model.blocks[1]
        held_run.linear.register_forward_pre_hook(lambda *_: 1 / 0)  # type: ignore[union-attr]
        loss.backward()
    assert vars(torch.autograd)["_engine_run_backward"] is before
    assert torch._C._len_torch_function_stack() == 0


class Wide(nn.Module):
    """Cheap layers on large activations, as few of which should be alive as without an audit."""

    def __init__(self, rerun: str, *layers: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(256), nn.GELU(), *(LAYERS[layer](256) for layer in layers))
            for _ in range(4)
        )
        self.rerun = rerun

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = RERUNS[self.rerun](block, x, True)
        return x


ROWS = 16384


def peak(model: nn.Module, watch: Callable[[nn.Module], Any]) -> int:
    """The most bytes of tensors alive at a time in a step, by the allocator's own events."""

    def step() -> None:
        model(torch.randn(ROWS, 256, requires_grad=True)).square().mean().backward()
        model.zero_grad()

    with watch(model):
        step()
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
            step()
    now = most = 0
    seen = [e for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(seen, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.parametrize("rerun", ["non-reentrant", "reentrant", "own Function", "selective"])
@pytest.mark.parametrize(
    ("layers", "activations"), [(("nn.Dropout",), 0), (("nn.Dropout", "module"), 1)], ids=str
)
def test_an_audit_does_not_undo_what_checkpointing_saves(
    rerun: str, layers: tuple[str, ...], activations: int
) -> None:
    """At most 1.02 of the peak without an audit. The hook of a dropout keeps the gradient that came
    in while its node runs, which is where the second run may begin: one activation then, two if a
    policy keeps more."""
    model = Wide(rerun, *layers)
    bare = peak(model, lambda _: nullcontext())
    activations *= 2 if rerun == "selective" else 1
    allowed = 1.02 * bare + activations * ROWS * 256 * 4
    assert peak(model, lambda _: audit(model, on_finding="collect")) <= allowed


def test_random_states_have_names() -> None:
    """By which a reader tells one from another, and one generator from another."""
    one = torch.Generator().manual_seed(3)
    name = name_of_state(one.get_state())
    assert name is not None
    assert name.startswith("seed 3, state ")
    torch.rand(1, generator=one)
    assert name_of_state(one.get_state()) != name
    philox = torch.tensor([5, 12], dtype=torch.int64).view(torch.uint8)
    assert name_of_state(philox) == "seed 5, offset 12"
    assert name_of_state(None) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rerun", RERUNS)
def test_the_generator_of_a_device_is_restored_or_not(rerun: str) -> None:
    """The recompute runs in a thread of the device."""
    for keeps, expected in ((True, []), (False, ["DRP303"])):
        torch.manual_seed(0)
        model = checkpointed("nn.Dropout", rerun, keeps).cuda()
        with audit(model, on_finding="collect") as watched:
            train(model, lambda: batch().cuda())
        assert codes(watched.report) == expected
