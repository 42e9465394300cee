"""What the interpreter saw: calls of models and training steps, and the modes they found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dropaudit.static.program.code import Top
from dropaudit.static.program.values import Event, Origin, Step

Verdict: TypeAlias = Literal["wrong", "right", "open"]


@dataclass(frozen=True, slots=True)
class Way:
    """How the interpreter came to a place: the functions entered on the way, outermost first."""

    steps: tuple[Step, ...]
    loop_line: int = 0  # of the innermost loop around, in the innermost function that has one


@dataclass(frozen=True, slots=True)
class Visit:
    """A model was called where it is evaluated.

    `start` is the function that evaluates, as far as the call in it that leads to the model's.

    "wrong": surely in train mode; "right": in eval mode, or switched in a way that cannot be
    followed; "open": nothing is known of its mode, which counts for neither side.
    """

    at: Event
    start: Event
    model: Origin
    verdict: Verdict
    layer: str = ""
    way: Way = Way(())
    written: str = ""  # the model in the code of the function it is called in
    switched: Event | None = None  # the train() that set the mode, None: it was built so
    mate: Event | None = None  # the eval() of a model that is trained together with this one


@dataclass(frozen=True, slots=True)
class Training:
    """An optimizer step on a model that an earlier `eval()` had switched off.

    `undone` says that on some way to the same step the mode was train again.
    """

    evaluated: Event
    model: Origin
    at: Event
    way: Way
    undone: bool
    layer: str = ""
    written: str = ""  # the model in the code of the loop that trains
    top: Top | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """A model was recorded as a graph; the verdict as that of a visit."""

    at: Event
    model: Origin
    verdict: Verdict
    layer: str
    way: Way


@dataclass(slots=True)
class Sightings:
    """Everything that was seen, in the order in which it was seen; repeats are dropped."""

    visits: dict[Visit, None] = field(default_factory=dict)
    trainings: dict[Training, None] = field(default_factory=dict)
    exports: dict[Export, None] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)  # folder to layer in models stored whole
    given_up: dict[str, None] = field(default_factory=dict)  # entries that were too long

    def mark(self) -> tuple[int, int, int]:
        """How much was seen so far."""
        return len(self.visits), len(self.trainings), len(self.exports)

    def keep_doubts(self, mark: tuple[int, int, int]) -> None:
        """Of what was seen since `mark`, on a way without an end, keep what speaks for the code."""
        for export in list(self.exports)[mark[2] :]:
            if export.verdict != "right":
                del self.exports[export]
        visits, trainings = list(self.visits), list(self.trainings)
        for visit in visits[mark[0] :]:
            if visit.verdict != "right":
                del self.visits[visit]
        for training in trainings[mark[1] :]:
            if not training.undone:
                del self.trainings[training]
