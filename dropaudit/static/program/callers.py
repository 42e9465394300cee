"""Who calls a function of a program, and what it passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dropaudit.findings import Location
from dropaudit.static.program.code import Assign, Call, Expression, dotted, within
from dropaudit.static.program.facts import FunctionFacts
from dropaudit.static.program.resolve import ClassRef, FunctionRef, GlobalRef, Resolver


@dataclass(frozen=True)
class Site:
    """An expression, and the function in which it stands."""

    ref: FunctionRef
    value: Expression


class Callers:
    """Calls by the last name of what is called; a name that is hidden by a local is none."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    @cached_property
    def _named(self) -> dict[str, list[FunctionRef]]:
        found: defaultdict[str, list[FunctionRef]] = defaultdict(list)
        for path, facts in self._resolver.files.items():
            for function in facts.functions:
                for name in sorted(function.calls):
                    found[name].append(FunctionRef(path, function.qualified))
        return found

    def named(self, name: str) -> Iterator[tuple[FunctionRef, Call]]:
        """The calls of anything whose last name is `name`, with the functions they stand in."""
        for ref in self._named.get(name, ()):
            facts = self._resolver.functions(ref.path).get(ref.qualified)
            for call in () if facts is None else calls_in(facts.body):
                if dotted(call.function).rpartition(".")[2] == name:
                    yield ref, call

    def passed(self, ref: FunctionRef, parameter: str) -> Iterator[tuple[FunctionRef, Expression]]:
        """What the calls of a function pass for a parameter, with the functions they stand in."""
        facts = self._resolver.function_facts(ref)
        names = [p.name for p in facts.parameters if not p.keyword_only and p.name[:1] != "*"]
        if facts.is_method and "staticmethod" not in facts.decorators:
            names = names[1:]
        position = names.index(parameter) if parameter in names else -1
        for caller, call in self.named(facts.name):
            if self._is(call, caller, ref, facts):
                value = argument(call, parameter, position)
                if value is not None:
                    yield caller, value

    def given(
        self, cls: ClassRef, init: FunctionRef, parameter: str
    ) -> Iterator[tuple[FunctionRef, Expression]]:
        """What the constructor `init` of a class is passed for a parameter."""
        facts = self._resolver.functions(init.path).get(init.qualified)
        names = [] if facts is None else [p.name for p in facts.parameters if not p.keyword_only]
        if parameter not in names:
            return
        for caller, call in self.named(cls.qualified.rpartition(".")[2]):
            if self._resolver.resolve(caller.path, dotted(call.function)) == cls:
                value = argument(call, parameter, names.index(parameter) - 1)
                if value is not None:
                    yield caller, value

    def applied(
        self, path: str, name: str, position: int
    ) -> Iterator[tuple[FunctionRef, Expression]]:
        """What the `apply` of a Function of the file at `path` is passed at a position."""
        cls = self._resolver.resolve(path, name)
        for caller, call in self.named("apply"):
            owner = dotted(call.function).rpartition(".")[0]
            if owner and self._resolver.resolve(caller.path, owner) == cls:
                value = argument(call, "", position)
                if value is not None:
                    yield caller, value

    def at(self, where: Location) -> tuple[FunctionRef, Call] | None:
        """The call at a place, and the function in which it stands."""
        for function in self._resolver.files[where.path].functions:
            if function.where.line <= where.line <= function.where.end_line:
                for call in calls_in(function.body):
                    span = call.where
                    if (span.line, span.column) == (where.line, where.column) and (
                        (span.end_line, span.end_column) == (where.end_line, where.end_column)
                    ):
                        return FunctionRef(where.path, function.qualified), call
        return None

    def of_kept(self, ref: FunctionRef, call: Call) -> Iterator[tuple[FunctionRef, Call]]:
        """The calls of the variable or attribute in which the function `ref` keeps `call`."""
        for node in within(self._resolver.function_facts(ref).body):
            if isinstance(node, Assign) and node.value == call:
                for target in map(dotted, node.targets):
                    if target:
                        yield from self._of_name(ref, target)

    def _of_name(self, ref: FunctionRef, name: str) -> Iterator[tuple[FunctionRef, Call]]:
        last = name.rpartition(".")[2]
        owner = self.owner(ref)
        for caller, call in self.named(last):
            written = dotted(call.function)
            if name.startswith("self."):
                other = self.owner(caller)
                if written != name or other is None or owner is None:
                    continue
                if owner in self._resolver.lineage(other):
                    yield caller, call
            elif "." not in name:
                inside = f"{caller.qualified}.".startswith(f"{ref.qualified}.")
                if ref.qualified:
                    if written == name and caller.path == ref.path and inside:
                        yield caller, call
                elif self._resolver.resolve(caller.path, written) == GlobalRef(ref.path, name):
                    facts = self._resolver.function_facts(caller)
                    if not caller.qualified or written.partition(".")[0] not in facts.assigned:
                        yield caller, call

    def _is(self, call: Call, caller: FunctionRef, ref: FunctionRef, facts: FunctionFacts) -> bool:
        """Whether a call surely is one of `ref`."""
        name = dotted(call.function)
        head, _, rest = name.partition(".")
        if facts.is_method:
            owner = self.owner(caller)
            if head != "self" or owner is None:
                return False
            return self._resolver.method(owner, rest) == ref
        around = caller.qualified
        functions = self._resolver.functions(caller.path)
        while around:  # a function inside that one
            if FunctionRef(caller.path, f"{around}.{name}") == ref:
                return True
            own = functions.get(around)
            if own is not None and head in own.assigned:
                return False
            around = around.rpartition(".")[0]
        return self._resolver.resolve(caller.path, name) == ref

    def owner(self, ref: FunctionRef) -> ClassRef | None:
        """The class around a function."""
        classes = {one.qualified for one in self._resolver.files[ref.path].classes}
        around = ref.qualified.rpartition(".")[0]
        while around:
            if around in classes:
                return ClassRef(ref.path, around)
            around = around.rpartition(".")[0]
        return None


def argument(call: Call, name: str, position: int) -> Expression | None:
    """What a call passes by keyword or position; None where stars hide it."""
    plain: list[Expression] = []
    for one in call.arguments:
        if one.name and one.name == name:
            return one.value
        if one.name == "*":
            break
        if not one.name:
            plain.append(one.value)
    return plain[position] if 0 <= position < len(plain) else None


def calls_in(body: Any) -> Iterator[Call]:
    """Every call in statements or an expression, in source order."""
    return (node for node in within(body) if isinstance(node, Call))
