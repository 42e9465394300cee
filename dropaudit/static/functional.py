"""Calls of torch's functions that drop, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.arguments import arguments
from dropaudit.static.constants import constant, origins
from dropaudit.static.facts import DROPOUT_MODULES
from dropaudit.static.source import Source, is_name, self_attribute

Naming = Callable[[Source, cst.CSTNode], str]

_PLAIN = ("input", "p", "training", "inplace")
_NAMES = (
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "alpha_dropout",
    "feature_alpha_dropout",
)
_HEADS = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v "
    "add_zero_attn p out_proj_weight out_proj_bias training key_padding_mask need_weights"
)
_MULTI_HEAD = tuple(_HEADS.split())

DROPOUTS: dict[str, tuple[str, ...]] = {
    **{f"torch.nn.functional.{n}": _PLAIN for n in _NAMES},
    "torch.dropout": _PLAIN,
    "torch.feature_dropout": _PLAIN,
    "torch.alpha_dropout": _PLAIN,
    "torch.feature_alpha_dropout": _PLAIN,
    "torch.nn.functional.multi_head_attention_forward": _MULTI_HEAD,
}
_PACKED = {
    "scaled_dot_product_attention": "query key value attn_mask p",
    "_scaled_dot_product_attention": "query key value attn_mask p",
    "flash_attn_func": "q k v p",
    "flash_attn_qkvpacked_func": "qkv p",
    "flash_attn_kvpacked_func": "q kv p",
    "flash_attn_varlen_func": "q k v cu_q cu_k max_q max_k p",
    "flash_attn_varlen_qkvpacked_func": "qkv cu max p",
    "flash_attn_varlen_kvpacked_func": "q kv cu_q cu_k max_q max_k p",
    "flash_attn_unpadded_func": "q k v cu_q cu_k max_q max_k p",
    "flash_attn_unpadded_qkvpacked_func": "qkv cu max p",
    "flash_attn_unpadded_kvpacked_func": "q kv cu_q cu_k max_q max_k p",
    "memory_efficient_attention": "query key value attn_bias p",
    "memory_efficient_attention_forward": "query key value attn_bias p",
}
KERNELS: dict[str, tuple[str, ...]] = {n: tuple(p.split()) for n, p in _PACKED.items()}
_TORCH_KERNELS = ("scaled_dot_product_attention", "_scaled_dot_product_attention")
_ALIASES = {"dropout_p": "p", "train": "training"}


@dataclass(frozen=True, eq=False)
class Drop:
    """One call that drops: `rate` and `training` are what it passes, None for the default."""

    call: cst.Call
    name: str
    rate: cst.BaseExpression | None
    training: cst.BaseExpression | None
    complete: bool  # every argument can be seen

    @property
    def shown(self) -> str:
        """The name of the function as messages show it."""
        return self.name.replace("torch.nn.functional.", "F.")


def functional_dropout(source: Source, call: cst.Call) -> Drop | None:
    """`call` as a call of one of torch's functional dropouts, whatever name it goes by."""
    return _known_drop(source, call, _dropout_name, DROPOUTS)


def attention_kernel(source: Source, call: cst.Call) -> Drop | None:
    """`call` as a call of an attention kernel that takes a rate and no mode."""
    return _known_drop(source, call, _kernel_name, KERNELS)


def is_zero(source: Source, node: cst.CSTNode | None) -> bool:
    """Whether a rate is nothing: 0, False or None, wherever it comes from."""
    if node is None:
        return False
    if constant(source, node) == 0:
        return True
    return all(is_name(o, "None") or is_name(o, "False") for o in origins(source, node))


def _known_drop(
    source: Source, call: cst.Call, named: Naming, table: dict[str, tuple[str, ...]]
) -> Drop | None:
    """`_drop`, asked once for each call of the file: several rules ask."""
    if call not in source.parents:
        return _drop(source, call, named, table)
    key = (named, id(call))
    if key not in source.memo:
        source.memo[key] = _drop(source, call, named, table)
    found: Drop | None = source.memo[key]
    return found


def _drop(
    source: Source, call: cst.Call, named: Naming, table: dict[str, tuple[str, ...]]
) -> Drop | None:
    if not isinstance(call.func, (cst.Name, cst.Attribute)):
        return None
    bound: list[cst.Call] = []
    name = named(source, call.func)
    if not name and (self_attribute(call.func) or isinstance(call.func, cst.Name)):
        name, bound = _held(source, call.func, named)
    if not name:
        return None
    given = arguments(source, call, table[name])
    values = {_ALIASES.get(k, k): v for k, v in given.values.items()}
    for partial in bound:
        rest = arguments(source, partial.with_changes(args=partial.args[1:]), ())
        more = {_ALIASES.get(k, k): v for k, v in rest.values.items()}
        values = {**more, **values}
    return Drop(call, name, values.get("p"), values.get("training"), given.complete)


def _held(source: Source, func: cst.BaseExpression, named: Naming) -> tuple[str, list[cst.Call]]:
    """The function that a name or attribute holds, and the `partial` that binds its arguments."""
    for origin in origins(source, func):
        if origin is func:
            continue
        name = named(source, origin)
        if name:
            return name, []
        if isinstance(origin, cst.Call) and origin.args:
            maker = source.name_of(origin.func)
            if maker in ("functools.partial", "partial"):
                name = named(source, origin.args[0].value)
                if name:
                    return name, [origin]
            if maker == "getattr" and len(origin.args) > 1:
                word = origin.args[1].value
                if isinstance(word, cst.SimpleString) and (name := named(source, word)):
                    return name, []
    return "", []


def _dropout_name(source: Source, func: cst.CSTNode) -> str:
    name = source.name_of(func)
    return name if name in DROPOUTS else ""


def _kernel_name(source: Source, func: cst.CSTNode) -> str:
    if isinstance(func, cst.SimpleString):
        word = func.value.strip("'\"")
        return word if word in KERNELS else ""
    name = source.name_of(func)
    last = name.rsplit(".", 1)[-1]
    if last not in KERNELS or "." not in name:
        return ""
    if last in _TORCH_KERNELS and not name.startswith("torch."):
        return ""
    return last


def builds_module(source: Source, node: cst.CSTNode | None) -> bool:
    """Whether `node` is a dropout module, where a number belongs."""
    for origin in origins(source, node):
        if isinstance(origin, cst.Call) and source.name_of(origin.func) in DROPOUT_MODULES:
            return True
    return False
