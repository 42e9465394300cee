"""Spans of nodes in the text, with and without parentheses."""

from __future__ import annotations

from typing import Any

import libcst as cst
import pytest

from dropaudit.static.positions import spans

SPANS: dict[str, tuple[str, Any, str, str]] = {
    "parentheses": ("x = ((f(1)))\n", lambda m: m.body[0].body[0].value, "f(1)", "((f(1)))"),
    "a bare name": ("x = y # c\n", lambda m: m.body[0].body[0].value, "y", "y"),
    "a tab before": (
        "if a:\n\ty = f()\n",
        lambda m: m.body[0].body.body[0].body[0].value,
        "f()",
        "f()",
    ),
    "a class without its decorators' lines": (
        "@d\nclass A:\n    pass\n",
        lambda m: m.body[0],
        "class A:\n    pass",
        "@d\nclass A:\n    pass\n",
    ),
    "a function without comments above": (
        "x\n# c\ndef f(): pass\n",
        lambda m: m.body[1],
        "def f(): pass",
        "# c\ndef f(): pass\n",
    ),
    "a statement without its comment": ("f()  # c\n", lambda m: m.body[0], "f()", "f()  # c\n"),
    "over several lines": (
        "x = f(\n    1,\n)\n",
        lambda m: m.body[0].body[0].value,
        "f(\n    1,\n)",
        "f(\n    1,\n)",
    ),
    "after a continuation": ("x = \\\n  f()\n", lambda m: m.body[0].body[0].value, "f()", "f()"),
    "without a last newline": ("x = f()", lambda m: m.body[0].body[0].value, "f()", "f()"),
    "an argument": (
        "f(a, key = 1)\n",
        lambda m: m.body[0].body[0].value.args[1],
        "key = 1",
        "key = 1",
    ),
}


@pytest.mark.parametrize(("program", "pick", "inner", "outer"), SPANS.values(), ids=SPANS)
def test_a_span_covers_the_node(program: str, pick: Any, inner: str, outer: str) -> None:
    """The inner span leaves out parentheses and blanks; the outer one holds them."""
    module = cst.parse_module(program)
    node = pick(module)
    text, found = spans(module, [node])
    assert text == program
    assert text[found[node].start : found[node].stop] == inner
    assert text[found[node].outer_start : found[node].outer_stop] == outer


def test_nested_nodes_each_have_their_span() -> None:
    """Asking for a call and what it holds gives both."""
    module = cst.parse_module("x = f(g(1), (h))\n")
    call = module.body[0].body[0].value  # type: ignore[union-attr, index, attr-defined]
    first, second = (arg.value for arg in call.args)
    text, found = spans(module, [second, call, first, call])
    assert [text[found[n].start : found[n].stop] for n in (call, first, second)] == [
        "f(g(1), (h))",
        "g(1)",
        "h",
    ]
