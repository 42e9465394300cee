"""What happens to models: forward passes, backward passes, optimizer steps."""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace

from dropaudit.static.program import lexicon
from dropaudit.static.program.code import Argument, Call, Constant, Span
from dropaudit.static.program.frames import Context
from dropaudit.static.program.heap import LOADED, Heap
from dropaudit.static.program.resolve import ClassRef
from dropaudit.static.program.sightings import Export, Sightings, Training, Verdict, Visit
from dropaudit.static.program.values import Event, Mode, Object, State
from dropaudit.static.purpose import PURPOSE, words

_LOSS = re.compile(r"crit|loss|metric|objective", re.IGNORECASE)  # a module, but no model
_LONGEST = 40  # lines of a report


class Events:
    """Enters what happens into the sightings."""

    def __init__(self, heap: Heap, seen: Sightings) -> None:
        self._heap = heap
        self._seen = seen
        self._written: dict[tuple[int, int], str] = {}

    # -- forward ---------------------------------------------------------------------------

    def forward(self, ctx: Context, state: State, thing: Object, node: Call, written: str) -> None:
        """A model, `written` in the code of the call, was called."""
        carrier = self._heap.carrier(state, thing.number)
        if carrier is None and self._heap.origins[thing.number].symbol == LOADED:
            carrier = thing.number  # only what is called is a model, and no other thing
            state.modes[carrier] = Mode("train", loaded=True)
        if carrier is None:
            state.strangers.add(thing.number)
            return
        mode = state.modes[carrier]
        volatile = any(a.name == "volatile" and a.value == Constant(True) for a in _deep(node))
        self._written[ctx.frame.number, thing.number] = written
        self._written.setdefault((ctx.frame.number, carrier), "")
        grad = state.grad and not ctx.grad_off and not volatile
        if grad:
            state.pending[carrier] = mode
            state.stepped.pop(carrier, None)
        if self._is_evaluation(ctx, grad) or (mode.loaded and _is_used(ctx)):
            self._visit(ctx, state, thing, mode, node)

    def _is_evaluation(self, ctx: Context, grad: bool) -> bool:
        """Whether models are judged, or used, where we are."""
        path, name = ctx.frame.path, ctx.frame.qualified
        last = name.rpartition(".")[2]
        if ctx.trains or lexicon.TEST_FILE.search(path) or lexicon.SPARED.search(last):
            return False
        if not grad:
            if ctx.held_out or ctx.measures:
                return True
            return bool(lexicon.EVALUATES.search(last)) and not ctx.function_trains
        if ctx.told:  # `run_epoch(model, loader, train=False)`
            caller = ctx.steps[-2].function.rpartition(".")[2] if len(ctx.steps) > 1 else ""
            return ctx.held_out or ctx.measures or bool(lexicon.STRICTLY_EVALUATES.search(caller))
        return bool(lexicon.STRICTLY_EVALUATES.search(last)) and not ctx.function_trains

    def _visit(self, ctx: Context, state: State, thing: Object, mode: Mode, node: Call) -> None:
        origin = self._heap.origins[thing.number]
        at = Event(ctx.frame.path, node.where, ctx.frame.qualified)
        start = self._start(ctx, at)
        layer, whole = self._heap.layer(thing)
        # of a model that cannot be looked into, its author says by `train()` that the mode matters
        told = thing.number in state.modes and mode.switch is not None and not whole
        told = told and not isinstance(origin.symbol, ClassRef) and not _LOSS.search(origin.name)
        inside = start.path == at.path and start.function == at.function
        written = self._written[ctx.frame.number, thing.number] if inside else ""
        verdict: Verdict = "open"
        if ctx.hidden or mode.kind in ("eval", "unknown"):
            verdict = "right"
        elif any(PURPOSE.search(words(step.function)) for step in ctx.steps):
            verdict = "open"  # a Bayesian trainer samples on purpose
        elif mode.kind == "train" and (mode.trained or mode.loaded):
            verdict = "wrong" if layer or told or origin.symbol == LOADED else "open"
        mate = None
        for number in sorted(mode.mates):
            other = state.modes.get(number)
            if other is not None and other.kind == "eval" and other.switch is not None:
                mate = mate or other.switch
        self._seen.visits.setdefault(
            Visit(at, start, origin, verdict, layer, ctx.way, written, mode.switch, mate)
        )

    def _start(self, ctx: Context, at: Event) -> Event:
        """The function in which the evaluation begins, down to the call that leads to `at`."""
        number = ctx.phase
        if number < 0:  # who tells a function not to train is who evaluates
            number = len(ctx.steps) - (2 if ctx.told and len(ctx.steps) > 1 else 1)
        step = ctx.steps[number]
        inside = number == len(ctx.steps) - 1
        call = at.where if inside else ctx.steps[number + 1].called_at or at.where
        if not step.function or step.trains or call.end_line - step.where.line > _LONGEST:
            return Event(step.path, call, step.function)
        first = step.where
        span = Span(first.line, first.column, call.end_line, call.end_column)
        return Event(step.path, span, step.function)

    # -- export ----------------------------------------------------------------------------

    def export(self, ctx: Context, state: State, things: list[Object], where: Span) -> None:
        """A model, one of `things`, was recorded as a graph."""
        at = Event(ctx.frame.path, where, ctx.frame.qualified)
        for thing in things:
            parts = [thing, *self._heap.parts(thing)]
            modes = [self._heap.mode(state, part.number) for part in parts]
            kinds = {"given" if mode is None else mode.kind for mode in modes[:1]}
            kinds |= {mode.kind for mode in modes if mode is not None}
            layer, _ = self._heap.layer(thing)
            verdict: Verdict = "open"
            if ctx.hidden or kinds & {"eval", "unknown"}:
                verdict = "right"
            elif kinds == {"train"} and layer and not _is_meant(ctx, modes):
                verdict = "wrong"
            origin = self._heap.origins[thing.number]
            self._seen.exports.setdefault(Export(at, origin, verdict, layer, ctx.way))

    # -- backward --------------------------------------------------------------------------

    def backward(self, ctx: Context, state: State, where: Span) -> None:
        """A backward pass went through the models that were called since the last."""
        mates = frozenset(state.pending)
        for number, mode in state.pending.items():
            current = state.modes.get(number, mode)
            if mode.kind == "eval":
                if mode.switch is not None and mode.trained:
                    state.stepped[number] = mode
                continue
            if mode.evaluated is not None and mode.kind == "train" and _is_undone(ctx, mode):
                self._training(ctx, Object(number), mode.evaluated, where, undone=True)
            state.modes[number] = replace(
                current, trained=True, evaluated=None, mates=(current.mates | mates) - {number}
            )
        state.pending.clear()
        self._heap.trained |= state.strangers
        state.strangers.clear()

    def step(self, ctx: Context, state: State, where: Span, stepper: str) -> None:
        """An optimizer took a step."""
        if "sched" in stepper.lower():
            return
        for number, mode in state.stepped.items():
            assert mode.switch is not None
            self._training(ctx, Object(number), mode.switch, where, undone=False)
        state.stepped.clear()

    def _training(
        self, ctx: Context, thing: Object, evaluated: Event, where: Span, undone: bool
    ) -> None:
        origin = self._heap.origins[thing.number]
        layer, whole = self._heap.layer(thing)
        if not layer and (isinstance(origin.symbol, ClassRef) or (whole and origin.symbol)):
            return
        at = Event(ctx.frame.path, where, ctx.frame.qualified)
        written = self._written.get((ctx.frame.number, thing.number), "")
        training = Training(evaluated, origin, at, ctx.way, undone, layer, written, ctx.loop_top)
        self._seen.trainings.setdefault(training)


