"""What an audit measured, as plain numbers and strings: what the checks judge, and what is saved.

Words: a *call* is one execution of a site. An element is *informative* where nothing hides what
dropout did: the input is finite and not zero (and, for the backward pass, so is the incoming
gradient). A *draw* is one Bernoulli trial: an element, or a channel, a sample, whatever shares one
decision. The *scale* is `y / x` where an element is kept.

Everything is summed over the calls of one site, so that a trace of ten steps and one of ten
thousand have the same size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dropaudit.findings import Location
from dropaudit.runtime.recompute import Recompute
from dropaudit.runtime.world import Across, Fingerprint, Group

VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How the audit was asked to look: `elements` a call (None: all), every how many steps.

    `alpha` bounds the chance that a healthy program gets any statistical alarm in the whole run.
    """

    every: int = 1
    elements: int | None = 4096
    alpha: float = 1e-6


@dataclass(frozen=True)
class Forward:
    """What the calls of a site did to their input, in one mode.

    `scale` and `mean` are weighted by `|x|`: `scale = sum|y| / sum|x|` over kept elements, and
    `mean = sum(y * sign(x)) / sum|x|` over all informative ones, the measured `E[y] / x`.
    """

    calls: int = 0
    """Calls in this mode."""
    acted: int = 0
    """Calls that changed the values, or moved the random state."""
    asked: int = 0
    """Calls that had something to do: p strictly between 0 and 1, an input that is not empty."""
    told_off: int = 0
    """Calls that passed `training=False` (or an expression that was false) to the function."""
    told_on: int = 0
    """Calls that passed `training=True`, or let it stand at its default."""
    first_step: int | None = None
    """The step of the first call that acted, from 1."""
    elements: int = 0
    """Informative elements that were sampled."""
    draws: int = 0
    """Bernoulli trials among them."""
    drops: int = 0
    """Trials that dropped."""
    scale: float | None = None
    """Mean of y / x over kept elements."""
    scale_low: float | None = None
    """The least mean of a single call."""
    scale_high: float | None = None
    """The greatest mean of a single call."""
    spread: float | None = None
    """Standard deviation of y / x among the kept elements of a call, relative to `scale`; 0 for a
    mask, sqrt(p / q) for Gaussian dropout."""
    mean: float | None = None
    """Measured `E[y] / x`."""
    mean_error: float | None = None
    """Standard error of `mean`, from its variation between draws and between calls."""
    mixed: int = 0
    """Units of the axis the kind declares (a sample for DropPath) that were dropped in part."""
    units: int = 0
    """Such units that were seen with enough informative elements to tell."""


@dataclass(frozen=True)
class Backward:
    """How the gradient of each call's input relates to its output's, in training mode.

    Elementwise sites obey `x * dx == y * dy`; attention obeys `<dO, O> == <dV, V>` for each batch
    and head; any site obeys `<dy, f(x + v) - f(x)> == <dx, v>` under one random state, if linear.
    """

    calls: int = 0
    """Backward passes through calls of this site."""
    faulty: int = 0
    """Those that broke the identity."""
    first_fault: int | None = None
    """The step of the first of them."""
    elements: int = 0
    """Informative elements compared."""
    broken: int = 0
    """Elements at which `x * dx` and `y * dy` differ by more than rounding."""
    revived: int = 0
    """Elements dropped in the forward pass whose gradient flowed."""
    lost: int = 0
    """Elements kept in the forward pass whose gradient was zero."""
    dropped: int = 0
    """Compared elements that the forward pass dropped."""
    scale: float | None = None
    """Mean of dx / dy over elements kept in both passes."""
    worst: float = 0.0
    """The largest relative difference of the two sides, `|a - b| / (|a| + |b|)`."""
    products: int = 0
    """Inner products compared (attention: one a batch entry and head; else one a direction)."""
    broken_products: int = 0
    """Those that differ by more than rounding."""
    worst_product: float = 0.0
    """The largest normalized difference of two inner products."""
    recomputed: bool = False
    """Whether a fault happened in a recomputed forward pass (activation checkpointing)."""


