"""An audit changes nothing: the audited program is bit-identical to the unaudited one."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dropaudit.runtime.auditor import audit


class DropPath(nn.Module):
    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x.div(keep) * mask


class Everything(nn.Module):
    """One of each kind of site."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.3)
        self.inplace = nn.Sequential(nn.GELU(), nn.Dropout(0.2, inplace=True))
        self.channels = nn.Dropout1d(0.2)
        self.alpha = nn.AlphaDropout(0.1)
        self.path = DropPath(0.3)
        self.attention = nn.MultiheadAttention(16, 4, dropout=0.1, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.lstm = nn.LSTM(16, 8, 2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.embed(x)))
        x = F.dropout(x, 0.25, self.training)
        x = self.alpha(self.path(x)) + self.channels(x)
        x = x + self.attention(x, x, x, need_weights=False)[0] + self.attention(x, x, x)[0]
        q = x.view(x.shape[0], x.shape[1], 2, 8).transpose(1, 2)
        p = 0.2 if self.training else 0.0
        x = x + F.scaled_dot_product_attention(q, q, q, dropout_p=p).transpose(1, 2).flatten(2)
        if self.training:
            dropped = (torch.rand_like(x) < 0.8).float()
            x = x * dropped / 0.8
        x = self.inplace(self.layer(x) * 1)
        x, _ = self.lstm(x)
        return self.head(x)


def state_of(model: nn.Module) -> list[Tensor]:
    return [
        *model.state_dict().values(),
        *(p.grad for p in model.parameters() if p.grad is not None),
    ]


def run(watch: Callable[[nn.Module], Any], steps: int = 10) -> tuple[list[Tensor], Tensor]:
    """Parameters, gradients, outputs and random state after some steps and an evaluation."""
    torch.manual_seed(0)
    model = Everything()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    outputs = []
    with watch(model):
        for _ in range(steps):
            optimizer.zero_grad()
            x = torch.randn(4, 12, 8, requires_grad=True)
            y = model(x)
            y.square().mean().backward()
            optimizer.step()
            outputs += [y.detach(), x.grad]
        model.eval()
        with torch.no_grad():
            outputs.append(model(torch.randn(4, 12, 8)))
        model.train()
    return [*outputs, *state_of(model)], torch.get_rng_state()


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


WATCHES: dict[str, Callable[[nn.Module], Any]] = {
    "model": lambda model: audit(model, on_finding="collect"),
    "everything": lambda model: audit(on_finding="collect"),
    "all elements": lambda model: audit(model, elements="all", on_finding="collect"),
    "every third step": lambda model: audit(model, every=3, on_finding="collect"),
}


@pytest.mark.parametrize("watch", WATCHES.values(), ids=WATCHES)
def test_ten_audited_steps_are_bit_identical(watch: Callable[[nn.Module], Any]) -> None:
    """Outputs, gradients, parameters, buffers, momentum and the generator's state."""
    bare, state = run(lambda model: nullcontext())
    watched, watched_state = run(watch)
    assert same(bare, watched)
    assert torch.equal(state, watched_state)


def test_another_mask_would_be_seen() -> None:
    """The twin: one more random number and nothing is the same."""

    class Draws:
        def __enter__(self) -> None:
            torch.rand(1)

        def __exit__(self, *_: Any) -> None:
            pass

    bare, _ = run(lambda model: nullcontext())
    disturbed, _ = run(lambda model: Draws())
    assert not same(bare, disturbed)


def surroundings(model: nn.Module) -> list[Any]:
    """All that an audit could forget to put back."""
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training)
        for m in model.modules()
    ]
    return [
        nn.Module.__call__,
        vars(nn.Module)["__call__"],
        vars(torch.autograd.Function).get("apply"),
        F.dropout,
        F.scaled_dot_product_attention,
        torch._C._len_torch_function_stack(),
        len(torch.optim.optimizer_hooks) if hasattr(torch.optim, "optimizer_hooks") else 0,
        hooks,
        [sorted(vars(m)) for m in model.modules()],
        list(model.state_dict()),
    ]


class Broken(Exception):
    pass


@pytest.mark.parametrize("error", [None, Broken, KeyboardInterrupt, SystemExit])
def test_everything_is_put_back(error: type[BaseException] | None) -> None:
    """Also when the user's code raises, in the middle of a forward pass."""
    model = Everything()
    before = surroundings(model)

    def explode(*_: Any) -> None:
        if error is not None:
            raise error()

    handle = model.head.register_forward_hook(explode)
    catch = pytest.raises(error) if error is not None else nullcontext()
    with catch, audit(model, on_finding="collect"):
        model(torch.randn(4, 12, 8)).sum().backward()
    handle.remove()
    assert surroundings(model) == before


