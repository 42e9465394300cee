"""From what was seen to what is wrong: one verdict per evaluation and per switch."""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from dropaudit.findings import Location
from dropaudit.static.program.heap import LOADED
from dropaudit.static.program.resolve import ClassRef, External
from dropaudit.static.program.sightings import Export, Sightings, Training, Visit, Way
from dropaudit.static.program.values import Event, Origin

if TYPE_CHECKING:
    from dropaudit.static.program.project import Project

_LAMBDA = re.compile(r"<lambda [\d:]+>")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A function that evaluates models which are in training mode; `first` is the first of them."""

    first: Visit
    models: tuple[Origin, ...]


def evaluations(seen: Sightings) -> Iterator[Evaluation]:
    """Evaluations reached in training mode, where nobody who calls them sees to the mode."""
    by_start: defaultdict[Event, list[Visit]] = defaultdict(list)
    for visit in seen.visits:
        by_start[visit.start].append(visit)
    by_function: dict[tuple[str, str, int], list[Visit]] = {}
    for start, visits in by_start.items():
        wrong = _wrong(start, visits)
        if wrong is not None and wrong.model.symbol == LOADED:  # stored whole by another script
            layer = seen.stored.get(posixpath.dirname(start.path), "")
            wrong = replace(wrong, layer=layer) if layer else None
        if wrong is not None:
            line = 0 if start.function else start.where.line
            by_function.setdefault((start.path, start.function, line), []).append(wrong)
    for visits in by_function.values():
        visits.sort(key=lambda visit: (visit.start.where.end_line, visit.start.where.end_column))
        models = tuple(dict.fromkeys(visit.model for visit in visits))
        yield Evaluation(visits[0], models)


def _wrong(start: Event, visits: list[Visit]) -> Visit | None:
    """The first visit in training mode, unless others show that somebody sees to the mode."""
    right = [visit for visit in visits if visit.verdict == "right"]
    for visit in right:
        switch = visit.switched
        own = switch is not None and (switch.path, switch.function) == (start.path, start.function)
        if not own:  # a caller, a decorator, or something that cannot be followed
            return None
    ways = {visit.way for visit in right}
    found = (v for v in visits if v.verdict == "wrong" and v.way not in ways)
    return next(found, None)


def exports(seen: Sightings) -> Iterator[Export]:
    """Exports reached in training mode, at calls where no other way comes with eval mode."""
    right = {export.at for export in seen.exports if export.verdict == "right"}
    told: set[Event] = set()
    for export in seen.exports:
        if export.verdict == "wrong" and export.at not in right | told:
            told.add(export.at)
            yield export


def neglected(seen: Sightings) -> Iterator[Training]:
    """Switches to eval mode after which a model is trained on, and that nothing ever undoes."""
    undone = {training.evaluated for training in seen.trainings if training.undone}
    told: set[Event] = set()
    for training in seen.trainings:
        if training.evaluated not in undone and training.evaluated not in told:
            told.add(training.evaluated)
            yield training


def place(event: Event) -> Location:
    """Where an event is, for a finding."""
    where = event.where
    return Location(event.path, where.line, where.column, where.end_line, where.end_column)


def called(model: Origin) -> str:
    """What a message calls a model: its variable, or its class.

    >>> called(Origin(External("torch.nn.Sequential"), True, ""))
    'Sequential'
    """
    if model.name and model.name != "self":
        return model.name
    match model.symbol:
        case ClassRef(_, name) | External(name):
            return name.rpartition(".")[2]
    return model.name or "the model"


def acting(layer: str) -> str:
    """What is on in training mode, for a message."""
    return f", with {layer} on" if layer else ""


def told(way: Way, project: Project, beside: str) -> str:
    """The way to a place in words: the functions, and where the calls between them are.

    `beside` is the file that the message is about: its lines need no name.
    """
    names = [_LAMBDA.sub("<lambda>", step.function) or "the script" for step in way.steps]
    if len(names) == 1:
        return ""
    calls = (
        project.spot(before.path, after.called_at.line, beside)
        for before, after in pairwise(way.steps)
        if after.called_at is not None
    )
    return f" on the way {' > '.join(names)} ({', '.join(calls)})"
