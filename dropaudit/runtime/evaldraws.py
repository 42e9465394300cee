"""Dropout that is on during a pass in eval mode: which call, from which line."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from dropaudit.catalogue import pages
from dropaudit.findings import Finding, Location
from dropaudit.runtime.observer import Observer
from dropaudit.runtime.places import location, user_line
from dropaudit.runtime.sites import Application
from dropaudit.runtime.within import Within


@dataclass(frozen=True)
class Drawn:
    """A dropout function that was called, and told to drop, in eval mode."""

    where: Location
    function: str
    p: float
    direct: bool
    """Called by the user's code, not by a dropout module of torch."""
    module: nn.Module | None
    """The dropout module of torch that called it."""
    attention: bool


class EvalDraws(Within):
    """Writes down the dropout functions that are told to drop while it is entered."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer
        self.drawn: list[Drawn] = []

    def noted(self, asked: Application) -> None:
        """Keep it with its place, if it drops."""
        if not asked.on or not asked.p or asked.p <= 0:
            return
        module = _caller()
        path = self._observer.open[-1] if self._observer.open else "-"
        file, line = user_line()
        drawn = Drawn(
            location(file, line, path),
            asked.function,
            float(asked.p or 0),
            module is None,
            module,
            asked.kind == "attention",
        )
        if drawn not in self.drawn:
            self.drawn.append(drawn)


def draws_in_eval(draws: EvalDraws, model: nn.Module) -> list[Finding]:
    """The findings that the calls amount to, in the order in which they were made."""
    known = set(model.modules())
    return [_finding(drawn, known, model) for drawn in draws.drawn]


def finding(
    code: str, where: Location, message: str, figures: tuple[tuple[str, float], ...]
) -> Finding:
    """A finding under `code`, with the name, the severity and the help of its page.

    >>> finding("DRP201", Location("net.py", 1, 1, 1, 1), "on in eval", ()).name
    'functional-dropout-ignoring-mode'
    """
    page = pages()[code]
    _, _, instead = page.doc.partition("\n## Use instead\n")
    help_ = " ".join(instead.strip().split("\n\n")[0].split())
    return Finding(code, page.name, page.severity, where, message, help_, figures=figures)


def _finding(drawn: Drawn, known: set[nn.Module], model: nn.Module) -> Finding:
    message = f"{drawn.function} with p = {drawn.p:g} drops after model.eval()"
    if drawn.direct:
        code = "DRP202" if drawn.attention else "DRP201"
        message += ": it was not told the mode of its module"
    elif drawn.module not in known:
        code = "DRP204"
        message += f": {type(drawn.module).__name__} is not among the modules of the model"
    elif _overridden(model):
        code = "DRP208"
        message += f": eval() of {_overridden(model)} does not reach it"
    else:
        code = "DRP205"
        message += ": its module was put into training mode again"
    return finding(code, drawn.where, message, (("p", drawn.p),))


def _caller() -> nn.Module | None:
    """The module of torch whose `forward` made the call, None when the user's code did."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
        if name.startswith(("torch.nn.modules.dropout", "torch.nn.modules.activation")):
            owner = frame.f_locals.get("self")
            return owner if isinstance(owner, nn.Module) else None
        if not name.startswith(("torch.", "dropaudit.")):
            return None
    return None


def _overridden(model: nn.Module) -> str:
    """The class of a module in the model that has a `train` or `eval` of its own; "" if none."""
    for module in model.modules():
        cls = type(module)
        if cls.train is not nn.Module.train or cls.eval is not nn.Module.eval:
            return cls.__name__
    return ""
