"""One audit's view of what runs: which calls belong to it, what is sampled of them, which step it
is."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.hooks import RemovableHandle

from dropaudit.runtime.attention import AttentionCall, value_side
from dropaudit.runtime.census import Census
from dropaudit.runtime.graph import edge_of, follow, next_number
from dropaudit.runtime.idle import IdleWatch
from dropaudit.runtime.inplace import is_used_again
from dropaudit.runtime.ledger import SHAPED_BY_DATA, Call, Ledger, SiteLog, alpha_shift
from dropaudit.runtime.measure import disagreements, shown, varying
from dropaudit.runtime.phases import Phases, tensors_in
from dropaudit.runtime.places import location, user_line
from dropaudit.runtime.probe import evaluate
from dropaudit.runtime.sampling import Sampler, seen_fully
from dropaudit.runtime.sites import Application, is_compiled, is_torch_dropout, rate
from dropaudit.runtime.stepping import Stepping
from dropaudit.runtime.threads import THREAD, Heard, random_state, unseen
from dropaudit.runtime.trace import Settings, Trace, Unobserved
from dropaudit.runtime.tree import Tree, held_in_plain_container

if TYPE_CHECKING:
    from dropaudit.runtime.declared import Declaration

_PROBES = 64
_MOST_ROWS = 512
_STATE_STEPS = 4
_STATE_EVERY = 8
_RATE_CALLS = 8


@dataclass(eq=False)
class Begun:
    """A call that has begun: what must be known of its input before it runs."""

    call: Call
    application: Application
    x: Tensor
    edge: GradientEdge | None
    since: int
    sampled: bool

    def scaled_by(self, gain: float, keep: float | None) -> None:
        """The input was, or the output is, multiplied by a number elsewhere.

        Only factors that have to do with the rate are part of the dropout.
        """
        if keep is None or not 0 < keep < 1:
            return
        own = (1 / keep, keep, 1 / (1 - keep), 1 - keep)
        if any(abs(gain / factor - 1) < 1e-3 for factor in own):
            self.call.gain = gain


class Recorder:
    """Gathers the numbers of one audit. Knows torch; judges nothing."""

    def __init__(
        self,
        models: Iterable[nn.Module],
        settings: Settings,
        declarations: tuple[Declaration, ...] = (),
    ) -> None:
        self.settings = settings
        self._declarations = declarations
        self.tree = Tree(models)
        self.models = tuple(type(model).__name__ for model in self.tree.roots())
        self.recording = True
        self._sampler = Sampler(settings.elements or Settings.elements)
        self.ledger = Ledger(self._sampler)
        self._phases = Phases()
        self._stepping = Stepping(self.tree)
        self._census = Census(self.tree)
        self._idle = IdleWatch(self.tree)
        self._logs: dict[Hashable, SiteLog] = {}
        self._modules: dict[int, tuple[ref[nn.Module], str]] = {}
        self._handles: list[RemovableHandle] = []
        self._unobserved: dict[tuple[str, str], Unobserved] = {}
        self._devices: dict[str, None] = {}
        self.step = 0
        self._audited = 0
        self._step_open = False
        self._backward_since = False
        self._saw_optimizer = False
        self._forwards = 0
        self._rates: dict[int, list[tuple[ref[nn.Module], Any]]] = {}
        self._rates_changed: set[int] = set()
        self._last: tuple[ref[Tensor], SiteLog] | None = None
        self._checked_roots: set[int] = set()
        self._compiled: list[tuple[str, ref[nn.Module], tuple[str, int]]] = []
        self._unprobed: dict[int, tuple[SiteLog, float | None]] = {}

    # Outermost calls

    def owns(self, module: nn.Module) -> bool:
        """Whether a call of this module, outermost so far, is a call of an audited model."""
        if self.tree.open and module not in self.tree:
            self.tree.add(module)
            self.tree.open = True
            return True
        return module in self.tree

    def enter(self, root: nn.Module, args: Any, kwargs: Any) -> None:
        """An outermost call of an audited model begins."""
        where = user_line()
        grad = torch.is_grad_enabled()
        if grad and self._backward_since and not self._saw_optimizer:
            self._end_step()
        self._forwards += 1
        self._phases.enter(root, (args, kwargs), where, self.step)
        if not self.recording:
            return
        self._step_open = True
        if self._reads_state():
            first = next(iter(tensors_in((args, kwargs))), None)
            device = torch.device("cpu") if first is None else first.device
            THREAD.root_state = random_state(device)
        self._stepping.enter(root, where)
        self._census.enter(root, where)
        if grad:
            self._idle.enter(root, where)
            self.called(root)
        serial = self.tree.serial(root)
        if serial not in self._checked_roots:
            self._checked_roots.add(serial)
            self._note_sealed(root, where)
        if self._forwards <= _RATE_CALLS:
            self._rates[serial] = [
                (ref(m), getattr(m, "p", None)) for m in root.modules() if is_torch_dropout(m)
            ]

    def leave(self, root: nn.Module, output: Any) -> None:
        """The outermost call has ended; `output` is None if it raised."""
        self._phases.leave(root, output)
        if torch.is_grad_enabled():
            weak = ref(root)
            for tensor in list(tensors_in(output))[:4]:
                if tensor.grad_fn is not None:
                    hook = partial(_backward_reached, ref(self), weak)
                    self._keep(tensor.grad_fn.register_prehook(hook))
        for weak_module, p in self._rates.pop(self.tree.serial(root), ()):
            module = weak_module()
            if module is not None and getattr(module, "p", None) != p:
                self._rates_changed.add(self.tree.serial(module))

    def declares(self, module: nn.Module) -> bool:
        """Whether the audit was told that this module is a site."""
        return any(each.names(module, self.tree.name(module)) for each in self._declarations)

    def called(self, module: nn.Module) -> None:
        """A module of an audited model runs."""
        if torch.is_grad_enabled() and module.training:
            self._idle.called(module)

    def returned(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module has returned: if it drops by its own code, find out what it does in eval."""
        if not self._unprobed:
            return
        log, p = self._unprobed.pop(self.tree.serial(module), (None, None))
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

    # Calls of sites

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
        holder = self._holder(module)
        if holder is None and not self.tree.open:
            return None
        owner = module if module is not None else (THREAD.stack[-1] if THREAD.stack else None)
        log = self._log(module, owner, application)
        if owner is not None:
            training = owner.training
        else:
            training = True if application.on is None else application.on
        p = application.p
        asked = x.numel() > 0 and (p is None or 0 < p < 1)
        log.count(training, asked, application.on)
        if asked:
            log.rate(p)
        root = next((m for m, r in self._roots() if r is self), None)
        if module is not None and asked:
            self._stepping.called(root, module)
        if owner is not None and p:
            if torch.is_grad_enabled():
                self._idle.called(owner)
            if module is None:
                self._idle.lent(owner, p)
                above = self.tree.owner(owner)
                if above is not None:
                    self._idle.lent(above, p)
        recomputed = torch._C._current_graph_task_id() != -1
        if recomputed:
            log.recompute_step = self.step
        if log.step != self.step:
            log.step, log.ordinal = self.step, 0
        ordinal = log.ordinal
        log.ordinal += training and not recomputed
        call = Call(log, self.step + 1, training, ordinal, recomputed, p, draw=draw)
        if asked and training and application.on is not False and self._last is not None:
            log.repeated_on_result += self._last[0]() is x and self._last[1] is not log
        readable = seen_fully(x)
        if not readable:
            self._cannot_see(log, x)
            call.shape = ()
            return Begun(call, application, x, None, 0, False)
        sampled = sample and asked and application.on is not False
        log.dtype = x.dtype if log.dtype is None else log.dtype
        self._devices[str(x.device)] = None
        to, since = self.edge(x) if edge is None else edge
        call.shape = tuple(x.shape)
        call.units = application.units
        if application.kind == "alpha" and p is not None and training:
            call.shift = alpha_shift(p)
        if sampled:
            with unseen():
                call.x = self._sampler.take(x)
                if ordinal == 0 and training and self._reads_state():
                    call.state = random_state(x.device)
                    call.root_state = THREAD.root_state
        elif not sample:
            call.state = random_state(x.device)
        if application.kind == "region" and not training:
            call.state = random_state(x.device)
        return Begun(call, application, x, to, since, sampled)

    def end(self, begun: Begun, y: Tensor | None, heard: Heard) -> None:
        """The call has returned `y`."""
        call, log, x = begun.call, begun.call.log, begun.x
        if heard.draw:
            log.inside = log.inside or "mask"
        elif heard.function:
            log.inside = log.inside or "function"
        if call.state is not None and not call.training and x.device.type == "cpu":
            now = random_state(x.device)
            log.moved_in_eval += now is not None and not torch.equal(now, call.state)
        if y is None or not seen_fully(y) or (begun.edge is None and not seen_fully(x)):
            return
        unchanged = y is x and not begun.application.inplace
        if unchanged or y.shape != call.shape:
            if y.shape != call.shape:
                log.not_elementwise += 1
            elif call.training and begun.sampled:
                self._unchanged(begun, x)
            return
        with unseen():
            if call.x is None:
                if begun.application.inplace or not x.numel():
                    return
                call.x = self._sampler.take(x)
            call.y = self._sampler.take(y)
            if self.settings.elements is None and begun.sampled and call.units is None:
                self._take_whole(begun, y)
            if begun.application.kind in SHAPED_BY_DATA and call.training:
                self._probe(log, begun, y)
        log.bytes_now += call.x.nbytes + call.y.nbytes
        log.memory = max(log.memory, log.bytes_now)
        self.ledger.forward(call)
        if begun.sampled:
            self._note_dropped(log, call)
        if begun.application.kind in ("elementwise", "alpha", "region"):
            self._last = (ref(y), log)
        self._connect(begun, y)
        if begun.application.inplace and call.training and begun.sampled:
            log.corrupted += is_used_again(x, THREAD.stack, THREAD.arguments)
        if (
            log.kind in SHAPED_BY_DATA
            and log.is_module
            and call.training
            and not (heard.draw or heard.function)
        ):
            self._note_host_mask(call, x, heard)
        if self.ledger.waiting > _MOST_ROWS:
            with unseen():
                self.ledger.measure()

    def end_attention(self, begun: Begun, attention: AttentionCall, output: Tensor) -> None:
        """An attention call with dropout has returned."""
        call, log = begun.call, begun.call.log
        log.acted(call.training, call.step)
        self._note_dropped(log, call)
        if not call.training or not torch.is_grad_enabled():
            return
        if begun.edge is None or output.grad_fn is None or not seen_fully(output):
            log.no_gradient += 1
            return
        with unseen():
            if not attention.choose(output, self.settings.elements):
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
                recomputed = log.recompute_step == call.step - 1
                self.ledger.products(call, left, right, recomputed)

        only = value_side(output.grad_fn)
        handles = [] if only is None else follow(output, begun.edge, begun.since, arrived, only)
        log.unlinked += not handles
        for handle in handles:
            self._keep(handle)

    def end_moved(self, begun: Begun) -> None:
        """A call whose randomness shows in the generator only has returned."""
        call, log = begun.call, begun.call.log
        state = random_state(begun.x.device)
        on_cpu = begun.x.device.type == "cpu"
        if on_cpu and call.state is not None and state is not None:
            moved = not torch.equal(call.state, state)
        else:  # cuDNN keeps a state of its own
            moved = begun.application.on is not False
        if moved:
            log.acted(call.training, call.step)
            self._note_dropped(log, call)

    def _note_dropped(self, log: SiteLog, call: Call) -> None:
        if call.training and any(recorder is self for _, recorder in self._roots()):
            self._phases.dropped(self._module_name(log.module) or log.class_name)

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
        if not call.training or not torch.is_grad_enabled():
            return
        if begun.edge is None or y.grad_fn is None:
            log.no_gradient += 1
            return
        arrived = partial(self._arrived, call)
        handles = follow(y, begun.edge, begun.since, arrived)
        if not handles:
            log.unlinked += 1
        for handle in handles:
            self._keep(handle)

    def _arrived(self, call: Call, dy: Tensor, dx: Tensor | None) -> None:
        if call.x is None or call.y is None or not seen_fully(dy):
            return
        if dx is not None and (not seen_fully(dx) or dx.shape != call.shape):
            return
        if dy.shape != call.shape:
            return
        with unseen():
            out = self._sampler.take(dy)
            into = torch.zeros_like(out) if dx is None else self._sampler.take(dx)
            recomputed = call.log.recompute_step == call.step - 1
            if call.whole is not None:
                found = disagreements(*call.whole, torch.zeros_like(dy) if dx is None else dx, dy)
                self.ledger.whole_backward(call, found, recomputed)
            call.log.bytes_now += out.nbytes + into.nbytes
            call.log.memory = max(call.log.memory, call.log.bytes_now)
            self.ledger.backward(call, into, out, recomputed)

    def _take_whole(self, begun: Begun, y: Tensor) -> None:
        """Keep the whole mask of a call, where its elements are their own draws."""
        call, x, kind = begun.call, begun.x.detach(), begun.application.kind
        if kind in SHAPED_BY_DATA or kind == "alpha" or begun.application.inplace:
            return
        kept, hidden, numbers = shown(x, y.detach())
        call.whole = kept, hidden
        call.log.bytes_now += kept.nbytes + hidden.nbytes
        if call.training and not call.recomputed:
            self.ledger.whole_forward(call, numbers)

    def _unchanged(self, begun: Begun, x: Tensor) -> None:
        """A call that was asked to drop handed its input on: a row that says so."""
        begun.call.y = begun.call.x
        self.ledger.forward(begun.call)

    def _probe(self, log: SiteLog, begun: Begun, y: Tensor) -> None:
        """Find out, from the first calls, which elements share a decision."""
        x = begun.x
        if log.varying or log.probes >= _PROBES or begun.application.inplace or x.dim() == 0:
            return
        log.probes += 1
        log.probing.append(varying(x.detach(), y.detach()))

    # Steps

    def optimizer_stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """Some optimizer has updated its parameters."""
        self._saw_optimizer = True
        self._phases.stepped(self._stepping.stepped(optimizer, self.step))
        self._end_step()

    def backward_reached(self, root: nn.Module | None) -> None:
        """A backward pass begins at the output of a model."""
        self._backward_since = True
        self._phases.backward(root)

    def _end_step(self) -> None:
        self._backward_since = False
        if self.recording and self._step_open:
            self._audited += 1
            self._idle.stepped()
        self._step_open = False
        if self.ledger.waiting:
            with unseen():
                self.ledger.measure()
        self.step += 1
        self.recording = self.step % self.settings.every == 0
        if len(self._handles) > 4096:
            self._handles = [h for h in self._handles if h.hooks_dict_ref() is not None]

    # The end

    def release(self) -> None:
        """Remove every hook that is still set."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self._last = None

    def trace(self) -> Trace:
        """What was measured. Waits for the device."""
        with unseen():
            self.ledger.measure()
            self.ledger.outbox.deliver()
        if self._step_open:
            self._audited += 1
            self._idle.stepped()
            self._step_open = False
        self._note_unseen_compiled()
        sites = []
        for log in self.ledger.logs:
            name = self._module_name(log.module)
            if not log.is_elementwise:
                log.forget()
                self._note_unobserved(
                    name,
                    log.function,
                    "its output is not its input times a mask: it adds to it, or reshapes it",
                    "check it with dropaudit.check_dropout, which runs it again to tell",
                    (log.file, log.line),
                )
            if log.is_module and log.module in self._rates_changed:
                log.p_changed_inside = True
            sites.append(log.site(name, location(log.file, log.line, module=name)))
        return Trace(
            settings=self.settings,
            steps=self.step + (1 if self._backward_since else 0),
            audited_steps=self._audited,
            forwards=self._forwards,
            models=self.models or tuple(type(root).__name__ for root in self.tree.roots()),
            torch=torch.__version__,
            devices=tuple(self._devices),
            sites=tuple(sites),
            shared=self.ledger.shared(),
            idle=self._idle.records(),
            evaluations=self._phases.records(),
            switched=self._stepping.records(),
            divided=self._census.records(),
            unobserved=tuple(self._unobserved.values()),
        )

    # Helpers

    def _roots(self) -> list[tuple[nn.Module, Recorder]]:
        return [(THREAD.stack[depth], recorder) for recorder, depth in THREAD.roots.items()]

    def _holder(self, module: nn.Module | None) -> nn.Module | None:
        """The innermost module around a call that belongs to an audited model."""
        if module is not None and module in self.tree:
            return module
        return next((each for each in reversed(THREAD.stack) if each in self.tree), None)

    def _log(
        self, module: nn.Module | None, owner: nn.Module | None, application: Application
    ) -> SiteLog:
        file, line = user_line()
        known = owner is not None and owner in self.tree
        token: Hashable
        if owner is None:
            token = "-"
        elif known:
            token = self.tree.serial(owner)
        else:
            holder = self._holder(None)
            above = "?" if holder is None else self.tree.serial(holder)
            token = ("?", above, type(owner).__name__)
        # A module is one site wherever it is called from; a function one for each line.
        place = (file, line) if module is None or token == "-" else None
        key = (token, application.kind, application.function, place)
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = SiteLog(
                index=len(self.ledger.logs),
                module=token,
                class_name="" if owner is None else type(owner).__name__,
                kind=application.kind,
                function=application.function,
                file=file,
                line=line,
                is_module=module is not None,
                quantum=application.quantum,
            )
            log.unscaled_on_purpose = getattr(module, "scale_by_keep", True) is False
            self.ledger.logs.append(log)
            if owner is not None and isinstance(token, int):
                self._modules[token] = (ref(owner), self.tree.name(owner) or "")
            if module is not None and not known:
                log.registered = False
                holders = [each for each in THREAD.stack if each in self.tree]
                log.built_in_forward = not held_in_plain_container(module, holders)
        if not log.counts[True] and owner is not None and owner.training:
            by_hand = application.kind == "mask" or (module and not is_torch_dropout(module))
            if by_hand:
                self._unprobed[self.tree.serial(owner)] = (log, application.p)
        if module is not None and owner is not None:
            above_module = self.tree.owner(module)
            if above_module is not None and above_module.training != module.training:
                log.follows = False
                log.switched = True
        return log

    def _module_name(self, token: Hashable) -> str:
        if isinstance(token, int):
            weak, name = self._modules[token]
            module = weak()
            return name if module is None else (self.tree.name(module) or name)
        return "-" if token == "-" else "?"

    def _reads_state(self) -> bool:
        return self._audited < _STATE_STEPS or self._audited % _STATE_EVERY == 0

    def _cannot_see(self, log: SiteLog, x: Tensor) -> None:
        name = self._module_name(log.module)
        self._note_unobserved(
            name,
            f"{log.function} on a {type(x).__name__} ({x.dtype}, {x.device.type})",
            "its values cannot be read from outside",
            "audit it with plain tensors, outside of vmap, fake and quantized tensors",
            (log.file, log.line),
        )

    def _note_unobserved(
        self, module: str, what: str, reason: str, advice: str, where: tuple[str, int]
    ) -> None:
        old = self._unobserved.get((module, what))
        calls = 1 if old is None else old.calls + 1
        self._unobserved[module, what] = Unobserved(
            module, what, reason, advice, location(*where, module=module), calls
        )

    def _note_sealed(self, root: nn.Module, where: tuple[str, int]) -> None:
        """Say of which dropout nothing can be seen: in scripted and compiled modules."""
        for name, module in root.named_modules():
            if is_compiled(module):
                self._compiled += [
                    (f"{name}.{below}".strip("."), ref(each), where)
                    for below, each in module.named_modules()
                    if is_torch_dropout(each) and rate(each)
                ]
            if isinstance(module, torch.jit.ScriptModule) and "Dropout" in module.original_name:
                self._note_unobserved(
                    name,
                    f"{module.original_name} in a scripted module",
                    "TorchScript runs it without calling Python",
                    "audit the module before it is scripted",
                    where,
                )

    def _note_unseen_compiled(self) -> None:
        seen = {log.module for log in self.ledger.logs}
        for name, weak, where in self._compiled:
            module = weak()
            if module is None or self.tree.serial(module) in seen:
                continue
            self._note_unobserved(
                name,
                f"{type(module).__name__}(p={rate(module)}) in a compiled module",
                "torch.compile made it part of a graph that runs without Python",
                "audit the model before it is compiled",
                where,
            )

    def _keep(self, handle: RemovableHandle) -> None:
        self._handles.append(handle)


def _receive_probe(log: SiteLog, numbers: list[float]) -> None:
    log.probed_eval = numbers[0]


def _backward_reached(
    recorder: ref[Recorder], root: ref[nn.Module], _gradients: tuple[Any, ...]
) -> None:
    alive = recorder()
    if alive is not None:
        alive.backward_reached(root())
