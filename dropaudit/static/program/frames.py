"""Where the interpreter is: the function it is in, and what surrounds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from dropaudit.static.program.code import Top
from dropaudit.static.program.resolve import FunctionRef
from dropaudit.static.program.settled import Settled
from dropaudit.static.program.sightings import Way
from dropaudit.static.program.values import Frame, State, Step, Values

Outcome: TypeAlias = tuple[State, Values]
Arguments: TypeAlias = list[tuple[str, Values]]
"""By keyword; "" for a positional one, "*" and "**"."""


@dataclass(frozen=True, slots=True)
class Context:
    """The frame and what holds for the statement that is run in it.

    `hidden` says that a decorator around may have switched modes. `trains`, `measures` and
    `held_out` speak of the innermost loop, or of the function where there is none: whether a
    backward pass is made in it, whether results are measured, whether it goes over held-out data.
    `guards` are the tests that were true on the way here, `phase` is the number of the step (see
    `steps`) in whose function gradients were turned off, `loop_top` that of the loop's body.
    `settled` are the parameters that were passed a truth value, `told` says that they keep the
    function from training: `run_epoch(model, loader, train=False)`.
    """

    frame: Frame
    chain: tuple[FunctionRef, ...] = ()
    steps: tuple[Step, ...] = ()
    grad_off: bool = False
    hidden: bool = False
    trains: bool = False
    function_trains: bool = False
    measures: bool = False
    held_out: bool = False
    loop_line: int = 0
    guards: tuple[str, ...] = ()
    phase: int = -1
    loop_top: Top | None = None
    settled: Settled = frozenset()
    told: bool = False

    @property
    def way(self) -> Way:
        return Way(self.steps, self.loop_line)


@dataclass(slots=True)
class Exits:
    """How control left a block other than by its end."""

    returned: list[Outcome] = field(default_factory=list)
    broken: list[State] = field(default_factory=list)
    continued: list[State] = field(default_factory=list)
