"""Which tensors have just been dropped: a small forward interpretation of a function.

Branches are joined, and loops run until the second round; the values are those of `dropvalues`.
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from dropaudit.static.droppers import is_switch
from dropaudit.static.dropvalues import OTHER, Doubled, DropValues, Places, Summary, merged
from dropaudit.static.source import Source

_DEPTH = 12  # calls inside calls that are looked through
_NESTED = 4  # loops inside loops whose second round counts


class Dropped:
    """The doubled dropouts of one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._summaries: dict[cst.FunctionDef, Summary | None] = {}
        self._flows: dict[cst.FunctionDef, _Flow] = {}
        self._level = 0

    def doubled(self) -> Iterator[Doubled]:
        """Every dropout of a dropped tensor, function by function."""
        for function in self.source.nodes[cst.FunctionDef]:
            yield from self._flow(function).found()

    def summary(self, function: cst.FunctionDef) -> Summary | None:
        """What `function` does to its parameters; None where it leads back to itself."""
        if function not in self._summaries and self._level < _DEPTH:
            self._summaries[function] = None
            self._level += 1
            self._summaries[function] = self._flow(function).summary
            self._level -= 1
        return self._summaries.get(function)

    def _flow(self, function: cst.FunctionDef) -> _Flow:
        if function not in self._flows:
            self._flows[function] = _Flow(self, function)
            self._flows[function].run()
        return self._flows[function]


class _Flow:
    """The statements of one function, in order."""

    def __init__(self, file: Dropped, function: cst.FunctionDef) -> None:
        self._at = DropValues(file.source, function, file.summary)
        self._body = function.body
        self._loops = 0

    @property
    def summary(self) -> Summary:
        return self._at.summary

    def run(self) -> None:
        self._block(self._body)
        if self._at.places is not None:
            self.summary.returns.append(OTHER)

    def found(self) -> Iterator[Doubled]:
        """The doubled dropouts; those inside a callee only where nothing else reads the tensor."""
        for one in self._at.doubled.values():
            if one is not None and not (one.inside and len(self._at.uses.get(one.first, ())) > 1):
                yield one

    def _block(self, block: cst.BaseSuite) -> None:
        for statement in block.body:
            parts: list[cst.CSTNode] = [statement]
            if isinstance(statement, cst.SimpleStatementLine):
                parts = list(statement.body)
            for part in parts:
                if self._at.places is None:
                    return
                self._statement(part)

    def _statement(self, node: cst.CSTNode) -> None:
        match node:
            case cst.Assign(targets=targets, value=value):
                if len(targets) == 1 and _pairs(targets[0].target, value):
                    self._assign_each(targets[0].target, value)
                    return
                found = self._at.value(value)
                for target in targets:
                    self._at.assign(target.target, found)
            case cst.AnnAssign(target=target, value=cst.BaseExpression() as value):
                self._at.assign(target, self._at.value(value))
            case cst.AugAssign(target=target, value=value):
                self._at.value(value)
                self._at.assign(target, OTHER)
            case cst.Return(value=value):
                found = OTHER if value is None else self._at.value(value)
                self._at.summary.returns.append(found)
                self._at.places = None
            case cst.Raise() | cst.Continue() | cst.Break():
                self._at.places = None
            case cst.If(test=test, body=body, orelse=orelse):
                self._at.value(test)
                self._either(
                    [body, orelse], only_first=orelse is None and is_switch(self._at.source, test)
                )
            case cst.For(target=target, iter=iterated, body=body, orelse=orelse):
                self._at.value(iterated)
                self._loop(body, target)
                self._else(orelse)
            case cst.While(test=test, body=body, orelse=orelse):
                self._at.value(test)
                self._loop(body, None)
                self._else(orelse)
            case cst.With(items=items, body=body):
                for item in items:
                    self._at.value(item.item)
                    if item.asname is not None:
                        self._at.assign(item.asname.name, OTHER)
                self._block(body)
            case cst.Try() | cst.TryStar():
                self._either([node.body, *(h.body for h in node.handlers)])
                self._else(node.orelse)
                self._else(node.finalbody)
            case cst.Match(subject=subject, cases=cases):
                self._at.value(subject)
                self._either([*(c.body for c in cases), None])
            case cst.Else(body=body) | cst.Finally(body=body):
                self._block(body)
            case cst.FunctionDef(name=name) | cst.ClassDef(name=name):
                self._at.assign(name, OTHER)
            case _:
                self._at.inside(node)

    def _else(self, node: cst.Else | cst.Finally | None) -> None:
        if node is not None and self._at.places is not None:
            self._block(node.body)

    def _either(self, bodies: list[cst.CSTNode | None], only_first: bool = False) -> None:
        start, ends = self._at.places, []
        for body in bodies:
            self._at.places = None if start is None else dict(start)
            if isinstance(body, cst.BaseSuite):
                self._block(body)
            elif body is not None:
                self._statement(body)
            if self._at.places is not None:
                ends.append(self._at.places)
            if only_first and ends:
                break
        self._at.places = _joined(ends)

    def _loop(self, body: cst.BaseSuite, target: cst.CSTNode | None) -> None:
        """Once from the start, then once more with what the first round leaves behind.

        What a loop leaves is what its last round leaves: it is taken to run at least once.
        """
        start = self._at.places
        self._loops += 1
        for _ in range(2 if self._loops <= _NESTED else 1):
            before = None if self._at.places is None else dict(self._at.places)
            if target is not None:
                self._at.assign(target, OTHER)
            self._block(body)
            after = self._at.places
            if after is None:  # every round leaves early
                after = before
                break
            self._at.places = _joined([p for p in (start, after) if p is not None])
        self._loops -= 1
        self._at.places = after

    def _assign_each(self, target: cst.BaseExpression, value: cst.BaseExpression) -> None:
        found = [self._at.value(e.value) for e in value.elements]  # type: ignore[attr-defined]
        for element, one in zip(target.elements, found, strict=True):  # type: ignore[attr-defined]
            self._at.assign(element.value, one)


def _pairs(target: cst.BaseExpression, value: cst.BaseExpression) -> bool:
    if not isinstance(target, (cst.Tuple, cst.List)) or not isinstance(
        value, (cst.Tuple, cst.List)
    ):
        return False
    every = (*target.elements, *value.elements)
    starred = any(isinstance(e, cst.StarredElement) for e in every)
    return len(target.elements) == len(value.elements) and not starred


def _joined(ends: list[Places]) -> Places | None:
    if not ends:
        return None
    names = dict.fromkeys(n for end in ends for n in end)
    return {n: merged([end.get(n, OTHER) for end in ends]) for n in names}
