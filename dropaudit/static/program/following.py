"""Which functions of a program are followed, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

from dropaudit.static.program.library import BACKWARD, TEST_FILE
from dropaudit.static.program.machine import Machine
from dropaudit.static.program.resolve import FunctionRef, Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.program.units import Units
from dropaudit.static.record import Options

_WORTH_IT = frozenset(["train", "eval", *BACKWARD])


def follow(resolver: Resolver, options: Options) -> Sightings:
    """Run the code of every module, and every function that switches or trains models."""
    machine = Machine(resolver, options)
    for ref in _entries(resolver, machine.units):
        machine.run(ref)
    return machine.seen


def _entries(resolver: Resolver, units: Units) -> Iterator[FunctionRef]:
    for path, facts in resolver.files.items():
        if TEST_FILE.search(path):
            continue
        for function in facts.functions:
            ref = FunctionRef(path, function.qualified)
            if function.qualified:
                if function.calls & _WORTH_IT or units.starts(ref):
                    yield ref
            elif function.calls and units.matters(ref):
                yield ref
