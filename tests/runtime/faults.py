"""The planted faults: each with the code that it must get, and its healthy twin that gets none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.runtime.fault_layers import (
    FORMS,
    Attention,
    Block,
    ClassicDropout,
    DropBlock,
    DropPath,
    Functional,
    FunctionDropout,
    Fused,
    GaussianDropout,
    HandDropout,
    LockedDropout,
    Multihead,
    Recipe,
    Recurrent,
)
from tests.runtime.fault_programs import (
    Build,
    Layer,
    Net,
    Program,
    Setting,
    evaluate,
    loss_of,
    optimizer_of,
    program,
    train,
    train_and_evaluate,
    whole,
)

P = 0.2


@dataclass(frozen=True)
class Fault:
    """One mistake at one kind of site."""

    name: str
    kind: str
    code: str
    faulty: Build
    healthy: Build
    shapes: tuple[str, ...] = ("rows",)

    def __str__(self) -> str:
        return f"{self.name} / {self.kind}"


MODULES: dict[str, Callable[[float], nn.Module]] = {
    "nn.Dropout": nn.Dropout,
    "nn.Dropout1d": nn.Dropout1d,
    "nn.Dropout2d": nn.Dropout2d,
    "nn.Dropout3d": nn.Dropout3d,
    "nn.AlphaDropout": nn.AlphaDropout,
    "nn.FeatureAlphaDropout": nn.FeatureAlphaDropout,
}
RANKS = {
    "nn.Dropout1d": "sequences",
    "nn.Dropout2d": "images",
    "nn.Dropout3d": "volumes",
    "nn.FeatureAlphaDropout": "images",
}
FUNCTIONS = {
    "F.dropout": "rows",
    "F.dropout1d": "sequences",
    "F.dropout2d": "images",
    "F.dropout3d": "volumes",
    "F.alpha_dropout": "rows",
    "F.feature_alpha_dropout": "images",
    "torch.dropout": "rows",
    "torch.feature_dropout": "images",
    "torch.alpha_dropout": "rows",
}
EVERY = ("rows", "sequences", "images")


def by_hand(make: Any, recipe: Recipe, form: str) -> Build:
    return program(lambda s: make(recipe, form))


def lasting(make: Any, recipe: Recipe, form: str) -> Build:
    """With more steps: a draw a sample takes longer to tell."""
    return program(lambda s: make(recipe, form), drill=twenty_steps)


def masks() -> Iterator[Fault]:
    """What is multiplied, by hand: as a module of its own, and within a layer."""
    recipes = {
        ("missing scale", "DRP101"): Recipe(P, scale=1.0),
        ("divided by p", "DRP102"): Recipe(P, scale=1 / P),
        ("scaled twice", "DRP102"): Recipe(P, factor=1 / (1 - P)),
        ("inverted mask", "DRP104"): Recipe(P, drop=1 - P),
        ("on in eval", "DRP216"): Recipe(P, when="always"),
        ("frozen mask", "DRP306"): Recipe(P, source="frozen"),
        ("seeded in forward", "DRP304"): Recipe(P, source="reseeded"),
    }
    rights = {
        (form, kind, make): by_hand(make, Recipe(P), form)
        for form in FORMS
        for kind, make in {"module": HandDropout, "mask": Block}.items()
    }
    paths = {
        "DropPath": lasting(DropPath, Recipe(P), "x.div(q) * m.floor()"),
        "LockedDropout": lasting(LockedDropout, Recipe(P), "x.div(q) * m.floor()"),
    }
    for (name, code), wrong in recipes.items():
        for (form, kind, make), right in rights.items():
            shapes = EVERY if form == "x * m / q" else ("rows",)
            broken = by_hand(make, wrong, form)
            yield Fault(name, f"{kind} {form}", code, broken, right, shapes)
        for kind, site in {"DropPath": DropPath, "LockedDropout": LockedDropout}.items():
            shapes = ("sequences", "images")
            form = "x.div(q) * m.floor()"
            yield Fault(name, kind, code, lasting(site, wrong, form), paths[kind], shapes)
    for form in FORMS:
        right = program(lambda s, f=form: HandDropout(Recipe(0.1), f), elements="all")
        wrong_p = program(lambda s, f=form: HandDropout(Recipe(0.1, drop=0.11, scale=1 / 0.89), f))
        yield Fault("one point off", f"module {form}", "DRP110", many(wrong_p), many(right))
    for kind, site in {"module": HandDropout, "DropPath": DropPath}.items():
        # It hands its input on, as drop path does when a batch stays whole: one draw a call.
        broken = program(lambda s, m=site: m(Recipe(P, when="never"), "where"), drill=many_steps)
        right = program(lambda s, m=site: m(Recipe(P), "where"), drill=many_steps)
        yield Fault("never on", kind, "DRP218", broken, right)
    form = "x * m / q"
    yield Fault(
        "shared mask",
        "module",
        "DRP306",
        program(*[lambda s: HandDropout(Recipe(P, source="same"), form)] * 2),
        program(*[lambda s: HandDropout(Recipe(P), form)] * 2),
        EVERY,
    )
    yield Fault(
        "shared mask",
        "mask",
        "DRP306",
        program(*[lambda s: Block(Recipe(P, source="same"), form)] * 2),
        program(*[lambda s: Block(Recipe(P), form)] * 2),
    )
    yield Fault(
        "wrong axis",
        "DropPath",
        "DRP107",
        program(lambda s: DropPath(Recipe(P), form, "element")),
        program(lambda s: DropPath(Recipe(P), form)),
        ("sequences", "images"),
    )
    yield Fault(
        "mean of noise",
        "GaussianDropout",
        "DRP111",
        program(lambda s: GaussianDropout(P, 0.9)),
        program(lambda s: GaussianDropout(P)),
        EVERY,
    )
    yield Fault(
        "scaled in eval too",
        "ClassicDropout",
        "DRP102",
        program(lambda s: TwiceScaledDropout(P)),
        program(lambda s: ClassicDropout(P)),
    )


def many(build: Build) -> Build:
    """The same with enough elements to tell one point in p."""

    def bigger(setting: Setting) -> Program:
        made = build(setting)
        (model,) = made.models
        batch = lambda: torch.randn(256, 64, dtype=setting.dtype)  # noqa: E731
        return Program((model,), lambda: train_and_evaluate(model, batch, 8), "all")

    return bigger


def functions() -> Iterator[Fault]:
    """autograd.Functions, whose backward pass is written by hand."""
    kinds = {"module Function": FunctionDropout, "Function": DropBlock, "@site": Fused}
    for kind, make in kinds.items():
        right = program(lambda s, m=make: m(Recipe(P)))
        for name, code, wrong in (
            ("resampled in backward", "DRP301", Recipe(P, backward="resampled")),
            ("ignored in backward", "DRP302", Recipe(P, backward="ignored")),
            ("scale missing in backward", "DRP302", Recipe(P, backward="unscaled")),
            ("missing scale", "DRP101", Recipe(P, scale=1.0)),
            ("divided by p", "DRP102", Recipe(P, scale=1 / P)),
            ("inverted mask", "DRP104", Recipe(P, drop=1 - P)),
            ("on in eval", "DRP216", Recipe(P, when="always")),
        ):
            if kind == "Function" and code in ("DRP102", "DRP104"):
                code = "DRP111"  # no p is declared: all that can be said is the gap
            broken = program(lambda s, m=make, r=wrong: m(r))
            yield Fault(name, kind, code, broken, right, EVERY if "backward" in name else ("rows",))


def torch_sites() -> Iterator[Fault]:
    """torch's own dropout, used wrongly."""
    for name, shape in FUNCTIONS.items():
        right = program(lambda s, n=name: Functional(n, P))
        alpha = "alpha" in name
        on = program(lambda s, n=name: Functional(n, P, True))
        off = program(lambda s, n=name: Functional(n, P, False))
        yield Fault("on in eval", name, "DRP201", on, right, (shape,))
        yield Fault("never on", name, "DRP217" if alpha else "DRP218", off, right, (shape,))
        if not alpha:
            twice = program(lambda s, n=name: Functional(n, P, gain=1 / (1 - P)))
            yield Fault("scaled twice", name, "DRP102", twice, right, (shape,))
        yield Fault(
            "seeded in forward",
            name,
            "DRP304",
            program(lambda s, n=name: Seeding(Functional(n, P))),
            right,
            (shape,),
        )
        yield Fault(
            "seeded outside",
            name,
            "DRP306",
            program(lambda s, n=name: Functional(n, P), drill=seeding),
            right,
            (shape,),
        )
        yield Fault(
            "shared mask",
            name,
            "DRP306",
            program(lambda s, n=name: Forked(Functional(n, P), Functional(n, P))),
            program(*[lambda s, n=name: Functional(n, P)] * 2),
            (shape,),
        )
    for name, make in MODULES.items():
        shapes = (RANKS.get(name, "rows"),)
        right = program(lambda s, m=make: m(P))
        for fault, code, layer in (
            ("built in forward", "DRP203", lambda s, m=make: BuiltInForward(m)),
            ("in a list", "DRP204", lambda s, m=make: Listed(m)),
            ("never called", "DRP402", lambda s, m=make: Uncalled(m)),
            ("p set in forward", "DRP214", lambda s, m=make: Restless(m)),
            ("flag assigned", "DRP207", lambda s, m=make: m(P)),
        ):
            drill = flag_assigned if code == "DRP207" else train_and_evaluate
            yield Fault(fault, name, code, program(layer, drill=drill), right, shapes)
    attention = {
        "SDPA": (
            lambda s: Attention(s.dim, P, always=True),
            lambda s: Attention(s.dim, P),
        ),
        "SDPA, lent p": (
            lambda s: Attention(s.dim, P, always=True, lends=True),
            lambda s: Attention(s.dim, P, lends=True),
        ),
    }
    for kind, (wrong, fine) in attention.items():
        yield Fault("on in eval", kind, "DRP202", program(wrong), program(fine), ("sequences",))
    composite: dict[str, Layer] = {
        "SDPA": lambda s: Attention(s.dim, P),
        "MHA": lambda s: Multihead(s.dim, P),
        "MHA with weights": lambda s: Multihead(s.dim, P, True),
        "TransformerEncoderLayer": lambda s: nn.TransformerEncoderLayer(
            s.dim, 2, 64, P, batch_first=True
        ),
        "LSTM": lambda s: Recurrent("LSTM", s.dim, P),
        "GRU": lambda s: Recurrent("GRU", s.dim, P),
    }
    for kind, layer in composite.items():
        right = program(layer)
        outside = program(layer, drill=seeding)
        yield Fault("seeded outside", kind, "DRP306", outside, right, ("sequences",))


