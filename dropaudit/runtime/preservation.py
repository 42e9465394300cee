"""Leaving a model, and every source of random numbers, exactly as they were found."""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


class Snapshot:
    """Everything that running `modules` forward could change, with a copy to put back.

    Of each module: its mode, its other attributes, the contents of the containers among them
    (caches; hooks), and the values of its parameters, buffers and other tensors. Besides them the
    random state of torch on the CPU and on each device in use, of Python, of numpy where it is
    imported, and of generators that the modules hold. It takes as much memory as the tensors do.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._dicts: list[tuple[nn.Module, dict[str, Any]]] = []
        self._scripted: list[tuple[nn.Module, bool]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: dict[int, _Held] = {}
        self._switching = False
        """Whether a class has a `train` or `eval` of its own, which may write past the counters."""
        self._generators: list[tuple[Any, Any]] = []
        seen: set[int] = set()
        for module in (inner for outer in modules for inner in outer.modules()):
            if id(module) not in seen:
                seen.add(id(module))
                self._remember(module)
        self._random = _RandomState()

    def _remember(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            self._scripted.append((module, module.training))
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self._hold(tensor)
            return
        cls = type(module)
        self._switching |= cls.train is not nn.Module.train or cls.eval is not nn.Module.eval
        self._dicts.append((module, dict(module.__dict__)))
        for value in module.__dict__.values():
            self._hold(value)
            if type(value) in (list, deque, set) or isinstance(value, dict):
                self._containers.append((value, copy.copy(value)))
                for item in value.values() if isinstance(value, dict) else value:
                    self._hold(item)

    def _hold(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            known = id(value) in self._tensors or nn.parameter.is_lazy(value)
            if not known and value.device.type != "meta":
                alias = value.detach()
                self._tensors[id(value)] = _Held(value, _version(value), alias, alias.clone())
        elif isinstance(value, torch.Generator):
            self._generators.append((value, value.get_state()))
        elif hasattr(value, "bit_generator"):  # a numpy.random.Generator
            self._generators.append((value, copy.deepcopy(value.bit_generator.state)))

    def restore(self, *, random_state: bool = True) -> bool:
        """Put everything back that differs; whether a tensor had been written to.

        Without `random_state` the generators run on.
        """
        written = False
        for module, attributes in self._dicts:
            if not _same(module.__dict__, attributes):
                module.__dict__.clear()
                module.__dict__.update(attributes)
        for scripted, training in self._scripted:
            scripted.training = training
        for container, contents in self._containers:
            if not _same(container, contents):
                container.clear()
                if isinstance(container, list | deque):
                    container.extend(contents)
                else:
                    container.update(contents)
        for held in self._tensors.values():
            written |= held.restore(closely=random_state or self._switching)
        if random_state:
            self._random.restore()
            for generator, state in self._generators:
                if isinstance(generator, torch.Generator):
                    generator.set_state(state)
                else:
                    generator.bit_generator.state = state
        return written


@dataclass
class _Held:
    """A tensor, how often it had been written to, its storage, and a copy of its values."""

    tensor: torch.Tensor
    version: int
    alias: torch.Tensor
    values: torch.Tensor

    def restore(self, *, closely: bool) -> bool:
        """Put it back where it changed; whether its counter says that it did.

        Untouched tensors are not written: that would count as a change to autograd. Writes to
        `.data` are not counted: they show only on looking closely.
        """
        tensor = self.tensor
        if _pointer(tensor) != _pointer(self.alias):
            tensor.data = self.alias
        counted = self.version >= 0 and _version(tensor) != self.version
        if counted or (closely and not torch.equal(self.alias, self.values)):
            with torch.no_grad():
                self.alias.copy_(self.values)
            self.version = _version(tensor)
        return counted


@contextmanager
def preserved(*modules: nn.Module) -> Iterator[Snapshot]:
    """Run a block and put `modules` and all random states back, also when the block raises.

    >>> before = torch.random.get_rng_state()
    >>> net = nn.Dropout(0.5).eval()
    >>> with preserved(net):
    ...     _ = net.train()(torch.ones(3))
    >>> net.training, torch.equal(before, torch.random.get_rng_state())
    (False, True)
    """
    snapshot = Snapshot(*modules)
    try:
        yield snapshot
    finally:
        snapshot.restore()


@contextmanager
def replaying(*modules: nn.Module) -> Iterator[Callable[[], None]]:
    """Gives a function that puts all random states, and `modules`, back to what they were.

    >>> with replaying() as replay:
    ...     first = torch.rand(3)
    ...     replay()
    ...     again = torch.rand(3)
    >>> torch.equal(first, again)
    True
    """
    snapshot = Snapshot(*modules)

    def replay() -> None:
        snapshot.restore()

    yield replay


def random_states() -> list[bytes]:
    """The states of torch's generators, on the CPU and on the devices in use, to compare."""
    states = [torch.default_generator.get_state()]
    for backend in _devices():
        found = _states(backend)
        states += found if isinstance(found, list) else [found]
    return [state.numpy().tobytes() for state in states]