@dataclass(frozen=True)
class Freshness:
    """Whether masks differ where they must: from step to step, in training mode."""

    compared: int = 0
    """Pairs of masks of consecutive steps that were compared."""
    repeats: int = 0
    """Pairs that were equal."""
    joint: int = 0
    """Draws on which the two masks of a repeated pair were both informative, at the least."""
    reseeded: int = 0
    """Repeats that began from the same random state though the step did not: seeded inside."""
    first_step: int | None = None
    """The step of the first repeat."""


@dataclass(frozen=True)
class Site:
    """A place where dropout is applied, and what was measured there.

    `kind` is one of "elementwise", "feature" (Dropout1d to 3d: a draw is a channel), "alpha",
    "attention", "recurrent" (inner dropout of LSTM, GRU, RNN), "path" (DropPath, StochasticDepth:
    a draw is a sample), "locked", "mask" (a mask written by hand), "noise" (Gaussian dropout),
    "block" (DropBlock) and "region" (anything else that was declared a site).
    """

    module: str
    """Path of the innermost module in the audited model; "" for the model itself; "?" for a module
    that is not part of it; "-" outside any module."""
    class_name: str
    """Class of that module, "" outside any."""
    kind: str
    function: str
    """What was called, as its author would write it: "F.dropout", "nn.Dropout", "DropPath"."""
    where: Location
    p: float | None = None
    """Declared drop probability."""
    p_least: float | None = None
    p_most: float | None = None
    """The range of p over the calls, where it changed."""
    p_changed_inside: bool = False
    """Whether p changed between the start and the end of one forward pass of the owner."""
    quantum: float = 0.0
    """Half the step in which the kernel rounds p: 0 for torch's own."""
    dtype: str = "float32"
    tolerance: float = 0.0
    """Relative rounding error to expect of one multiplication in `dtype` (2 to 3 units in the last
    place)."""
    is_module: bool = True
    """Whether the site is a module of its own (`nn.Dropout`, a DropPath), not a function call."""
    registered: bool = True
    """False for a module that `model.modules()` does not list."""
    built_in_forward: bool = False
    """Whether each step brought a new module object: built inside `forward`."""
    inside: str = ""
    """For a module: "function" when it calls a functional dropout, "mask" when it draws by hand."""
    follows: bool = True
    """Whether the site's own mode was that of the module that owns it, in every call."""
    switched: bool = False
    """Whether `train()`/`eval()` was called on the module itself (Monte-Carlo dropout, a frozen
    part), as far as the audit could see."""
    always_on: bool = False
    """Whether its class says that it drops in eval on purpose: Monte-Carlo dropout, a prenet."""
    training: Forward = field(default_factory=Forward)
    eval: Forward = field(default_factory=Forward)
    """Mode of the innermost module around the call; of the site itself where it is a module."""
    probed_eval: float | None = None
    """`y / x` in eval mode, tried on a copy: q for classic (unscaled) dropout, 1 for the identity,
    None where it was not tried."""
    backward: Backward = field(default_factory=Backward)
    no_gradient: int = 0
    """Calls in training whose input needed no gradient: nothing to compare."""
    unlinked: int = 0
    """Calls in training whose gradient could not be followed to the input."""
    unscaled_on_purpose: bool = False
    """Whether the module says that it does not scale what it keeps (`scale_by_keep=False`)."""
    freshness: Freshness = field(default_factory=Freshness)
    recompute: Recompute = field(default_factory=Recompute)
    corrupted: int = 0
    """In-place calls whose input was used again as if it were unchanged."""
    host_mask: int = 0
    """Calls that dropped although no torch generator moved: the mask came from elsewhere."""
    repeated_on_result: int = 0
    """Calls whose input was the result of another dropout of an elementwise kind."""
    complemented: bool = False
    """Hand-written: the mask's complement was used too (zoneout, sampling): no dropout."""
    memory: int = 0
    """Bytes that the audit held for this site at a time."""
    fingerprints: tuple[Fingerprint, ...] = ()
    """Parts of its masks, in the trace of one of many ranks; gone once traces are joined."""
    groups: tuple[Group, ...] = ()
    """What the input itself says of ranks: a DTensor is sharded over them, or replicated."""
    ranks: tuple[int, ...] = ()
    """In a joined trace, the ranks that this is about; none: all of them."""
    choice: float = 0.0
    """In a joined trace, what it cost to choose which ranks to count, in nats of evidence."""


