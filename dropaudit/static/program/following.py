"""Which functions of a program are followed, and in which order."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from itertools import chain

from dropaudit.static.program.lexicon import BACKWARD, TEST_FILE
from dropaudit.static.program.machine import Machine
from dropaudit.static.program.resolve import External, FunctionRef, Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.program.units import Units
from dropaudit.static.record import Options

_STATEMENTS = 3_000_000  # of all entries together: about two minutes; more where there is more
_STATEMENTS_OF_A_FILE = 600
_WORTH_IT = frozenset(["train", "eval", *BACKWARD])


def follow(resolver: Resolver, options: Options, reported: frozenset[str]) -> Sightings:
    """Run the code of every module, then every function worth it that was not run from there.

    Files that import none of `reported`, directly or not, cannot tell anything of these.
    """
    machine = Machine(resolver, options)
    paths = _paths(resolver, reported)
    units = machine.units
    most = max(_STATEMENTS, _STATEMENTS_OF_A_FILE * len(paths))
    for ref in chain(_modules(resolver, units, paths), _functions(resolver, units, paths)):
        if machine.statements > most:
            machine.seen.given_up[f"{ref.path}:{ref.qualified}"] = None
        elif ref not in machine.entered:
            machine.run(ref)
    machine.seen.stored = machine.heap.stored
    return machine.seen


def _modules(resolver: Resolver, units: Units, paths: Sequence[str]) -> Iterator[FunctionRef]:
    for path in paths:
        ref = FunctionRef(path, "")
        module = resolver.functions(path).get("")
        if module is not None and module.calls and units.matters(ref):
            yield ref


def _functions(resolver: Resolver, units: Units, paths: Sequence[str]) -> Iterator[FunctionRef]:
    """Those that build models first: what they call is run with more knowledge than alone."""
    later: list[FunctionRef] = []
    for path in paths:
        for function in resolver.files[path].functions:
            ref = FunctionRef(path, function.qualified)
            if function.qualified and units.starts(ref):
                yield ref
            elif function.qualified and (function.calls & _WORTH_IT or units.trains(ref)):
                later.append(ref)
    yield from later


def _paths(resolver: Resolver, reported: frozenset[str]) -> list[str]:
    """The files to follow, in order: those reported on, and those that import them."""
    near = set(resolver.files) & reported
    folders = {posixpath.dirname(path) for path in near}
    near |= {  # what one script stores, the one beside it may load
        path
        for path in resolver.files
        if posixpath.dirname(path) in folders and "save" in _module_calls(resolver, path)
    }
    if len(near) < len(resolver.files):
        importers: dict[str, list[str]] = {}
        for path in resolver.files:
            for other in _imported(resolver, path):
                importers.setdefault(other, []).append(path)
        stack = list(near)
        while stack:
            for path in importers.get(stack.pop(), ()):
                if path not in near:
                    near.add(path)
                    stack.append(path)
    return [path for path in resolver.files if path in near and not TEST_FILE.search(path)]


def _module_calls(resolver: Resolver, path: str) -> frozenset[str]:
    module = resolver.functions(path).get("")
    return frozenset() if module is None else module.calls


def _imported(resolver: Resolver, path: str) -> set[str]:
    """The files of the project that a file imports something of."""
    facts = resolver.files[path]
    names = (*(one.dotted for one in facts.imports), *facts.stars, *facts.inner)
    found = (resolver.imported(path, name) for name in names)
    return {one.path for one in found if not isinstance(one, External)}
