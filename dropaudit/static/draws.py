"""Which calls draw random numbers, and which only reshape or cast."""

from __future__ import annotations

import libcst as cst

from dropaudit.static.chance import Coin, Number, Opaque, Sampler, Uniform, Value
from dropaudit.static.source import Source, number

_UNIFORM = (
    "torch.rand torch.rand_like torch.cuda.FloatTensor.uniform_ numpy.random.rand "
    "numpy.random.random numpy.random.random_sample random.random"
)
UNIFORM = frozenset(_UNIFORM.split())
UNIFORM_BETWEEN = frozenset(["numpy.random.uniform", "random.uniform"])
NORMAL = frozenset(["torch.randn", "torch.randn_like", "numpy.random.randn"])
FILLED = {"ones": 1.0, "ones_like": 1.0, "zeros": 0.0, "zeros_like": 0.0}
_DRAWING = (
    "rand rand_like random random_sample uniform uniform_ bernoulli bernoulli_ sample "
    "binomial Bernoulli Binomial randn randn_like normal_ dropout"
)
DRAWING = tuple(_DRAWING.split())
_VIEWS = (
    "view view_as reshape reshape_as expand expand_as unsqueeze unsqueeze_ squeeze squeeze_ "
    "transpose permute t repeat tile flatten unflatten repeat_interleave contiguous to cuda "
    "cpu float half double type type_as bfloat16 bool byte long int clone detach detach_ "
    "astype requires_grad_ swapaxes movedim float_ char copy item numpy"
)
VIEWS = frozenset(_VIEWS.split())
_VIEW_FUNCTIONS_TEXT = (
    "torch.unsqueeze torch.squeeze torch.reshape torch.transpose torch.permute torch.tensor "
    "torch.as_tensor torch.from_numpy torch.FloatTensor torch.Tensor torch.autograd.Variable "
    "torch.clone torch.repeat_interleave torch.cuda.FloatTensor torch.BoolTensor numpy.array "
    "torch.ByteTensor numpy.asarray numpy.float32 numpy.expand_dims float bool int "
    "torch.autograd.variable.Variable torch.broadcast_to numpy.repeat torch.stack "
    "einops.repeat einops.rearrange"
)
_VIEW_FUNCTIONS = frozenset(_VIEW_FUNCTIONS_TEXT.split())


def drawn(source: Source, call: cst.Call, name: str) -> Value | None:
    """The value of a call that draws from a fixed distribution, by the dotted `name`."""
    if name in UNIFORM:
        return Uniform(0.0, 1.0, call)
    if name in UNIFORM_BETWEEN:
        return between(source, call, 0)
    return None


def between(source: Source, call: cst.Call, first: int = 0) -> Value:
    """A uniform draw between two bounds that are literal numbers, 0 and 1 when left out."""
    low = source.argument(call, "low", first) or source.argument(call, "from", first)
    high = source.argument(call, "high", first + 1) or source.argument(call, "to", first + 1)
    bottom = 0.0 if low is None else number(low.value)
    top = 1.0 if high is None else number(high.value)
    if bottom is None or top is None or top <= bottom:
        return Opaque()
    return Uniform(bottom, top - bottom, call)


def is_view(name: str) -> bool:
    """Whether a function passes its first argument on, reshaped or cast."""
    return name in _VIEW_FUNCTIONS


def tossed(chance: Value | None, draw: cst.CSTNode) -> Value:
    """A draw that is one with the chance `chance`."""
    if isinstance(chance, Number) and 0 < chance.value < 1:
        return Coin(chance.value, 1.0, 0.0, draw)
    return Opaque()


def sampled(value: Value, draw: cst.CSTNode) -> Value:
    """What `value.sample()` gives."""
    return Coin(value.chance, 1.0, 0.0, draw) if isinstance(value, Sampler) else Opaque()
