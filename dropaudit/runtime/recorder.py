"""One audit's view of what runs: its models, its steps, the calls of its sites."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

from dropaudit.runtime.calls import Calls
from dropaudit.runtime.census import Census
from dropaudit.runtime.checkpointing import in_backward
from dropaudit.runtime.clock import Clock
from dropaudit.runtime.gathering import Gathering
from dropaudit.runtime.phases import tensors_in
from dropaudit.runtime.places import location, user_line
from dropaudit.runtime.policies import Policies
from dropaudit.runtime.ranks import Ranks
from dropaudit.runtime.sites import is_torch_dropout
from dropaudit.runtime.threads import THREAD, random_state, unseen
from dropaudit.runtime.trace import Settings, Site, Trace
from dropaudit.runtime.tree import Tree

if TYPE_CHECKING:
    from dropaudit.runtime.declared import Declaration

_RATE_CALLS = 8


class Recorder:
    """Gathers the numbers of one audit. Knows torch; judges nothing."""

    def __init__(
        self,
        models: Iterable[nn.Module],
        settings: Settings,
        declarations: tuple[Declaration, ...] = (),
        policies: Policies | None = None,
        gathering: Gathering | None = None,
    ) -> None:
        self._settings = settings
        self._declarations = declarations
        self.tree = Tree(models)
        self._models = tuple(type(model).__name__ for model in self.tree.roots())
        self._clock = Clock(settings.every)
        self.ranks = Ranks(policies or Policies())
        self.calls = Calls(self.tree, settings, self._clock, self.ranks)
        self._census = Census(self.tree)
        self._gathering = gathering or Gathering()
        self._gathering.begin(self.ranks)
        self._forwards = 0
        self._rates: dict[int, list[tuple[ref[nn.Module], Any]]] = {}
        self._rates_changed: set[int] = set()

    @property
    def recording(self) -> bool:
        """Whether the current step is audited."""
        return self._clock.recording

    def owns(self, module: nn.Module) -> bool:
        """Whether a call of this module, outermost so far, is a call of an audited model."""
        if module in self.tree or self.tree.adopt(module):
            return True
        if self.tree.open:
            self.tree.add(module)
        return self.tree.open

    def declares(self, module: nn.Module) -> bool:
        """Whether the audit was told that this module is a site."""
        return any(each.names(module, self.tree.name(module)) for each in self._declarations)

    def enter(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """An outermost call of an audited model begins."""
        if in_backward():
            return  # a part of it is run again, in the middle of a step
        where, clock, calls = user_line(), self._clock, self.calls
        grad = torch.is_grad_enabled()
        if grad and clock.backward_since and not clock.saw_optimizer:
            self._end_step()
        self._forwards += 1
        self.ranks.enter(root, self.tree.serial(root))
        self._gathering.begin(self.ranks)
        calls.ledger.fingerprints.active = self.ranks.many
        calls.phases.enter(root, (args, kwargs), where, clock.step)
        if not clock.recording:
            return
        clock.open = True
        if clock.reads_state:
            first = next(iter(tensors_in((args, kwargs))), None)
            device = torch.device("cpu") if first is None else first.device
            THREAD.root_state = random_state(device)
        calls.stepping.enter(root, where)
        self._census.enter(root, where)
        if grad:
            calls.idle.enter(root, where)
            self.called(root)
        calls.blind.enter(root, where)
        if self._forwards <= _RATE_CALLS:
            self._rates[self.tree.serial(root)] = [
                (ref(m), getattr(m, "p", None)) for m in root.modules() if is_torch_dropout(m)
            ]

    def leave(self, root: nn.Module, output: Any) -> None:
        """The outermost call has ended; `output` is None if it raised."""
        if in_backward():
            return
        self.calls.phases.leave(root, output)
        if torch.is_grad_enabled():
            hook = partial(_backward_reached, ref(self), ref(root))
            for tensor in list(tensors_in(output))[:4]:
                if tensor.grad_fn is not None:
                    self.calls.keep(tensor.grad_fn.register_prehook(hook))
        for weak, p in self._rates.pop(self.tree.serial(root), ()):
            module = weak()
            if module is not None and getattr(module, "p", None) != p:
                self._rates_changed.add(self.tree.serial(module))

    def called(self, module: nn.Module) -> None:
        """A module of an audited model runs."""
        if module.training:
            self.calls.idle.called(module, torch.is_grad_enabled())

    def optimizer_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Some optimizer has updated its parameters."""
        self._clock.saw_optimizer = True
        self.calls.phases.stepped(self.calls.stepping.stepped(optimizer, self._clock.step))
        self._end_step()

    def backward_reached(self, root: nn.Module | None) -> None:
        """A backward pass begins at the output of a model."""
        self._clock.backward_since = True
        self.calls.phases.backward(root)

    def trace(self) -> Trace:
        """What was measured so far. Waits for the device."""
        calls, clock = self.calls, self._clock
        with unseen():
            calls.ledger.measure()
            calls.ledger.outbox.deliver()
        sites = tuple(self._sites())
        seen = {log.module for log in calls.book.logs if isinstance(log.module, int)}
        running = clock.open and clock.recording
        return Trace(
            settings=self._settings,
            steps=clock.step + clock.backward_since,
            audited_steps=clock.audited + running,
            forwards=self._forwards,
            models=self._models or tuple(type(root).__name__ for root in self.tree.roots()),
            torch=torch.__version__,
            devices=tuple(calls.devices),
            sites=sites,
            shared=calls.ledger.shared(),
            idle=calls.idle.records(),
            evaluations=calls.phases.records(),
            switched=calls.stepping.records(),
            divided=self._census.records(),
            unobserved=calls.blind.records(seen),
            rank=self.ranks.rank,
            world=self.ranks.world,
            groups=self.ranks.groups,
        )

    def _sites(self) -> Iterable[Site]:
        book = self.calls.book
        for log in book.logs:
            name = book.name(log)
            if not log.is_elementwise:
                log.forget()
                self.calls.blind.is_not_elementwise(log, name)
            log.p_changed_inside |= log.is_module and log.module in self._rates_changed
            place = location(log.file, log.line, module=name)
            ledger = self.calls.ledger
            kept = ledger.fingerprints.of(log.index) if log.is_elementwise else ()
            site = log.site(name, place, ledger.pairing.record(log))
            yield replace(site, fingerprints=kept, groups=log.groups)

    def _end_step(self) -> None:
        if self._clock.next():
            self.calls.idle.stepped()
        whole = self._settings.elements is None  # then rows are as large as activations
        if self.calls.ledger.full or whole:
            with unseen():
                self.calls.ledger.measure()


def _backward_reached(
    recorder: ref[Recorder], root: ref[nn.Module], _gradients: tuple[Tensor, ...]
) -> None:
    alive = recorder()
    if alive is not None:
        alive.backward_reached(root())
