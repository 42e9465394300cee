"""The rate that a torch module with dropout in it is built with."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from dropaudit.static.arguments import arguments
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.source import Source

_RNN = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout")
_TABLE = {
    "LSTM": _RNN,
    "GRU": _RNN,
    "RNN": (*_RNN[:3], "nonlinearity", *_RNN[3:]),
    "MultiheadAttention": ("embed_dim", "num_heads", "dropout"),
    "TransformerEncoderLayer": ("d_model", "nhead", "dim_feedforward", "dropout"),
    "TransformerDecoderLayer": ("d_model", "nhead", "dim_feedforward", "dropout"),
    "Transformer": ("d_model", "nhead", "encoders", "decoders", "dim_feedforward", "dropout"),
}


@dataclass(frozen=True, eq=False)
class Rate:
    """A rate and what takes it; `flag_is_free` when a function is not told the mode beside it."""

    owner: str
    node: cst.BaseExpression | None
    flag_is_free: bool = False
    is_function: bool = True


def module_rate(source: Source, call: cst.Call) -> Rate | None:
    """The rate that `call` gives to one of torch's modules, None when it builds no such module."""
    if not call.args:
        return None
    name = source.name_of(call.func)
    if name in DROPOUT_MODULES:
        node = arguments(source, call, ("p", "inplace")).values.get("p")
    elif name.startswith("torch.nn.") and name[9:] in _TABLE:
        node = arguments(source, call, _TABLE[name[9:]]).values.get("dropout")
    else:
        return None
    return Rate(f"nn.{name[9:]}", node, is_function=False)