@dataclass(frozen=True)
class Shared:
    """Two sites whose masks were equal in the same step though nothing shares them."""

    first: int
    second: int
    """Indices into `Trace.sites`."""
    times: int
    joint: int
    """Draws on which both were informative, at the least."""
    compared: int
    """Steps in which the two were compared."""
    first_step: int


@dataclass(frozen=True)
class Idle:
    """A dropout module with p > 0 that belongs to the model and was not called in whole steps."""

    module: str
    class_name: str
    p: float
    owner: str
    """Class of the module that holds it."""
    where: Location
    """Where the owner is called."""
    steps: int
    """Training steps in which its owner ran and it did not."""
    owner_ran: int
    lends_p: bool = False
    """Whether its `p` was read during a step: it only lends its rate to another function."""


@dataclass(frozen=True)
class Evaluation:
    """A run of forward passes without gradient, with no backward pass between them."""

    model: str
    """Class of the outermost module that was called."""
    where: Location
    """The first forward call."""
    step: int
    """Training steps done before."""
    forwards: int
    dropping: tuple[str, ...]
    """Module paths of the sites that dropped during it (at most 8)."""
    sites: int
    """How many sites dropped."""
    root_training: bool
    """The mode of the outermost module."""
    trained: bool
    """Whether an optimizer that was stepped during the audit holds its parameters, or a backward
    pass reached it."""
    trailing: bool
    """No training step came after it."""
    inside_step: bool
    """Its output or its inputs took part in a gradient-carrying forward pass of the same step
    (GAN generator, GradCache), or such a phase stands before nearly every step."""
    statistics_update: bool
    """It ran under `torch.optim.swa_utils.update_bn`, or uninitialized lazy modules were filled."""
    times: int = 1
    """How often this happened."""


@dataclass(frozen=True)
class Switched:
    """Optimizer steps on the parameters of a model, and in what mode its dropout was."""

    model: str
    where: Location
    """The forward call that the step belongs to."""
    root_training: bool
    dropouts: int
    """Dropout modules with p > 0 in it that ran in the step."""
    in_eval: int
    """Those that ran in eval mode."""
    examples: tuple[str, ...]
    """Paths of some that ran in eval mode (at most 8)."""
    first_step: int
    steps: int
    """How many optimizer steps looked like this."""
    trained_before: bool
    """Whether an earlier step of the same model had its dropout in training mode."""
    partners: tuple[str, ...] = ()
    """Classes of other audited models in the same optimizer whose dropout ran in training mode."""
    root_alone: bool = False
    """Whether the outermost module was in training mode and every module below it in eval mode."""


@dataclass(frozen=True)
class Divided:
    """A module whose mode its descendants do not share, seen when it was called."""

    module: str
    class_name: str
    where: Location
    training: bool
    """The flag of the module itself."""
    override: str
    """The method that its class overrides, "train" or "eval"; "" if it overrides neither."""
    descendants: int
    """Modules below it."""
    differing: int
    """Those in the other mode."""
    dropouts: int
    """Dropout modules with p > 0 among the differing."""
    example: str
    calls: int = 1