def test_the_users_exception_is_not_replaced() -> None:
    """Whatever was found until then."""

    class Forgetful(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5)

    model = Forgetful().eval()
    with pytest.raises(Broken), audit(model):
        model(torch.ones(64, 64))
        raise Broken


def test_nested_audits_see_the_same_and_end_in_any_order() -> None:
    """Each has its own report; the last one to stop puts everything back."""
    model = Everything()
    before = surroundings(model)
    outer, inner = audit(model, on_finding="collect"), audit(on_finding="collect")
    outer.start()
    inner.start()
    model(torch.randn(4, 12, 8)).sum().backward()
    first = outer.stop()
    model(torch.randn(4, 12, 8)).sum().backward()
    second = inner.stop()
    assert surroundings(model) == before
    assert [s.training.calls * 2 for s in first.sites] == [s.training.calls for s in second.sites]


def test_an_audited_model_can_be_copied_and_saved() -> None:
    """While it is audited: nothing of the audit hangs on it."""
    model = Everything()
    x = torch.randn(4, 12, 8)
    with audit(model, on_finding="collect"):
        model(x).sum().backward()
        twin = copy.deepcopy(model)
        again = pickle.loads(pickle.dumps(model))
        torch.save(model.state_dict(), io.BytesIO())
    assert list(twin.state_dict()) == list(again.state_dict()) == list(model.state_dict())
    assert same(list(twin.eval()(x)), list(model.eval()(x)))


def test_the_model_is_freed_after_an_audit() -> None:
    """The report holds numbers, and no module."""
    model = Everything()
    gone = weakref.ref(model)
    with audit(model, on_finding="collect") as watched:
        model(torch.randn(4, 12, 8)).sum().backward()
    del model
    gc.collect()
    assert gone() is None
    assert watched.report.sites


def test_no_activation_outlives_its_step() -> None:
    """Neither the input of a site, nor its output, nor their gradients."""
    held: list[weakref.ref[Tensor]] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            y = self.dropout(x)
            held.extend((weakref.ref(x), weakref.ref(y)))
            return y.sum()

    model = Spy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with audit(model, elements="all"):
        for _ in range(3):
            model(torch.randn(256, 64)).backward()
            optimizer.step()
            assert all(tensor() is None for tensor in held)


def test_the_fast_path_of_the_transformer_is_kept() -> None:
    """A function mode would switch it off: it steps aside for evaluation."""
    layer = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    ).eval()
    used: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            used.append(str(func))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), audit(layer, on_finding="collect"), Watch():
        layer(torch.randn(2, 3, 16))
    assert any("transformer_encoder_layer_fwd" in name for name in used)


def test_other_function_modes_stay_where_they_are() -> None:
    """An audit that ends while another mode is on takes only itself off the stack."""

    class Other(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    watched = audit(nn.Dropout(0.5), on_finding="collect").start()
    with Other() as other:
        watched.stop()
        assert torch._C._len_torch_function_stack() == 1
        assert torch._C._get_function_stack_at(0) is other
    assert torch._C._len_torch_function_stack() == 0


def test_threads_are_audited_and_left_as_they_were() -> None:
    """As DataParallel runs replicas: each in a thread of its own."""
    model = Everything()
    heights: list[int] = []

    def work() -> None:
        model(torch.randn(4, 12, 8)).sum().backward()
        heights.append(torch._C._len_torch_function_stack())

    with audit(model, on_finding="collect") as watched:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert heights == [0] * 4
    functional = [s for s in watched.report.sites if s.function == "F.dropout" and not s.is_module]
    assert sum(site.training.calls for site in functional) >= 4
    assert not [f for f in watched.report.findings if f.severity == "error"]


@pytest.mark.parametrize(
    "options",
    [
        {"every": 0},
        {"elements": "many"},
        {"elements": 0},
        {"alpha": 2.0},
        {"on_finding": "shout"},
        {"fail_on": "info"},
        {"sites": [3]},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_before_anything_is_patched(options: dict[str, Any]) -> None:
    """In one sentence that names the option."""
    before = nn.Module.__call__
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        audit(nn.Linear(2, 2), **options)
    assert nn.Module.__call__ is before
