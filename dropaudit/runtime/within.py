"""Which dropout functions of torch a call makes, seen from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

from dropaudit.runtime import sites
from dropaudit.runtime.sites import Application


class Within(TorchFunctionMode):
    """Collects the dropout functions that are called while it is entered.

    >>> import torch
    >>> with Within() as within:
    ...     _ = torch.nn.functional.dropout(torch.ones(3), 0.2)
    >>> [(one.function, one.p) for one in within.applications]
    [('F.dropout', 0.2)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.applications: list[Application] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        asked = application_of(func, args, kwargs)
        if asked is not None:
            self.noted(asked)
        return func(*args, **kwargs)

    def noted(self, asked: Application) -> None:
        """A dropout function is about to run."""
        self.applications.append(asked)


def application_of(func: Any, args: Any, kwargs: Any) -> Application | None:
    """What a call asks for, if it is one of torch's functions with dropout."""
    signature = sites.FUNCTIONS.get(func)
    if signature is not None:
        return sites.function_application(signature, args, kwargs)
    if func is sites.ATTENTION:
        p = kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0)
        return Application("attention", "F.scaled_dot_product_attention", float(p), True)
    if func is sites.MULTI_HEAD:
        names = ("dropout_p", "training")
        bound = dict(zip(names, (args[10:11] + args[13:14]), strict=False)) | kwargs
        p, on = bound.get("dropout_p", 0.0), bool(bound.get("training", True))
        return Application("attention", "F.multi_head_attention_forward", float(p), on)
    return None
