"""Along which axes a draw is shared, as far as names and documentation say what the axes are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from dropaudit.static.source import Source, is_name, number
from dropaudit.static.walk import descend

_PATH = re.compile(
    r"^_*(drop_?paths?|stochastic_?depth)(_?\d?d?|_?(layer|module|func|fn|f))$", re.I
)
_LOCKED = re.compile(r"(lock(ed)?|variational|rnn|shared|time)_?drop", re.I)
_PER_SAMPLE = re.compile(r"(per|each|every)[ -](sample|example|instance|item)|sample-?wise", re.I)
_BATCH_FIRST = re.compile(
    r"[(\[]\s*(b|bs|n|batch\w*)\s*[,x*]\s*(t|l|s|seq\w*|time\w*|len\w*|num_\w+|steps?|max_\w*)\s*[,x*]"
    r"|\bbatch_first ?= ?True",
    re.I,
)
_TIME_FIRST = re.compile(
    r"[(\[]\s*(t|l|s|seq\w*|time\w*|len\w*|steps?|max_\w*)\s*[,x*]\s*(b|bs|n|batch\w*)\s*[,x*]",
    re.I,
)
_LIKE = frozenset(["torch.rand_like", "torch.empty_like", "torch.full_like", "torch.ones_like"])
_SCALARS = frozenset(
    ["random.random", "numpy.random.rand", "numpy.random.random", "numpy.random.uniform"]
)
_SHAPED = frozenset(
    ["rand", "empty", "ones", "zeros", "new", "new_empty", "new_ones", "new_zeros", "FloatTensor"]
)
_LOOPS = (cst.For, cst.While, cst.ListComp, cst.GeneratorExp)


@dataclass(frozen=True, eq=False)
class Layout:
    """A draw whose decisions are not shared as the name or the documentation says."""

    node: cst.Call
    what: str


def wrong_layouts(source: Source, function: cst.FunctionDef) -> Iterator[Layout]:
    """The draws in `function` that differ where they should agree, or agree where they differ."""
    facts = source.class_of(function)
    if facts is not None and function.name.value not in ("forward", "__call__"):
        return
    name = function.name.value if facts is None else facts.name
    said = function.get_docstring(clean=False) or ""
    if facts is not None:
        said += facts.node.get_docstring(clean=False) or ""
    tensor = _tensor(function)
    if not tensor:
        return
    if _PATH.match(name):
        yield from _path_layouts(source, function, tensor, said)
    elif _LOCKED.search(name):
        yield from _locked_layouts(source, function, tensor, said)


def _tensor(function: cst.FunctionDef) -> str:
    """The name of the first parameter, where the body does not put another tensor there."""
    names = [p.name.value for p in (*function.params.posonly_params, *function.params.params)]
    names = [n for n in names if n not in ("self", "cls")]
    if not names or re.search(r"mask|ones|shape|size|weight|prob|rate", names[0]):
        return ""
    return names[0]


def _path_layouts(
    source: Source, function: cst.FunctionDef, tensor: str, said: str
) -> Iterator[Layout]:
    for call in descend(function.body):
        if not isinstance(call, cst.Call) or _is_optional(source, call):
            continue
        name = source.name_of(call.func)
        first = call.args[0].value if call.args else None
        whole = is_name(first, tensor) and not call.args[0].star
        everywhere = (
            (name in _LIKE and whole and _is_drawn(source, call))
            or (name == "torch.rand" and _is_shape(first, tensor))
            or (name == "torch.nn.functional.dropout" and whole)
        )
        once = _PER_SAMPLE.search(said) and _is_scalar(name, call)
        if everywhere:
            yield Layout(call, f"a decision for every element of `{tensor}`")
        elif once and source.enclosing(call, _LOOPS) is None:
            yield Layout(call, "one decision for the whole batch")


def _is_optional(source: Source, call: cst.Call) -> bool:
    """Whether an option chooses this draw: `if mode == "batch"`."""
    return any(
        isinstance(around, (cst.If, cst.IfExp))
        and any(isinstance(n, cst.SimpleString) for n in descend(around.test))
        for around in source.ancestors(call)
    )


def _is_drawn(source: Source, call: cst.Call) -> bool:
    """Whether a tensor like the input is one of random numbers."""
    if source.name_of(call.func) == "torch.rand_like":
        return True
    parent = source.parents.get(call)
    if isinstance(parent, cst.Attribute):
        return parent.attr.value in ("bernoulli_", "bernoulli", "uniform_")
    around = source.parents.get(parent) if isinstance(parent, cst.Arg) else None
    return isinstance(around, cst.Call) and source.name_of(around.func) == "torch.bernoulli"


def _is_shape(node: cst.CSTNode | None, tensor: str) -> bool:
    match node:
        case cst.Attribute(value=cst.Name(value=name), attr=cst.Name("shape")):
            return name == tensor
        case cst.Call(
            func=cst.Attribute(value=cst.Name(value=name), attr=cst.Name("size")), args=[]
        ):
            return name == tensor
    return False


def _is_scalar(name: str, call: cst.Call) -> bool:
    if name in _SCALARS:
        bounds = 2 if name.endswith("uniform") else 0
        sized = any(a.keyword is not None and a.keyword.value == "size" for a in call.args)
        return len(call.args) <= bounds and not sized
    if name != "torch.rand" or not call.args:
        return False
    sizes = [a.value for a in call.args if a.keyword is None]
    match sizes:
        case [cst.List(elements=[one])] | [cst.Tuple(elements=[one])]:
            return number(one.value) == 1
        case [cst.Tuple(elements=[])] | [cst.List(elements=[])]:
            return True
        case [one]:
            return number(one) == 1
    return False


def _locked_layouts(
    source: Source, function: cst.FunctionDef, tensor: str, said: str
) -> Iterator[Layout]:
    batch_first, time_first = bool(_BATCH_FIRST.search(said)), bool(_TIME_FIRST.search(said))
    if batch_first is time_first:
        return
    for call in descend(function.body):
        if not isinstance(call, cst.Call) or _is_optional(source, call):
            continue
        last = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        sizes = [_size(a.value, tensor) for a in call.args if a.keyword is None and not a.star]
        if last not in _SHAPED or len(sizes) != 3:
            continue
        shared = {(1, "1", "2"): 0, ("0", 1, "2"): 1}.get(tuple(sizes))  # type: ignore[arg-type]
        if shared is not None and shared != (1 if batch_first else 0):
            yield Layout(call, "one decision for all samples, and another in every time step")


def _size(node: cst.BaseExpression, tensor: str) -> float | str | None:
    """1, or the number of the axis of `tensor` whose size is meant, as a text."""
    match node:
        case cst.Call(
            func=cst.Attribute(value=cst.Name(value=name), attr=cst.Name("size")),
            args=[cst.Arg(value=cst.Integer(value=axis))],
        ):
            return axis if name == tensor else None
        case cst.Subscript(
            value=cst.Attribute(value=cst.Name(value=name), attr=cst.Name("shape")),
            slice=[cst.SubscriptElement(slice=cst.Index(value=cst.Integer(value=axis)))],
        ):
            return axis if name == tensor else None
    return number(node)