def modes() -> Iterator[Fault]:
    """When dropout is on, and what a training loop makes of it."""
    right = program(lambda s: nn.Dropout(P))
    for name, code, broken in (
        ("eval does not propagate", "DRP208", whole(lambda s: Stubborn(Net(s.dim, nn.Dropout(P))))),
        ("evaluation in train", "DRP209", program(lambda s: nn.Dropout(P), drill=never_eval)),
        ("training in eval", "DRP210", program(lambda s: nn.Dropout(P), drill=stays_in_eval)),
        ("one of two switched", "DRP211", two_models),
        ("nothing observed", "DRP002", whole(lambda s: nn.Linear(s.dim, s.dim))),
    ):
        yield Fault(name, "loop", code, broken, right)
    layers: dict[str, Layer] = {
        "nn.Dropout": lambda s: nn.Dropout(P),
        "F.dropout": lambda s: Functional("F.dropout", P),
        "module": lambda s: HandDropout(Recipe(P), "where"),
        "DropPath": lambda s: DropPath(Recipe(P), "x.div(q) * m.floor()"),
        "SDPA": lambda s: Attention(s.dim, P),
        "LSTM": lambda s: Recurrent("LSTM", s.dim, P),
    }
    for kind, layer in layers.items():
        for name, reentrant in (
            ("checkpoint without state", False),
            ("the same, reentrant", True),
        ):
            wrong, right = (
                program(lambda s, la=layer, k=keeps, r=reentrant: Checkpointed(la(s), s.dim, k, r))
                for keeps in (False, True)
            )
            yield Fault(name, kind, "DRP303", wrong, right, ("sequences",))
    yield Fault(
        "in place on a residual",
        "nn.Dropout",
        "DRP308",
        program(lambda s: Residual(nn.Dropout(P, inplace=True))),
        program(lambda s: Residual(nn.Dropout(P))),
        EVERY,
    )


