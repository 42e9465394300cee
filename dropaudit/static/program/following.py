"""Which functions of a program are followed, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from dropaudit.static.program.library import BACKWARD, TEST_FILE
from dropaudit.static.program.machine import Machine
from dropaudit.static.program.resolve import FunctionRef, Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.program.units import Units
from dropaudit.static.record import Options

_STATEMENTS = 3_000_000  # of all entries together: about two minutes
_WORTH_IT = frozenset(["train", "eval", *BACKWARD])


def follow(resolver: Resolver, options: Options) -> Sightings:
    """Run the code of every module, then every function worth it that was not run from there."""
    machine = Machine(resolver, options)
    for ref in chain(_modules(resolver, machine.units), _functions(resolver, machine.units)):
        if machine.statements > _STATEMENTS:
            machine.seen.given_up[f"{ref.path}:{ref.qualified}"] = None
        elif ref not in machine.entered:
            machine.run(ref)
    machine.seen.stored = machine.heap.stored
    return machine.seen


def _modules(resolver: Resolver, units: Units) -> Iterator[FunctionRef]:
    for path in _paths(resolver):
        ref = FunctionRef(path, "")
        module = resolver.functions(path).get("")
        if module is not None and module.calls and units.matters(ref):
            yield ref


def _functions(resolver: Resolver, units: Units) -> Iterator[FunctionRef]:
    """Those that build models first: what they call is run with more knowledge than alone."""
    later: list[FunctionRef] = []
    for path in _paths(resolver):
        for function in resolver.files[path].functions:
            ref = FunctionRef(path, function.qualified)
            if function.qualified and units.starts(ref):
                yield ref
            elif function.qualified and function.calls & _WORTH_IT:
                later.append(ref)
    yield from later


def _paths(resolver: Resolver) -> Iterator[str]:
    return (path for path in resolver.files if not TEST_FILE.search(path))