def seed(number: int) -> None:
    """Seed every generator that a forward pass may draw from, on the devices in use.

    Unlike `torch.manual_seed` it leaves nothing behind for devices that are not in use yet.
    """
    torch.default_generator.manual_seed(number)
    for backend in _devices():
        backend.manual_seed_all(number) if hasattr(backend, "manual_seed_all") else (
            backend.manual_seed(number)
        )
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number % 2**32)


def fresh(inputs: Any) -> Any:
    """A copy of `inputs` that a forward pass may change: tensors cloned, containers rebuilt."""
    if isinstance(inputs, torch.Tensor):
        return inputs.detach().clone().requires_grad_(inputs.requires_grad)
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*map(fresh, inputs))
    if type(inputs) in (tuple, list):
        return type(inputs)(map(fresh, inputs))
    if isinstance(inputs, Mapping):
        return {key: fresh(value) for key, value in inputs.items()}
    try:
        return copy.deepcopy(inputs)
    except (TypeError, RuntimeError):  # a lock, an open file, a tensor inside a graph
        return inputs


class _RandomState:
    def __init__(self) -> None:
        self._cpu = torch.default_generator.get_state()
        self._backends = [(backend, _states(backend)) for backend in _devices()]
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def restore(self) -> None:
        torch.default_generator.set_state(self._cpu)
        for backend, states in self._backends:
            if hasattr(backend, "set_rng_state_all"):
                backend.set_rng_state_all(states)
            else:
                backend.set_rng_state(states)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)


def _devices() -> list[Any]:
    """The modules of torch that drive accelerators in use; none is woken up."""
    found: list[Any] = [
        backend
        for backend in (torch.cuda, getattr(torch, "xpu", None))
        if backend is not None and backend.is_initialized()
    ]
    if torch.backends.mps.is_available():
        found.append(torch.mps)
    return found


def _states(backend: Any) -> Any:
    if hasattr(backend, "get_rng_state_all"):
        return backend.get_rng_state_all()
    return backend.get_rng_state()


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor was written to, or -1 where torch keeps no count."""
    return -1 if tensor.is_inference() else tensor._version


def _pointer(tensor: torch.Tensor) -> int:
    """Where the values lie, 0 for tensors without storage of their own."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _same(live: Any, saved: Any) -> bool:
    """Whether two containers hold the same objects; equality of tensors is no yes or no."""
    if len(live) != len(saved):
        return False
    if isinstance(live, set):
        return {id(item) for item in live} == {id(item) for item in saved}
    if isinstance(live, dict):
        return all(a is b and live[a] is saved[b] for a, b in zip(live, saved, strict=True))
    return all(a is b for a, b in zip(live, saved, strict=True))