class TwiceScaledDropout(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p) if self.training else x * (1 - self.p)


class Seeding(nn.Module):
    """Seeds the generator, then drops."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(7)
        return self.layer(x * self.scale)


class Forked(nn.Module):
    """Both branches draw under the same random state."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other, self.scale = one, other, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.scale
        with torch.random.fork_rng(devices=[]):
            y = self.one(x)
        return y + self.other(x)


class BuiltInForward(nn.Module):
    def __init__(self, make: Callable[[float], nn.Module]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Tensor:
        return self.make(P)(x)


class Listed(nn.Module):
    """Holds its dropout where train() and eval() do not find it."""

    def __init__(self, make: Callable[[float], nn.Module]) -> None:
        super().__init__()
        self.drops = [make(P)]

    def forward(self, x: Tensor) -> Tensor:
        for drop in self.drops:
            x = drop(x)
        return x


class Uncalled(nn.Module):
    def __init__(self, make: Callable[[float], nn.Module]) -> None:
        super().__init__()
        self.used, self.forgotten = make(P), make(P)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Restless(nn.Module):
    """Assigns the rate anew in each forward pass."""

    def __init__(self, make: Callable[[float], nn.Module]) -> None:
        super().__init__()
        self.drop, self.calls = make(P), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.drop.p = P / self.calls  # type: ignore[assignment]
        return self.drop(x)


class Residual(nn.Module):
    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(x)


class Stubborn(nn.Module):
    """Its train() forgets the children."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> Stubborn:
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Checkpointed(nn.Module):
    def __init__(self, layer: nn.Module, dim: int, preserve: bool, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.block = nn.Sequential(nn.Linear(dim, dim), layer, nn.Linear(dim, dim))
        self.preserve = preserve

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.block(x)
        keeps, reentrant = self.preserve, self.reentrant
        return checkpoint(self.block, x, use_reentrant=reentrant, preserve_rng_state=keeps)


def twenty_steps(model: nn.Module, batch: Callable[[], Any]) -> None:
    train_and_evaluate(model, batch, 20)


def many_steps(model: nn.Module, batch: Callable[[], Any]) -> None:
    train_and_evaluate(model, batch, 120)


def seeding(model: nn.Module, batch: Callable[[], Any]) -> None:
    """Begins each step from the same seed, whatever the data."""
    batches = [batch() for _ in range(5)]
    optimizer = optimizer_of(model)
    for x in batches:
        torch.manual_seed(3)
        optimizer.zero_grad()
        loss_of(model(x)).backward()
        optimizer.step()


def flag_assigned(model: nn.Module, batch: Callable[[], Any]) -> None:
    train(model, batch)
    model.training = False
    evaluate(model, batch)


def never_eval(model: nn.Module, batch: Callable[[], Any]) -> None:
    train(model, batch)
    evaluate(model, batch, 4)


def stays_in_eval(model: nn.Module, batch: Callable[[], Any]) -> None:
    train(model, batch)
    model.eval()
    evaluate(model, batch)
    train(model, batch)


def two_models(setting: Setting) -> Program:
    """An encoder and a decoder share an optimizer; only one of them is switched back."""
    one, other = (Net(setting.dim, nn.Dropout(P)).to(setting.dtype) for _ in range(2))

    def run() -> None:
        optimizer = optimizer_of(one, other)
        for epoch in range(2):
            for _ in range(3):
                optimizer.zero_grad()
                loss_of(other(one(setting.batch()))).backward()
                optimizer.step()
            if epoch:
                break
            one.eval()
            other.eval()
            with torch.no_grad():
                other(one(setting.batch()))
            other.train()

    return Program((one, other), run)


FAULTS: tuple[Fault, ...] = (*masks(), *functions(), *torch_sites(), *modes())
