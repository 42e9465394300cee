"""The calls of sites: what is sampled of each, and how its gradients are followed."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.hooks import RemovableHandle

from dropaudit.runtime.attention import AttentionCall, value_side
from dropaudit.runtime.blindspots import BlindSpots
from dropaudit.runtime.checkpointing import (
    in_backward,
    is_checkpointed,
    is_discarded,
    may_run_again,
    name_of_state,
)
from dropaudit.runtime.clock import Clock
from dropaudit.runtime.graph import edge_of, follow, next_number
from dropaudit.runtime.idle import IdleWatch
from dropaudit.runtime.inplace import is_used_again
from dropaudit.runtime.ledger import Ledger, alpha_shift
from dropaudit.runtime.measure import disagreements, shown, varying
from dropaudit.runtime.pairing import Run, about
from dropaudit.runtime.phases import Phases
from dropaudit.runtime.places import user_line
from dropaudit.runtime.probe import evaluate
from dropaudit.runtime.ranks import Ranks
from dropaudit.runtime.sampling import Sampler, seen_fully, thinned
from dropaudit.runtime.shards import are_alike, own_part
from dropaudit.runtime.sitebook import SiteBook
from dropaudit.runtime.sitelog import SHAPED_BY_DATA, Call, SiteLog
from dropaudit.runtime.sites import Application, is_torch_dropout
from dropaudit.runtime.stepping import Stepping
from dropaudit.runtime.threads import THREAD, Heard, random_state, unseen
from dropaudit.runtime.trace import Settings
from dropaudit.runtime.tree import Tree

_PROBES = 64
_MOST_ROWS = 512
_MOST_HANDLES = 4096
_NOTHING = torch.empty(0)


@dataclass(eq=False)
class Begun:
    """A call that has begun: what must be known of its input before it runs."""

    call: Call
    application: Application
    x: Tensor
    edge: GradientEdge | None
    since: int
    sampled: bool
    run: Run | None = None
    """What is kept of it to be found again, where it may run twice."""

    def release(self) -> None:
        """Let go of the input, and of the graph: the call may be remembered for longer."""
        self.x, self.edge = _NOTHING, None

    def scaled_by(
        self, factors: tuple[float, ...], keep: float | None, of_mask: tuple[float, ...] = ()
    ) -> None:
        """The input was, or the output is, multiplied by numbers elsewhere.

        Only factors that have to do with the rate are part of the dropout, and once it is scaled
        as it should be, only the same factor again: a mean of two is a half, and no rate.

        Args:
            factors: the numbers.
            keep: the keep probability.
            of_mask: what the mask was multiplied by, which the output shows already.
        """
        if keep is None or not 0 < keep < 1:
            return
        own = (1 / keep, keep, 1 / (1 - keep), 1 - keep)
        shown = math.prod(f for f in of_mask if _any_near(f, own))
        gain = 1.0
        for factor in _related(factors, own):
            if _any_near(shown * gain, own[:1]) and (
                _any_near(keep, (0.5,)) or not _any_near(factor, own[:1])
            ):
                continue
            gain *= factor
        self.call.gain = gain


class Calls:
    """Begins and ends the calls of the sites of one audit."""

    def __init__(self, tree: Tree, settings: Settings, clock: Clock, ranks: Ranks) -> None:
        self._tree = tree
        self.ranks = ranks
        self._clock = clock
        self._whole = settings.elements is None
        self._elements = settings.elements
        self._sampler = Sampler(settings.elements or Settings.elements)
        self._everything = Sampler(None)
        self.ledger = Ledger(settings.every)
        self.book = SiteBook(tree)
        self.phases = Phases()
        self.stepping = Stepping(tree)
        self.idle = IdleWatch(tree)
        self.blind = BlindSpots(tree)
        self.devices: dict[str, None] = {}
        self._handles: list[RemovableHandle] = []
        self._last: tuple[ref[Tensor], SiteLog] | None = None
        self._unprobed: dict[int, tuple[SiteLog, float | None]] = {}

    def root(self) -> nn.Module | None:
        """The outermost module of an audited model that runs in this thread."""
        depth = THREAD.roots.get(self)
        return None if depth is None else THREAD.stack[depth]

    @staticmethod
    def edge(x: Tensor) -> tuple[GradientEdge | None, int]:
        """Where the gradient of an input goes, and which nodes will be younger than now."""
        return edge_of(x), next_number()

    def begin(
        self,
        module: nn.Module | None,
        application: Application,
        x: Tensor,
        draw: int | None = None,
        *,
        edge: tuple[GradientEdge | None, int] | None = None,
        sample: bool = True,
    ) -> Begun | None:
        """A call of a site begins. None if it is not part of this audit.

        Args:
            module: the site, where it is a module of its own.
            draw: which draw a hand-written mask came from.
            edge: what `edge(x)` gave earlier, for a call that has already run.
            sample: whether elements of the input are wanted.
        """
        again, holder = in_backward(), self.book.holder(module)
        where = self._about(module, application) if again and holder is None else None
        known = None if where is None else self.ledger.pairing.awaited(where)
        if known is None and holder is None and not self._tree.open:
            return None
        owner = module if module is not None else (THREAD.stack[-1] if THREAD.stack else None)
        log = known or self.book.log(module, owner, application)
        if owner is not None:
            training = owner.training
        else:
            training = True if application.on is None else application.on
        p = application.p
        asked = x.numel() > 0 and (p is None or 0 < p < 1)
        recomputed = again and log.counts[training]["calls"] > 0
        if not recomputed:
            self._count(log, module, owner, application, training, asked)
        elif training:
            log.recompute_step = self._clock.step
        if log.step != self._clock.step:
            log.step, log.ordinal = self._clock.step, 0
        ordinal = log.ordinal
        log.ordinal += training and not recomputed
        step = self._clock.step + 1
        call = Call(log, step, training, ordinal, recomputed, p, self._sampler, draw=draw)
        call.checkpointed = is_checkpointed()
        works = asked and training and application.on is not False
        if works and not recomputed and self._last is not None:
            log.repeated_on_result += self._last[0]() is x and self._last[1] is not log
        spread, x = x, own_part(x)
        if spread is not x:
            log.groups = log.groups or self.ranks.of_tensor(spread)
        readable = seen_fully(x)
        if not readable:
            self.blind.cannot_read(log, self.book.name(log), x)
            call.shape = ()
            return Begun(call, application, x, None, 0, False)
        sampled = sample and asked and application.on is not False
        log.dtype = x.dtype if log.dtype is None else log.dtype
        self.devices[str(x.device)] = None
        to, since = self.edge(spread) if edge is None else edge
        call.shape = tuple(x.shape)
        call.units = application.units
        call.by_mask = _is_seen_by_mask(application)
        if self._whole and not call.by_mask:
            call.sampler = self._everything
        if application.kind == "alpha" and p is not None and (training or application.on):
            call.shift = alpha_shift(p)
        if sampled:
            with unseen():
                call.x = call.sampler.take(x)
                if ordinal == 0 and training and self._clock.reads_state:
                    call.state = random_state(x.device)
                    call.root_state = THREAD.root_state
        elif not sample:
            call.state = random_state(x.device)
        if application.kind == "region" and not training:
            call.state = random_state(x.device)
        run = None
        if works and (recomputed or may_run_again()):
            state = None if edge is not None else call.state
            with unseen():
                if state is None and edge is None:
                    state = random_state(x.device)
                run = self.ledger.pairing.begin(
                    *(call, name_of_state(state), x if call.x is None else call.x),
                    None if known is None else where,
                )
        return Begun(call, application, x, to, since, sampled, run)

    @staticmethod
    def _about(module: nn.Module | None, application: Application) -> Hashable:
        """What a call with no audited module around it shows of its site."""
        kind, function, line = application.kind, application.function, user_line()
        name = type(module).__name__
        return about(kind, function, name, line, module is not None)

    def _count(
        self,
        log: SiteLog,
        module: nn.Module | None,
        owner: nn.Module | None,
        application: Application,
        training: bool,
        asked: bool,
    ) -> None:
        """Count a call that is no second run of another."""
        p = application.p
        by_hand = application.kind == "mask" or (module and not is_torch_dropout(module))
        if by_hand and training and owner is not None and not log.counts[True]:
            self._unprobed[self._tree.serial(owner)] = (log, p)
        log.count(training, asked, application.on)
        if asked:
            log.rate(p)
        if module is not None and asked:
            self.stepping.called(self.root(), module)
        if owner is not None and p:
            self.idle.called(owner, torch.is_grad_enabled())
            if module is None:
                self.idle.lent(owner, p)
                above = self._tree.owner(owner)
                if above is not None:
                    self.idle.lent(above, p)

    def end(self, begun: Begun, y: Tensor | None, heard: Heard) -> None:
        """The call has returned `y`."""
        call, log, x = begun.call, begun.call.log, begun.x
        result, y = y, own_part(y)
        if heard.draw:
            log.inside = log.inside or "mask"
            call.own_generator = heard.own_generator
        elif heard.function:
            log.inside = log.inside or "function"
        if call.state is not None and not call.training and x.device.type == "cpu":
            now = random_state(x.device)
            log.moved_in_eval += now is not None and not torch.equal(now, call.state)
        if y is None or result is None or not seen_fully(y):
            return
        if begun.edge is None and not seen_fully(x):
            return
        unchanged = y is x and not begun.application.inplace
        if unchanged or y.shape != call.shape:
            if y.shape != call.shape:
                log.not_elementwise += not call.recomputed
            elif call.training and begun.sampled:
                self._unchanged(begun, x)
            return
        with unseen():
            if call.x is None:
                if begun.application.inplace or not x.numel():
                    return
                call.x = call.sampler.take(x)
            call.y = call.sampler.take(y)
            if begun.run is not None:
                self.ledger.pairing.read(begun.run, call)
            drawn = not call.recomputed and _is_drawn(call, heard)
            if self._whole and call.by_mask and begun.sampled:
                self._take_whole(begun, y, drawn)
            if begun.application.kind in SHAPED_BY_DATA and call.training and not call.recomputed:
                self._probe(log, begun, y)
        log.bytes_now += call.x.nbytes + call.y.nbytes
        log.memory = max(log.memory, log.bytes_now)
        if drawn:
            self.ledger.forward(call)
        if self.ledger.waiting > _MOST_ROWS:
            with unseen():
                self.ledger.measure()
        self._connect(begun, result)
        if call.recomputed:
            return
        if begun.sampled:
            self._note_dropped(log, call)
        if begun.application.kind in ("elementwise", "alpha", "region"):
            self._last = (ref(result), log)
        if begun.application.inplace and call.training and begun.sampled:
            log.corrupted += is_used_again(x, THREAD.stack, THREAD.arguments)
        if (
            log.kind in SHAPED_BY_DATA
            and log.is_module
            and call.training
            and not (heard.draw or heard.function)
        ):
            self._note_host_mask(call, x, heard)

    def end_attention(self, begun: Begun, attention: AttentionCall, output: Tensor) -> None:
        """An attention call with dropout has returned."""
        call, log = begun.call, begun.call.log
        if not call.recomputed:
            log.acted(call.training, call.step)
            self._note_dropped(log, call)
            self._compare_states(call)
        if not call.training or not torch.is_grad_enabled() or _leads_nowhere(call):
            return
        if begun.edge is None or output.grad_fn is None or not seen_fully(output):
            log.no_gradient += not call.recomputed
            return
        with unseen():
            if not attention.choose(output, self._elements):
                log.unlinked += 1
                return
            out = attention.of_output(output).clone()
            value = attention.of_value(attention.value).clone()
        log.bytes_now += out.nbytes + value.nbytes
        log.memory = max(log.memory, log.bytes_now)
        attention.value = value  # the call must not keep the whole tensor alive

        def arrived(dy: Tensor, dx: Tensor | None) -> None:
            if dx is None or not seen_fully(dy) or not seen_fully(dx):
                return
            with unseen():
                left = attention.of_output(dy) * out
                right = attention.of_value(dx) * value
                recomputed = call.checkpointed or log.recompute_step == call.step - 1
                self.ledger.products(call, left, right, recomputed)

        only = value_side(output.grad_fn)
        handles = [] if only is None else follow(output, begun.edge, begun.since, arrived, only)
        log.unlinked += not handles
        for handle in handles:
            self.keep(handle)

    def end_moved(self, begun: Begun) -> None:
        """A call whose randomness shows in the generator only has returned."""
        call, log = begun.call, begun.call.log
        if call.recomputed:
            return
        state = random_state(begun.x.device)
        on_cpu = begun.x.device.type == "cpu"
        if on_cpu and call.state is not None and state is not None:
            moved = not torch.equal(call.state, state)
        else:  # cuDNN keeps a state of its own
            moved = begun.application.on is not False
        if moved:
            log.acted(call.training, call.step)
            self._note_dropped(log, call)
            if on_cpu:
                self._compare_states(call)

    def _compare_states(self, call: Call) -> None:
        """Masks that cannot be seen are equal where the random states at their begin are."""
        log = call.log
        if not call.training or call.recomputed or call.ordinal or call.state is None:
            return
        self.ledger.fingerprints.state(call)
        now = (call.state, THREAD.root_state)
        before, log.first_state = log.first_state, now
        if before is None:
            return
        log.compared += 1
        if torch.equal(before[0], now[0]):
            log.repeats += 1
            if before[1] is not None and now[1] is not None:
                log.reseeded += not torch.equal(before[1], now[1])
            log.first_repeat = call.step if log.first_repeat is None else log.first_repeat

    def _note_dropped(self, log: SiteLog, call: Call) -> None:
        if call.training and self.root() is not None:
            self.phases.dropped(self.book.name(log) or log.class_name)

    def _note_host_mask(self, call: Call, x: Tensor, heard: Heard) -> None:
        """Nothing of torch drew random numbers in a user's dropout: where is its mask from?

        Only the first call tells: a mask that is kept is drawn once.
        """
        log = call.log
        if log.counts[True]["calls"] > 1 and not log.host_mask:
            return
        now = None if call.state is None else random_state(x.device)
        still = now is not None and call.state is not None and torch.equal(now, call.state)
        log.host_mask += still or heard.host

    def _connect(self, begun: Begun, y: Tensor) -> None:
        call, log = begun.call, begun.call.log
        if not call.training or not torch.is_grad_enabled() or _leads_nowhere(call):
            return
        if begun.edge is None or y.grad_fn is None:
            log.no_gradient += not call.recomputed
            return
        arrived = partial(self._arrived, call)
        handles = follow(y, begun.edge, begun.since, arrived)
        if not handles:
            log.unlinked += 1
        for handle in handles:
            self.keep(handle)

    def _arrived(self, call: Call, dy: Tensor, dx: Tensor | None) -> None:
        if call.x is None or call.y is None:
            return
        with unseen():
            alike = dx is None or are_alike(dx, dy)
            dx, dy = own_part(dx), own_part(dy)
            if not alike or not seen_fully(dy) or dy.shape != call.shape:
                call.log.unlinked += bool(call.log.groups)
                return
            if dx is not None and (not seen_fully(dx) or dx.shape != call.shape):
                return
            out = call.sampler.take(dy)
            into = torch.zeros_like(out) if dx is None else call.sampler.take(dx)
            recomputed = call.checkpointed or call.log.recompute_step == call.step - 1
            if call.whole is not None:
                found = disagreements(*call.whole, torch.zeros_like(dy) if dx is None else dx, dy)
                self.ledger.whole_backward(call, found, recomputed)
            call.log.bytes_now += out.nbytes + into.nbytes
            call.log.memory = max(call.log.memory, call.log.bytes_now)
            self.ledger.backward(call, into, out, recomputed)

    def _take_whole(self, begun: Begun, y: Tensor, drawn: bool) -> None:
        """Keep the whole mask of a call."""
        call, x = begun.call, begun.x.detach()
        kept, telling, numbers = shown(x, y.detach())
        if begun.edge is not None:
            call.whole = kept, telling
        call.log.bytes_now += kept.nbytes + telling.nbytes
        if call.training and not call.recomputed and drawn and call.units is None:
            self.ledger.whole_forward(call, numbers)

    def _unchanged(self, begun: Begun, x: Tensor) -> None:
        """A call that was asked to drop handed its input on: a row that says so."""
        begun.call.y = begun.call.x
        log = begun.call.log
        if begun.run is not None:
            with unseen():
                self.ledger.pairing.read(begun.run, begun.call)
        if begun.call.recomputed:
            return
        log.probes = log.probes or 1  # no two elements were treated differently: a single draw
        self.ledger.forward(begun.call)

    def _probe(self, log: SiteLog, begun: Begun, y: Tensor) -> None:
        """Find out, from the first calls, which elements share a decision."""
        x = begun.x
        if log.varying or log.probes >= _PROBES or begun.application.inplace or x.dim() == 0:
            return
        log.probes += 1
        log.probing.append(varying(thinned(x.detach()), thinned(y.detach())))

    def returned(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module has returned: if it drops by its own code, find out what it does in eval."""
        if not self._unprobed:
            return
        log, p = self._unprobed.pop(self._tree.serial(module), (None, None))
        if log is None:
            return
        found = evaluate(module, args, kwargs)
        if found is None:
            return
        if log.kind == "mask":
            if p is not None and any(abs(f - (1 - p)) < 1e-3 for f in found.factors):
                log.probed_eval = 1 - p
        elif found.ratio is not None:
            self.ledger.outbox.add(found.ratio, partial(_receive_probe, log))

    def keep(self, handle: RemovableHandle) -> None:
        """Remember a hook, to remove it at the end if its graph is still there."""
        self._handles.append(handle)
        if len(self._handles) > _MOST_HANDLES:
            self._handles = [h for h in self._handles if h.hooks_dict_ref() is not None]

    def release(self) -> None:
        """Remove every hook that is still set."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self._last = None


def _receive_probe(log: SiteLog, numbers: list[float]) -> None:
    log.probed_eval = numbers[0]


def _related(factors: tuple[float, ...], own: tuple[float, ...]) -> tuple[float, ...]:
    """The factors that are one of `own`; all of them in one, where only their product is."""
    related = tuple(factor for factor in factors if _any_near(factor, own))
    whole = math.prod(factors)
    return related or ((whole,) if _any_near(whole, own) else ())


def _any_near(factor: float, others: tuple[float, ...]) -> bool:
    return any(abs(factor / other - 1) < 1e-3 for other in others)


def _leads_nowhere(call: Call) -> bool:
    """Whether no gradient will ever pass a run: only what it saves is wanted."""
    return call.recomputed and is_discarded()


def _is_seen_by_mask(application: Application) -> bool:
    """Whether zeros alone tell the mask of a call, element by element, once it has run."""
    return application.kind not in (*SHAPED_BY_DATA, "alpha") and not application.inplace


def _is_drawn(call: Call, heard: Heard) -> bool:
    """Whether a call has a mask of its own, not the one of an earlier call of the same step."""
    log = call.log
    if not call.training:
        return True
    if call.draw is not None:
        before, log.drawn = log.drawn, (call.step, call.draw)
        return before != log.drawn
    kept = log.is_module and log.kind in SHAPED_BY_DATA and call.ordinal > 0
    return not kept or heard.draw or heard.function or heard.host
