"""The gradcheck of dropout: one module or function, alone, in every way that it can be called."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dropaudit.findings import Finding
from dropaudit.runtime.examination import Examination
from dropaudit.runtime.failure import settle
from dropaudit.runtime.judge import judge
from dropaudit.runtime.lens import output
from dropaudit.runtime.preservation import preserved, seed
from dropaudit.runtime.recognition import subject_of, tensors_of
from dropaudit.runtime.report import Report
from dropaudit.runtime.subject import Subject
from dropaudit.runtime.trace import Settings, Site, Trace, Unobserved
from dropaudit.runtime.trials import ATTENTION_SHAPES, DTYPES, SHAPES, module_shapes, values

_SEED = 20_140_601


def check_dropout(
    module_or_function: nn.Module | Callable[..., Any],
    inputs: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | None = None,
    *,
    p: float | None = None,
    on_finding: Literal["raise", "warn", "collect"] = "raise",
) -> Report:
    """Check a dropout as `torch.autograd.gradcheck` checks a gradient.

    In training: what is kept is scaled by one number, as many are dropped as declared, the
    backward pass uses the mask of the forward pass, also when it is differentiated again, and masks
    are fresh in every call. In eval: nothing is dropped and no random number drawn. With p = 0
    nothing changes. What adds a bias or a residual is looked at through its differences, attention
    through values that show its probabilities, and anything else through directional derivatives
    with the random numbers replayed.

    Args:
        module_or_function: a module (a copy is checked, where it can be copied), a function, also
            a `functools.partial` or a lambda, or an `autograd.Function` or its `apply`. A function
            is told the mode and the rate through parameters named as is usual: `training`, `p`,
            `drop_prob`, `dropout_p`...
        inputs: what one call takes, floating tensors first: a tensor, a tuple or a dict. Left
            out, tensors are made: several shapes, memory layouts and dtypes, as far as it
            takes them, on the device of the module.
        p: the drop probability to expect; None reads it from the object. Where it is unknown, the
            scale must be 1 over the keep rate.
        on_finding: "raise" raises `DropoutAuditError` if a finding has severity error, "warn"
            warns, "collect" does neither.

    Returns:
        A report with one site for each dtype. The result depends on the arguments alone; random
        states and the object are left as they were.

    Raises:
        DropoutAuditError: with the report, for findings of severity error.
        TypeError, ValueError: in one sentence, for arguments that are of no use, and where no
            input could be made that the object takes.

    >>> check_dropout(nn.Dropout(0.1)).findings
    ()
    """
    if on_finding not in ("raise", "warn", "collect"):
        raise ValueError(f"on_finding must be raise, warn or collect, and is {on_finding!r}")
    if p is not None and (isinstance(p, bool) or not isinstance(p, Real)):
        raise TypeError(f"p must be a number, and is of type {type(p).__name__}")
    if p is not None and not 0 <= p <= 1:
        raise ValueError(f"p must lie between 0 and 1, and is {p}")
    held = _modules_of(module_or_function)
    with preserved(*held), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is checked: shapes that it only tolerates
        seed(_SEED)
        subject = subject_of(_copied(module_or_function), p)
        report = _examined(subject, inputs)
    settle(report, on_finding)
    return report


def _modules_of(given: Any) -> list[nn.Module]:
    """The modules that a call of `given` may change: itself, or those its function refers to."""
    if isinstance(given, nn.Module):
        return [given]
    function = inspect.unwrap(getattr(given, "func", given)) if callable(given) else given
    cells = [cell for cell in getattr(function, "__closure__", None) or ()]
    held = [getattr(function, "__self__", None)]
    for cell in cells:
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    held += [getattr(function, "__globals__", {}).get(name) for name in names]
    return [one for one in held if isinstance(one, nn.Module)]


def _copied(given: Any) -> Any:
    if not isinstance(given, nn.Module):
        return given
    try:
        return copy.deepcopy(given)
    except Exception:
        return given  # it is put back at the end in any case


def _examined(subject: Subject, inputs: Any) -> Report:
    sites: list[Site] = []
    unobserved: list[Unobserved] = []
    extra: list[Finding] = []
    for tensors in _batches(subject, inputs):
        examination = Examination(subject, tensors, own=inputs is None, lead=not sites)
        sites.append(examination.site())
        if examination.unseen:
            unobserved.append(_unobserved(subject, examination.unseen))
        if not examination.every_dtype:
            extra += examination.extra
            break
        extra += examination.extra
    steps = sum(site.training.calls for site in sites)
    if all(site.p is None and not site.training.acted for site in sites):
        sites.clear()  # nothing says that it drops, and it does not
    trace = Trace(
        settings=Settings(elements=None),
        steps=steps,
        audited_steps=steps,
        forwards=steps,
        models=(subject.name,),
        torch=torch.__version__,
        sites=tuple(sites),
        unobserved=tuple(unobserved),
    )
    found = list(judge(trace))
    if not _errors(found):
        found += extra
    return Report(trace, tuple(_once(found)))


def _batches(subject: Subject, inputs: Any) -> Iterator[list[Tensor]]:
    """The tensors of one call, for each dtype that the subject takes."""
    if inputs is not None:
        yield _given(subject, inputs)
        return
    many = 1 if subject.tensors is None else subject.tensors
    if not many:
        raise ValueError(f"{subject.name} takes no tensor")
    module = subject.module
    weight = None if module is None else next(module.parameters(), None)
    if module is not None and weight is not None:
        if weight.dtype == torch.float32:  # directional derivatives need the digits
            module.double()
        dtypes: tuple[torch.dtype, ...] = (next(module.parameters()).dtype,)
        shapes = list(module_shapes(module))
        devices = [weight.device]
    else:
        dtypes, shapes = DTYPES, [*(ATTENTION_SHAPES if many == 3 else ()), *SHAPES]
        if subject.kind == "feature":  # a channel is a draw from this rank on
            shapes.sort(key=lambda shape: f"{len(shape) - 2}d" not in subject.name)
        devices = [torch.device("cpu")]
        if torch.cuda.is_available():
            devices.append(torch.device("cuda"))
    refused: list[Exception] = []
    taken = False
    for dtype in dtypes:
        tensors = _taken(subject, many, shapes, dtype, devices, refused)
        if tensors is not None:
            taken = True
            yield tensors
    if not taken:
        raise ValueError(
            f"no input could be made that {subject.name} takes: pass one call's as inputs="
        ) from (refused[-1] if refused else None)


def _taken(
    subject: Subject,
    many: int,
    shapes: list[tuple[int, ...]],
    dtype: torch.dtype,
    devices: list[torch.device],
    refused: list[Exception],
) -> list[Tensor] | None:
    """Tensors of the first shape that the subject takes; None if it takes none."""
    for device in devices:
        for shape in shapes:
            tensors = [values(shape, dtype, device) for _ in range(many)]
            try:
                _both_ways(subject, tensors)
            except Exception as error:
                refused.append(error)  # what it does not take it says
                continue
            return tensors
    return None


def _unobserved(subject: Subject, reason: str) -> Unobserved:
    what, advice = f"the backward pass of {subject.name}", "check the parts that it is made of"
    return Unobserved("", what, reason, advice, subject.where)


def _both_ways(subject: Subject, tensors: list[Tensor]) -> None:
    """One call and its backward pass."""
    leaves = [tensor.clone().requires_grad_(True) for tensor in tensors]
    y = output(subject.call([leaf * 1 for leaf in leaves]))
    if y.requires_grad:
        torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)


def _given(subject: Subject, inputs: Any) -> list[Tensor]:
    """The floating tensors of `inputs`; the rest is bound to the subject."""
    args, named = tensors_of(inputs)
    inner = subject.function
    if subject.positional or not subject.tensors:
        extra: list[Any] = []
    else:
        args, extra = args[: subject.tensors], args[subject.tensors :]
    names = [name for name in (subject.rate_name, subject.mode_name) if name]
    for name, value in zip(names, extra, strict=False):
        named[name] = value
    if subject.rate_name and isinstance(named.get(subject.rate_name), Real):
        rate = float(named.pop(subject.rate_name))
        subject.p = 1 - rate if subject.keeps else rate
    named.pop(subject.mode_name, None)
    is_leaf = [isinstance(one, Tensor) and one.is_floating_point() for one in args]
    leaves = [one for one, leaf in zip(args, is_leaf, strict=True) if leaf]
    keys = [k for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point()]
    leaves += [named.pop(key) for key in keys]
    weight = None if subject.module is None else next(subject.module.parameters(), None)
    if not leaves and weight is None:
        raise ValueError("inputs hold no floating tensor: there is nothing to drop")
    if subject.module is not None and weight is not None and weight.dtype == torch.float32:
        subject.module.double()
        leaves = [leaf.double() if leaf.dtype == torch.float32 else leaf for leaf in leaves]

    def bound(*tensors: Any, **options: Any) -> Any:
        rest = iter(tensors)
        positional = [next(rest) if leaf else one for one, leaf in zip(args, is_leaf, strict=True)]
        taken = dict(zip(keys, rest, strict=False))
        return inner(*positional, **taken, **named, **options)

    if not subject.positional:
        subject.function = bound
    return [leaf.detach().clone() for leaf in leaves]


def _errors(found: list[Finding]) -> bool:
    return any(finding.severity.value == "error" for finding in found)


def _once(found: list[Finding]) -> list[Finding]:
    """One finding a code: the dtypes are one place."""
    seen: dict[str, Finding] = {}
    for finding in found:
        seen.setdefault(finding.code, finding)
    return list(seen.values())
