"""Where a few chosen nodes stand in the file, by one code-generation pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import libcst as cst
from libcst._nodes.internal import CodegenState


@dataclass(frozen=True)
class Span:
    """Character offsets into the decoded file: the node without and with its parentheses."""

    start: int
    stop: int
    outer_start: int
    outer_stop: int


def spans(module: cst.Module, nodes: Iterable[cst.CSTNode]) -> tuple[str, dict[cst.CSTNode, Span]]:
    """The text that `module` generates, and the span in it of each of `nodes`.

    >>> module = cst.parse_module("x = (f(1))\\n")
    >>> call = module.body[0].body[0].value
    >>> text, found = spans(module, [call])
    >>> text[found[call].start : found[call].stop], found[call].outer_start
    ('f(1)', 4)
    """
    state = _Recorder(module.default_indent, module.default_newline)
    state.wanted = set(nodes)
    state.inner, state.outer, state.opened = {}, {}, []
    module._codegen(state)
    at = [0, *accumulate(map(len, state.tokens))]
    found = {}
    for node, (start, stop) in state.outer.items():
        inner = state.inner.get(node, (start, stop))
        last = len(at) - 1
        found[node] = Span(*(at[min(i, last)] for i in (*inner, start, stop)))
    return "".join(state.tokens), found


class _Recorder(CodegenState):
    wanted: set[cst.CSTNode]
    inner: dict[cst.CSTNode, tuple[int, int]]
    outer: dict[cst.CSTNode, tuple[int, int]]
    opened: list[int]

    def before_codegen(self, node: cst.CSTNode) -> None:
        if node in self.wanted:
            self.opened.append(len(self.tokens))

    def after_codegen(self, node: cst.CSTNode) -> None:
        if node in self.wanted and node not in self.outer:
            self.outer[node] = (self.opened.pop(), len(self.tokens))

    @contextmanager
    def record_syntactic_position(
        self,
        node: cst.CSTNode,
        *,
        start_node: cst.CSTNode | None = None,
        end_node: cst.CSTNode | None = None,
    ) -> Iterator[None]:
        if node not in self.wanted:
            yield
            return
        self.wanted.update(n for n in (start_node, end_node) if n is not None)
        start = len(self.tokens)
        yield
        stop = len(self.tokens)
        if start_node is not None:
            start = self._of(start_node)[0]
        if end_node is not None:
            stop = self._of(end_node)[1]
        self.inner[node] = (start, stop)

    def _of(self, node: cst.CSTNode) -> tuple[int, int]:
        return self.inner.get(node) or self.outer[node]