@dataclass(frozen=True)
class Unobserved:
    """A site or model that the audit could not see into, and what to do about it."""

    module: str
    what: str
    """What could not be observed, for example "nn.Dropout(p=0.1) in a scripted module"."""
    reason: str
    advice: str
    where: Location
    calls: int = 1


@dataclass(frozen=True)
class Trace:
    """All that an audit measured. Plain: it can be saved, sent and judged elsewhere.

    >>> trace = Trace(steps=3)
    >>> Trace.from_json(trace.to_json()) == trace
    True
    """

    settings: Settings = field(default_factory=Settings)
    steps: int = 0
    """Steps seen; every `settings.every`-th was audited."""
    audited_steps: int = 0
    forwards: int = 0
    """Calls of outermost modules."""
    models: tuple[str, ...] = ()
    """Class names of the models that the audit was given."""
    torch: str = ""
    devices: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    shared: tuple[Shared, ...] = ()
    idle: tuple[Idle, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    switched: tuple[Switched, ...] = ()
    divided: tuple[Divided, ...] = ()
    unobserved: tuple[Unobserved, ...] = ()
    joined: bool = False
    """Whether it is that of several ranks."""
    rank: int = 0
    world: int = 1
    """How many ranks the program had."""
    missing: tuple[int, ...] = ()
    """Ranks that a joined trace says nothing of: they died, or did not report in time."""
    unaudited: tuple[int, ...] = ()
    """Ranks on which no audit ran, as far as the others know."""
    groups: tuple[Group, ...] = ()
    across: tuple[Across, ...] = ()

    def to_json(self) -> str:
        """The trace as JSON text; `from_json` is its inverse."""
        return json.dumps({"dropaudit_trace": VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """The trace that `to_json` wrote. Raises `ValueError`, in one sentence, for other text."""
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}") from error
        if not isinstance(value, dict) or "dropaudit_trace" not in value:
            raise ValueError("it holds no dropaudit trace; `dropaudit run --json FILE` writes one")
        version = value.pop("dropaudit_trace")
        if version != VERSION:
            raise ValueError(
                f"it is a trace of format {version!r}; this dropaudit reads format {VERSION}"
            )
        trace: Trace = _record(cls, value, "trace")
        return trace


_RECORDS: dict[str, Any] = {}


def _record(kind: Any, value: Any, name: str) -> Any:
    """A record of `kind` from JSON, each field checked against the class it is declared with."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, and is {type(value).__name__}")
    known = {f.name: f for f in fields(kind)}
    for key in value:
        if key not in known:
            raise ValueError(f"{name} has the unknown field {key!r}")
    built = {key: _value(known[key].type, item, f"{name}.{key}") for key, item in value.items()}
    try:
        return kind(**built)
    except TypeError as error:
        raise ValueError(f"{name} is incomplete: {error}") from error


def _value(declared: Any, value: Any, name: str) -> Any:
    text = str(declared)
    if text.startswith("tuple["):
        inner = text[len("tuple[") :].split(",")[0]
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, and is {type(value).__name__}")
        return tuple(_value(inner, item, f"{name}[{n}]") for n, item in enumerate(value))
    if text in _RECORDS:
        return _record(_RECORDS[text], value, name)
    options = [_PLAIN[part] for part in text.split(" | ")]
    if float in options:
        options.append(int)
    if isinstance(value, bool) and bool not in options:
        raise ValueError(f"{name} must be {text}, and is a bool")
    if not isinstance(value, tuple(options)):
        raise ValueError(f"{name} must be {text}, and is {type(value).__name__}")
    return value


_PLAIN: dict[str, type] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "None": type(None),
}
_RECORDS.update(
    (kind.__name__, kind)
    for kind in (
        *(Settings, Forward, Backward, Freshness, Site, Shared, Idle, Evaluation, Switched),
        *(Divided, Unobserved, Location, Recompute, Fingerprint, Group, Across),
    )
)
