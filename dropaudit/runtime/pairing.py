"""Which call that runs inside a backward pass repeats which call of the forward pass.

Activation checkpointing runs a block again to get its activations back. Nothing says which run
belongs to which: blocks come back in any order, the inner ones of nested checkpoints twice, and one
dropout may serve many blocks. Three things tell: the random state at the beginning, the input, and
the order within a block. Of a run are kept the mask at the sampled positions, one byte each, 256
elements of the input, and a digest of the state, until the step after its own has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from dropaudit.runtime.measure import verdicts, wide
from dropaudit.runtime.outbox import Outbox
from dropaudit.runtime.recompute import Recompute
from dropaudit.runtime.sampling import Sampler
from dropaudit.runtime.sitelog import Call, SiteLog

BY_STATE = ("attention", "recurrent")
"""Kinds whose masks do not show."""
_KEY = 256
"""Elements of the input by which a run is known again."""
_ALIKE = 0.95
"""Share of them that must agree."""
_NOISE = 1e-3
"""Share of elements that may differ by odd rounding."""
_MOST_RUNS = 1024
_MOST_CANDIDATES = 64
_MOST_ELEMENTS = 4096
_ROWS = 96
_MOST_WAITING = 1024

Rows = Callable[[list[Call]], tuple[Tensor, Tensor, Tensor | float]]


@dataclass(eq=False)
class Run:
    """One run of a call: the first one, or another inside a backward pass."""

    log: SiteLog
    step: int
    number: int
    again: bool
    shape: tuple[int, ...]
    state: str | None
    """Names the random state that it began from."""
    about: Hashable = None
    """Where the site does not show: what the sites have in common that it may belong to."""
    own_generator: bool = False
    """Whether the state is not the one that its mask came from."""
    key: Tensor | None = None
    """Some of the input, shape (elements,)."""
    mask: Tensor | None = None
    """1 kept, -1 dropped, 0 hidden; shape (elements,), int8."""


@dataclass(frozen=True)
class _Match:
    """A first run that another may repeat, and what they have in common."""

    run: Run
    elements: int
    """Where both masks show."""
    differing: int
    alike: bool
    """Whether their inputs are."""


@dataclass
class _Tally:
    """What was counted at one site, by the names of `Recompute`."""

    calls: int = 0
    compared: int = 0
    redrawn: int = 0
    elements: int = 0
    differing: int = 0
    stopped: int = 0
    unpaired: int = 0
    first_step: int | None = None
    began: str | None = None
    began_again: str | None = None


@dataclass
class Pairing:
    """Keeps first runs, and finds those that later runs repeat."""

    outbox: Outbox
    rows: Rows
    """Samples of inputs and outputs of calls, stacked, made a plain mask times a scale."""
    awaits_functions: bool = False
    """Whether a function that is no module may be run again."""
    _runs: dict[SiteLog, list[Run]] = field(default_factory=lambda: defaultdict(list))
    _waiting: list[Run] = field(default_factory=list)
    _tallies: dict[SiteLog, _Tally] = field(default_factory=lambda: defaultdict(_Tally))
    _number: int = 0
    _last: tuple[int, Run] | None = None
    """The number of the last run if it differed from the first run that it repeats, and that."""
    _sampler: Sampler = field(default_factory=lambda: Sampler(_KEY))
    _masks: Sampler = field(default_factory=lambda: Sampler(_MOST_ELEMENTS))

    @property
    def full(self) -> bool:
        """Whether enough runs wait to be looked at together."""
        return len(self._waiting) >= _ROWS

    def record(self, log: SiteLog) -> Recompute:
        """What was found at a site."""
        return Recompute(**vars(self._tallies[log])) if log in self._tallies else Recompute()

    def awaited(self, about: Hashable) -> SiteLog | None:
        """The site of a run that is called with nothing around it, as a backward pass does.

        Args:
            about: what `about` gives for the site. Where several sites share it, the last to run
                is the first to be run again.
        """
        last: Run | None = None
        for log, runs in self._runs.items():
            if about_site(log) == about and (last is None or runs[-1].number > last.number):
                last = runs[-1]
        return None if last is None else last.log

    def begin(self, call: Call, state: str | None, x: Tensor, about: Hashable = None) -> Run:
        """A run begins that may be repeated, or that repeats another.

        Args:
            call: the call.
            state: names the random state.
            x: the input, or what was sampled of it.
            about: what `awaited` was asked, if the site was found so.
        """
        self._number += 1
        log = call.log
        run = Run(log, call.step, self._number, call.recomputed, call.shape, state, about)
        run.key = wide(self._sampler.take(x))
        self._waiting.append(run)
        if not run.again:
            self._runs[log].append(run)
            self.awaits_functions |= not log.is_module
        if len(self._waiting) >= _MOST_WAITING:
            self.measure()
        return run

    def read(self, run: Run, call: Call) -> None:
        """The call has returned: read its mask off its samples, now. Rows of them would wait in
        the middle of a backward pass, where memory is scarcest."""
        run.own_generator = call.own_generator
        if call.x is not None and call.y is not None and call.x.numel() > _MOST_ELEMENTS:
            take = self._masks.take
            call = replace(call, x=take(call.x), y=take(call.y))
        run.mask = verdicts(*self.rows([call]))[0]

    def _forget(self, step: int) -> None:
        """Let go of runs of steps before `step`, and of the oldest of too many."""
        kept = {
            log: [run for run in runs if run.step >= step][-_MOST_RUNS:]
            for log, runs in self._runs.items()
        }
        self._runs.clear()
        self._runs.update((log, runs) for log, runs in kept.items() if runs)
        self.awaits_functions = any(not log.is_module for log in self._runs)

    def measure(self) -> None:
        """Compare the masks of second runs with those of the first."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        again = [(run, self._candidates(run)) for run in waiting if run.again]
        found: dict[Run, list[_Match]] = {run: [] for run, _ in again}
        pairs: dict[Hashable, list[tuple[Run, Run]]] = defaultdict(list)
        for run, candidates in again:
            for first in candidates:
                size = None if run.mask is None or first.mask is None else run.mask.numel()
                if size is not None and first.mask is not None and first.mask.numel() != size:
                    continue
                if run.key is None or first.key is None or run.key.shape != first.key.shape:
                    continue
                pairs[size, run.key.shape, run.key.device].append((run, first))
        for rows in pairs.values():
            for start in range(0, len(rows), _ROWS):
                self._compare(rows[start : start + _ROWS], found)
        self._forget(waiting[-1].step - 1)
        # The outbox keeps the order: when this arrives, the numbers have.
        self.outbox.add(torch.zeros(0), partial(self._settle, found))

    def _candidates(self, again: Run) -> list[Run]:
        """First runs that a run may repeat: those that began from its random state, if any did."""
        logs = [again.log]
        if again.about is not None:
            logs = [log for log in self._runs if about_site(log) == again.about]
        runs = [
            run
            for log in logs
            for run in self._runs.get(log, ())
            if again.step - 1 <= run.step and run.shape == again.shape and run.number < again.number
        ]
        runs.sort(key=lambda run: run.number)
        same = [run for run in runs if again.state is not None and run.state == again.state]
        found = same or runs
        # If one of very many is the right one, the choice of the wrong one must not be an alarm.
        return found if len(found) <= _MOST_CANDIDATES else []

    def _compare(self, rows: list[tuple[Run, Run]], found: dict[Run, list[_Match]]) -> None:
        one, other = (
            torch.stack([key for pair in rows if (key := pair[n].key) is not None]) for n in (0, 1)
        )
        largest = torch.maximum(one.abs(), other.abs())
        alike = ((one - other).abs() <= 1e-2 * largest).to(torch.float32).mean(1)
        elements = differing = torch.zeros_like(alike)
        if all(run.mask is not None for pair in rows for run in pair):
            one, other = (
                torch.stack([mask for pair in rows if (mask := pair[n].mask) is not None])
                for n in (0, 1)
            )
            product = one * other
            elements = product.abs().sum(1, dtype=torch.float32)
            differing = (product < 0).sum(1, dtype=torch.float32)
        numbers = torch.stack([elements, differing, alike], dim=1)
        self.outbox.add(numbers, partial(_receive, rows, found))

    def _settle(self, found: dict[Run, list[_Match]], _: list[float]) -> None:
        """Choose for each run what it repeats; in the order in which they ran."""
        for again, matches in found.items():
            by_mask = again.mask is not None and again.log.kind not in BY_STATE
            same = [each for each in matches if _equal_state(each.run, again)]
            if by_mask:
                fitting = [m for m in matches if m.elements and m.differing <= _NOISE * m.elements]
            else:
                fitting = same
            chosen = self._likeliest(again, fitting, True)
            if chosen is None:
                chosen = self._likeliest(again, matches, False)
            tally = self._tallies[again.log if chosen is None else chosen.run.log]
            tally.calls += 1
            # What follows in the same block is told by its order only once the masks differ: then
            # its inputs do too.
            self._last = None if fitting or chosen is None else (again.number, chosen.run)
            if chosen is None:
                tally.unpaired += 1
                continue
            told = chosen.elements > 0 if by_mask else again.log.kind in BY_STATE
            tally.compared += told
            if fitting and not by_mask and not told:
                tally.stopped += not chosen.run.own_generator
            if not fitting:
                self._differs(tally, again, chosen, told)

    def _likeliest(self, again: Run, matches: list[_Match], fits: bool) -> _Match | None:
        """Inputs tell first, then random states, then what ran before."""
        following = None
        if self._last is not None and self._last[0] == again.number - 1:
            following = self._last[1].number
        best: tuple[tuple[bool, bool, bool], _Match] | None = None
        for match in matches:
            next_in_block = following is not None and match.run.number > following
            rank = match.alike, _equal_state(match.run, again), next_in_block
            if not (fits or match.alike or next_in_block):
                continue
            earlier = best is not None and next_in_block and best[0] == rank
            if best is None or rank > best[0] or (rank == best[0] and not earlier):
                best = rank, match
        return None if best is None else best[1]

    @staticmethod
    def _differs(tally: _Tally, again: Run, chosen: _Match, told: bool) -> None:
        first = chosen.run
        if told:
            tally.redrawn += 1
            tally.elements += chosen.elements
            tally.differing += chosen.differing
            if tally.first_step is None or first.step < tally.first_step:
                tally.first_step = first.step
        if tally.began is None and tally.began_again is None:
            tally.began, tally.began_again = first.state, again.state


def about_site(log: SiteLog) -> Hashable:
    """What a run shows of its site when nothing around it says where it is."""
    return about(log.kind, log.function, log.class_name, (log.file, log.line), log.is_module)


def about(
    kind: str, function: str, class_name: str, line: tuple[str, int], is_module: bool
) -> Hashable:
    """The same from its parts: the class for a module, the line for a function."""
    return kind, function, class_name if is_module else line


def _receive(
    rows: list[tuple[Run, Run]], found: dict[Run, list[_Match]], numbers: list[float]
) -> None:
    for n, (again, first) in enumerate(rows):
        elements, differing, alike = numbers[3 * n : 3 * n + 3]
        found[again].append(_Match(first, int(elements), int(differing), alike >= _ALIKE))


def _equal_state(one: Run, other: Run) -> bool:
    return one.state is not None and one.state == other.state