def _is_used(ctx: Context) -> bool:
    """Whether this is the main code of a script that uses a model, and never trains one."""
    stem = posixpath.basename(ctx.frame.path).rpartition(".")[0]
    if ctx.trains or ctx.function_trains or ctx.frame.qualified not in ("", "main", "run"):
        return False
    return bool(lexicon.SCRIPT_EVALUATES.search(stem)) and not lexicon.TEST_FILE.search(
        ctx.frame.path
    )


def _is_meant(ctx: Context, modes: list[Mode | None]) -> bool:
    """Whether the graph of an export is to be trained, or `train()` is said right beside it."""
    if any(mode is not None and mode.trained for mode in modes):
        return False
    if any(step.trains for step in ctx.steps):
        return True
    switch = None if modes[0] is None else modes[0].switch
    here = ctx.frame.path, ctx.frame.qualified
    return switch is not None and (switch.path, switch.function) == here


def _is_undone(ctx: Context, mode: Mode) -> bool:
    """Whether a switch back to train mode comes before the next batch, not only the next epoch."""
    switch = mode.switch
    if switch is None or (switch.path, switch.function) != (ctx.frame.path, ctx.frame.qualified):
        return True
    return switch.where.line > ctx.loop_line


def _deep(node: Call) -> list[Argument]:
    """The arguments of a call and of the calls in its arguments."""
    found: list[Argument] = []
    stack = [node]
    while stack:
        for argument in stack.pop().arguments:
            found.append(argument)
            if isinstance(argument.value, Call):
                stack.append(argument.value)
    return found
