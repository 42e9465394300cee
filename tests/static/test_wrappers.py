"""Functions that drop: how their callers can tell them the mode."""

from __future__ import annotations

from textwrap import dedent

import pytest

from dropaudit.static.program.gates import gated, implied, names_mode
from dropaudit.static.program.hearing import callers_hear
from dropaudit.static.program.reading import read_facts
from dropaudit.static.program.resolve import FunctionRef, Resolver
from dropaudit.static.program.wrappers import Wrappers

HEAD = "import torch\nimport torch.nn.functional as F\nfrom functools import partial\n"


def resolver(**files: str) -> Resolver:
    """The names of a program of a few files."""
    return Resolver({f"{n}.py": read_facts((HEAD + dedent(t)).encode()) for n, t in files.items()})


def told(text: str, name: str = "drop") -> list[str]:
    """How `name` drops, in words: kind, flag, rate."""
    found = Wrappers(resolver(layers=text)).drops(FunctionRef("layers.py", name))
    words = []
    for one in found:
        flag = "" if one.flag is None else ("not " if one.flag.inverted else "") + one.flag.name
        words.append(" ".join(filter(None, (one.kind, flag and f"by {flag}", one.rate.name))))
    return words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def drop(x, p): return F.dropout(x, p)", ["dropout p"]),
        ("def drop(x): return F.dropout(x)", ["dropout"]),
        ("def drop(x): return F.dropout(x, 0.0)", []),
        (
            "def drop(x, p, training=True): return F.dropout(x, p, training)",
            ["dropout by training p"],
        ),
        ("def drop(x, p, training=False): return F.dropout(x, p, training)", []),
        ("def drop(x, p, training=None): return F.dropout(x, p, training)", []),
        ("def drop(x, p, training=1): return F.dropout(x, p, training)", []),
        ("def drop(x, p, training): return F.dropout(x, p, training)", []),
        ("def drop(x, p): return F.dropout(x, p, True)", []),
        ("def drop(m, x, p): return F.dropout(x, p, m.training)", []),
        ("def drop(x, *a, **k): return F.dropout(x, *a, **k)", []),
        ("def mc_dropout(x, p): return F.dropout(x, p)", []),
        (
            "def drop(x, p, deterministic=False): return F.dropout(x, p, not deterministic)",
            ["dropout by not deterministic p"],
        ),
        (
            """
            def drop(x, p, train=True):
                if not train or p == 0:
                    return x
                return F.dropout(x, p)
            """,
            ["dropout by train p"],
        ),
        (
            """
            def drop(x, p, train=True):
                if train and p > 0:
                    x = F.dropout(x, p)
                return x
            """,
            ["dropout by train p"],
        ),
        (
            """
            def drop(x, p, m):
                if m.training * p > 0:
                    x = F.dropout(x, p)
                return x
            """,
            [],
        ),
        (
            """
            def drop(x, p, training=True):
                p = p if training else 0.0
                return F.dropout(x, p)
            """,
            ["dropout by training p"],
        ),
        (
            """
            def drop(q, p, training=True):
                if not training:
                    p = 0
                return F.scaled_dot_product_attention(q, q, q, dropout_p=p)
            """,
            ["kernel by training p"],
        ),
        (
            """
            def drop(q, p, on):
                rate = p if on else 0.0
                return F.scaled_dot_product_attention(q, q, q, dropout_p=rate)
            """,
            [],
        ),
        (
            """
            def inner(x, p, training=True): return F.dropout(x, p, training)
            def drop(x, rate): return inner(x, rate)
            """,
            ["dropout rate"],
        ),
        (
            """
            def inner(x, p, training=True): return F.dropout(x, p, training)
            def drop(x, rate, train=True): return inner(x, p=rate, training=train)
            """,
            ["dropout by train rate"],
        ),
        (
            """
            def inner(x, p=0.0): return F.dropout(x, p)
            def drop(x): return inner(x)
            """,
            [],
        ),
        (
            """
            def inner(x, p=0.5, training=True): return F.dropout(x, p, training)
            half = partial(inner, p=0.5)
            off = partial(inner, training=False)
            def drop(x): return off(half(x))
            """,
            ["dropout"],
        ),
        (
            """
            def drop(x, p, training=True):
                if not training:
                    return x
                return x * (torch.rand_like(x) > p) / (1 - p)
            """,
            ["mask by training p"],
        ),
        ("def drop(x, p): return drop(x, p)", []),
    ],
)  # fmt: skip
def test_a_function_drops_as_its_callers_say(text: str, expected: list[str]) -> None:
    """Flags that are on by default, rates that are parameters, and nothing that hears itself."""
    name = "mc_dropout" if "mc_dropout" in text else "drop"
    assert told(text, name) == expected


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("a and not b", [("a", True), ("b", False)]),
        ("not (a or b)", [("a", False), ("b", False)]),
        ("a or b", []),
        ("not (a and b)", []),
        ("not not a", [("a", True)]),
    ],
)
def test_a_branch_implies_the_parts_of_its_test(
    test: str, expected: list[tuple[str, bool]]
) -> None:
    """`and` that is true and `or` that is false, whatever `not` stands before them."""
    body = (
        resolver(net=f"def f(a, b):\n    if {test}:\n        g()\n").functions("net.py")["f"].body
    )
    (call,) = gated(body)
    names = [(getattr(one, "name", ""), truth) for one, truth in implied(call.tests)]
    assert sorted(n for n in names if n[0]) == expected


def test_arithmetic_of_the_mode_names_it() -> None:
    """The facts forget arithmetic, but not that a test is one of the mode."""
    text = "def f(self, p):\n    if self.training * p > 0:\n        g()\n"
    (call,) = gated(resolver(net=text).functions("net.py")["f"].body)
    assert call.hears_mode and names_mode(call.tests[0][0])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("self.one(x) if self.training else x", True),
        ("self.one(x)", False),
        ("self.one(x, self.training)", True),
        ("x", False),
    ],
)
def test_the_calls_of_instances_decide(call: str, expected: bool) -> None:
    """Each attribute that holds one must be called with, or under a test of, the mode."""
    program = resolver(
        layers="""
        class Noise(torch.nn.Module):
            def forward(self, x):
                return F.dropout(x, 0.1)
        """,
        net=f"""
        from layers import Noise

        class Net(torch.nn.Module):
            def __init__(self):
                self.one = Noise()

            def forward(self, x):
                return {call}
        """,
    )
    assert callers_hear(program, FunctionRef("layers.py", "Noise.forward")) is expected
