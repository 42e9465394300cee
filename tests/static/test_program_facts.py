"""The facts of one file, the little language, and the names that several files give to things."""

from __future__ import annotations

import textwrap

import pytest

from dropaudit.static.program.code import (
    Assign,
    Attribute,
    Call,
    Choice,
    Compare,
    Constant,
    Define,
    Do,
    Each,
    Element,
    If,
    Import,
    Inner,
    Leave,
    Loop,
    Mix,
    Name,
    Not,
    Return,
    Several,
    Span,
    Try,
    With,
    packed,
    unpacked,
    within,
)
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.program.layers import Layers
from dropaudit.static.program.reading import may_hold_facts, read_facts
from dropaudit.static.program.resolve import (
    ClassRef,
    External,
    FunctionRef,
    GlobalRef,
    ModuleRef,
    Resolver,
    Symbol,
)

NOTHING = Mix(())


def read(text: str) -> FileFacts:
    """The facts of a program, with a comment in it that makes it worth reading."""
    return read_facts(f"{textwrap.dedent(text)}\n# torch\n".encode())


def body(text: str) -> tuple[object, ...]:
    """The statements of a module."""
    return read(text).functions[-1].body


def call(text: str, line: int, column: int) -> Call:
    """A call of a plain name without arguments, as it stands in a line."""
    return Call(Name(text), (), Span(line, column, line, column + len(text) + 2))


# -- reading: statements and expressions ---------------------------------------------------

F, G, H = Name("f"), Name("g"), Name("h")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = f", Assign((Name("x"),), F, 1)),
        ("x = y = f", Assign((Name("x"), Name("y")), F, 1)),
        ("x, (y, *z) = f", Assign((Several((Name("x"), Several((Name("y"), Name("z"))))),), F, 1)),
        ("x: int = f", Assign((Name("x"),), F, 1)),
        ("x += f", Assign((Name("x"),), Mix((Name("x"), F)), 1)),
        ("x[f()] += g()", Do(call("g", 1, 11), 1)),
        ("f()", Do(call("f", 1, 1), 1)),
        (
            "if f:\n  g()\nelse:\n  h()",
            If(F, "f", (Do(call("g", 2, 3), 2),), (Do(call("h", 4, 3), 4),), 1),
        ),
        ("assert f()", Do(call("f", 1, 8), 1)),
        ("raise f()", Do(call("f", 1, 7), 1)),
        (
            "with f() as x:\n  g()",
            With(((call("f", 1, 6), Name("x")),), (Do(call("g", 2, 3), 2),), 1),
        ),
        ("def f():\n  pass", Define("f", "f", False)),
        ("async def f():\n  pass", Define("f", "f", False)),
        ("class A:\n  pass", Define("A", "A", True)),
        (
            "try:\n  f()\nexcept E:\n  g()\nelse:\n  h()\nfinally:\n  f()",
            Try(
                (Do(call("f", 2, 3), 2),),
                ((Do(call("g", 4, 3), 4),),),
                (Do(call("h", 6, 3), 6),),
                (Do(call("f", 8, 3), 8),),
            ),
        ),
    ],
)
def test_a_statement_becomes_one_of_the_little_language(text: str, expected: object) -> None:
    """The first of what a statement becomes."""
    assert body(text)[0] == expected


@pytest.mark.parametrize(
    "text", ["pass", "x: int", "del x", "global x", "'text'", "1", "x", "import os", "x < 1"]
)
def test_a_statement_in_which_nothing_happens_is_forgotten(text: str) -> None:
    """Imports of a module are in a table of their own."""
    assert body(text) == ()


@pytest.mark.parametrize(
    ("text", "how"), [("break", "break"), ("continue", "continue"), ("raise E", "raise")]
)
def test_leaving_is_kept(text: str, how: str) -> None:
    """`raise` leaves as well."""
    (loop,) = body(f"while f:\n  {text}")
    assert isinstance(loop, Loop)
    assert loop.target is None
    assert loop.body[-1] == Leave(how)


@pytest.mark.parametrize("text", ["for x in f:\n  g()\nelse:\n  h()"])
def test_a_loop_knows_where_a_first_statement_can_be_put(text: str) -> None:
    """As a byte of the file, after a docstring, and by blanks alone."""
    (loop,) = body(text)
    assert isinstance(loop, Loop)
    assert (loop.target, loop.source, loop.line) == (Name("x"), F, 1)
    assert loop.orelse == (Do(call("h", 4, 3), 4),)
    assert loop.top is not None
    assert (loop.top.offset, loop.top.indent) == (len("for x in f:\n"), 2)


@pytest.mark.parametrize("text", ["for x in f: g()", "for x in f:\n\tg()", "for x in f:\r\n  g()"])
def test_of_odd_layouts_nothing_is_said(text: str) -> None:
    """A fix is not worth a broken file."""
    (loop,) = body(text)
    assert isinstance(loop, Loop)
    assert loop.top is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f", F),
        ("f.g.h", Attribute(Attribute(F, "g"), "h")),
        ("f[g]", Element(F)),
        ("f[g()]", Element(Mix((F, call("g", 1, 7))))),
        ("-1", Constant(-1)),
        ("'text'", Constant("text")),
        ("'%s'" % ("long" * 100), NOTHING),
        ("b'text'", NOTHING),
        ("None", Constant(None)),
        ("(f, [g], {h}, {1: f})", Several((F, Several((G,)), Several((H,)), Several((F,))))),
        ("f if g else h", Choice(G, F, H)),
        ("f or g or h", Choice(F, F, Choice(G, G, H))),
        ("f and g", Choice(F, G, F)),
        ("not f", Not(F)),
        ("f is None", Compare(F, "is", Constant(None))),
        ("f != 1", Compare(F, "!=", Constant(1))),
        ("f < 1", NOTHING),
        ("f() < 1", Mix((call("f", 1, 5),))),
        ("f() + g()", Mix((call("f", 1, 5), call("g", 1, 11)))),
        ("[f for g in h]", Each(G, H, F)),
        ("{1: f for g in h}", Each(G, H, F)),
        ("[f for x in g for y in h]", Each(Name("x"), G, Each(Name("y"), H, F))),
        ("(y := f)", F),
        ("lambda: f", Inner("<lambda 1:4>")),
    ],
)
def test_an_expression_becomes_one_of_the_little_language(text: str, expected: object) -> None:
    """The value of `x = ...`."""
    first = body(f"x = {text}")[0]
    assert isinstance(first, Assign)
    assert first.value == expected


@pytest.mark.parametrize(
    ("pattern", "test"),
    [
        ("'a'", Compare(F, "==", Constant("a"))),
        ("None", Compare(F, "is", Constant(None))),
        ("[a, b]", Mix((F,))),
        ("'a' if g", Mix((F, G))),
        ("A(x=1)", Mix((F,))),
        ("1 | 2", Mix((F,))),
    ],
)
def test_a_case_is_a_test(pattern: str, test: object) -> None:
    """Of constants a comparison; what no case takes is the last `else`."""
    (found,) = body(f"match f:\n  case {pattern}:\n    g()\n  case _:\n    h()")
    assert isinstance(found, If)
    assert found.test == test
    assert found.orelse == (Do(call("h", 5, 5), 5),)


def test_functions_methods_and_lambdas_are_named_by_what_is_around() -> None:
    """Decorators by their dotted names, generators as such."""
    facts = read(
        """
        class A:
            @property
            def p(self):
                def inner():
                    yield 1
                return lambda x: x
        @a.b(1)
        async def f(x, /, y=1, *args, z=None, **rest):
            global w
            import os as o
            from ..m import n
            w = 1
        """
    )
    found = {one.qualified: one for one in facts.functions}
    assert list(found) == ["A.p.inner", "A.p.<lambda 7:15>", "A.p", "f", ""]
    assert found["A.p"].is_method
    assert found["A.p"].decorators == ("property",)
    assert found["A.p.inner"].is_generator
    assert found["f"].decorators == ("a.b",)
    assert found["f"].elsewhere == found["f"].assigned == ("w",)
    names = [(one.name, one.default, one.keyword_only) for one in found["f"].parameters]
    assert names == [
        ("x", None, False),
        ("y", Constant(1), False),
        ("*args", None, False),
        ("z", Constant(None), True),
        ("**rest", None, False),
    ]
    imports = [one for one in found["f"].body if isinstance(one, Import)]
    assert imports == [Import("o", "os"), Import("n", "..m.n")]


def test_columns_count_characters() -> None:
    """Also after letters that take several bytes, and emoji."""
    (found,) = body("ä = 'ñ😀'; f()")[1:]
    assert found == Do(call("f", 1, 11), 1)


def test_a_huge_table_costs_little() -> None:
    """Of a long literal a few items that are no constants are kept."""
    numbers = ", ".join(map(str, range(20_000)))
    facts = read(f"TABLE = [{numbers}]\nNAMES = [{'f, ' * 5000}]\n")
    assert sum(1 for _ in within(facts.functions[-1].body)) < 100


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"import torch\n", True),
        (b"from .net import Net\n", True),
        (b"from net import *\n", True),
        (b"x = 1\n", False),
        (b"import os\n" + b"x = 1\n" * 1000, False),
    ],
)
def test_what_cannot_hold_facts_is_not_parsed(data: bytes, expected: bool) -> None:
    """A short file may pass names on; a table of numbers does not."""
    assert may_hold_facts(data) is expected
    assert bool(read_facts(data).functions) is expected


@pytest.mark.parametrize("data", [b"torch = (\n", b"model = '\x00'\n"])
def test_what_python_cannot_parse_raises(data: bytes) -> None:
    """One of two errors, whatever the version of Python."""
    with pytest.raises((SyntaxError, ValueError)):
        read_facts(data)


# -- packing -------------------------------------------------------------------------------


def test_packing_keeps_every_kind_of_record() -> None:
    """Also texts with quotes, floats, and trees as deep as a file may be."""
    program = """
    import os
    def f(x, *y):
        import a.b as c
        with g(x) as h, i: h.j[0] = -1.5
        for k, l in [*y, {"m": x if x is not None else "\\"ä"}]:
            while not k: break
            else: return lambda: [o for o in l or y]
        try: raise f(x=1, **l)
        except E: pass
        def inner(): yield
        class C: pass
    """
    for one in read(program).functions:
        assert unpacked(packed(one.body)) == one.body
        assert packed(one.body) == one.text


@pytest.mark.parametrize("text", ["", "1", "null", "[99]", "[2]", "[-1,[3]]", "{}", '"x"'])
def test_what_was_not_packed_is_refused(text: str) -> None:
    """A damaged cache is no reason to fail in another way."""
    with pytest.raises(ValueError, match=r"not a packed body|Expecting"):
        unpacked(text)


# -- resolving -----------------------------------------------------------------------------


NET = "class Net:\n  class Part:\n    pass\n  def run(self): pass\ndef make(): pass\nsize = 1\n"


@pytest.mark.parametrize(
    ("files", "name", "expected"),
    [
        ({"main.py": "from net import Net", "net.py": NET}, "Net", ClassRef("net.py", "Net")),
        (
            {"main.py": "import net as n", "net.py": NET},
            "n.Net.Part",
            ClassRef("net.py", "Net.Part"),
        ),
        ({"main.py": "import net", "net.py": NET}, "net.make", FunctionRef("net.py", "make")),
        ({"main.py": "import net", "net.py": NET}, "net.size", GlobalRef("net.py", "size")),
        ({"main.py": "import net", "net.py": NET}, "net.Net.run", FunctionRef("net.py", "Net.run")),
        ({"main.py": "import net", "net.py": NET}, "net", ModuleRef("net.py")),
        ({"main.py": "from net import *", "net.py": NET}, "make", FunctionRef("net.py", "make")),
        ({"main.py": "from net import *", "net.py": "def _f(): pass"}, "_f", External("_f")),
        (
            {"main.py": "from net import *", "net.py": f"__all__ = ['size']\n{NET}"},
            "make",
            External("make"),
        ),
        (
            {"main.py": "from net import *", "net.py": f"__all__ = ['make']\n{NET}"},
            "make",
            FunctionRef("net.py", "make"),
        ),
        (
            {"main.py": "from b import *", "b.py": "from c import *", "c.py": NET},
            "Net",
            ClassRef("c.py", "Net"),
        ),
        (
            {"main.py": "import p.a.net", "p/a/net.py": NET},
            "p.a.net.Net",
            ClassRef("p/a/net.py", "Net"),
        ),
        (
            {
                "main.py": "from p import Net",
                "p/__init__.py": "from .net import Net",
                "p/net.py": NET,
            },
            "Net",
            ClassRef("p/net.py", "Net"),
        ),
        (
            {
                "main.py": "from p import make",
                "p/__init__.py": "from .make import make",
                "p/make.py": NET,
            },
            "make",
            FunctionRef("p/make.py", "make"),
        ),
        (
            {
                "main.py": "from p import make",
                "p/__init__.py": "def make(): pass",
                "p/make.py": NET,
            },
            "make",
            FunctionRef("p/__init__.py", "make"),
        ),
        (
            {"main.py": "from p import net", "p/__init__.py": "", "p/net.py": NET},
            "net.Net",
            ClassRef("p/net.py", "Net"),
        ),
        (
            {"main.py": "from pack.net import Net", "src/pack/net.py": NET},
            "Net",
            ClassRef("src/pack/net.py", "Net"),
        ),
        ({"main.py": "import torch.nn as nn"}, "nn.Dropout", External("torch.nn.Dropout")),
        (
            {"main.py": "try:\n  import fast\nexcept ImportError:\n  fast = None"},
            "fast.go",
            External("fast.go"),
        ),
        (
            {"main.py": "from a import x", "a.py": "from b import x", "b.py": "from a import x"},
            "x",
            None,
        ),
        ({"main.py": "from main import Net"}, "Net", None),
        ({"main.py": "Net = None"}, "Net", GlobalRef("main.py", "Net")),
        ({"main.py": "from missing.net import Net"}, "Net", External("missing.net.Net")),
    ],
)
def test_a_name_stands_for_what_python_would_import(
    files: dict[str, str], name: str, expected: Symbol | None
) -> None:
    """Packages, re-exports, stars, `__all__`, source folders, and what is not there."""
    found = Resolver({p: read(text) for p, text in files.items()}).resolve("main.py", name)
    if expected is None:  # a circle: anything but a class or function
        assert not isinstance(found, (ClassRef, FunctionRef))
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from .net import Net", ClassRef("a/b/net.py", "Net")),
        ("from . import net", ModuleRef("a/b/net.py")),
        ("from ..up import Net", ClassRef("a/up.py", "Net")),
        ("from ...top import Net", ClassRef("top.py", "Net")),
        ("from .... import Net", External("Net")),
        ("from a.up import Net", ClassRef("a/up.py", "Net")),
        ("from net import Net", ClassRef("a/b/net.py", "Net")),
    ],
)
def test_relative_imports_climb(text: str, expected: Symbol) -> None:
    """And absolute ones are looked for in the folders above."""
    paths = ("a/b/net.py", "a/up.py", "top.py", "a/b/main.py", "a/b/__init__.py")
    files = {path: read(NET) for path in paths} | {"a/b/main.py": read(text)}
    name = text.rpartition(" ")[2]
    assert Resolver(files).resolve("a/b/main.py", name) == expected


def test_bases_are_followed_and_circles_end() -> None:
    """Methods come from the nearest base that has them."""
    files = {
        "a.py": read("from b import B\nclass A(B):\n  def f(self): pass\n"),
        "b.py": read("from a import A\nclass B(A):\n  def g(self): pass\n"),
        "c.py": read("from a import A\nimport torch\nclass C(A, torch.nn.Module): pass\n"),
    }
    one = Resolver(files)
    assert one.method(ClassRef("c.py", "C"), "g") == FunctionRef("b.py", "B.g")
    assert External("torch.nn.Module") in one.lineage(ClassRef("c.py", "C"))
    assert ClassRef("c.py", "C") in list(one.subclasses(ClassRef("a.py", "A")))


# -- layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "layer", "by_rate", "unknown"),
    [
        ("self.d = nn.Dropout(0.1)", "Dropout", (), False),
        ("self.d = nn.Dropout(0)", "", (), False),
        ("self.d = nn.Dropout(p)", "", ("p",), False),
        ("self.d = nn.Dropout(q)", "Dropout", (), False),
        ("self.d = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))", "BatchNorm2d", (), False),
        ("self.d = nn.LSTM(2, 2, dropout=p)", "", ("p",), False),
        ("self.d = nn.LSTM(2, 2, dropout=0.5)", "Dropout", (), False),
        ("self.d = nn.Linear(2, 2)", "", (), False),
        ("self.d = Inner()", "Dropout", (), False),
        ("self.d = make()", "Dropout", (), False),
        ("self.d = Other()", "", (), True),
        ("self.d = Net()", "", (), False),
    ],
)
def test_layers_are_found_inside_of_classes(
    init: str, layer: str, by_rate: tuple[str, ...], unknown: bool
) -> None:
    """In other files too; a rate that defaults to zero is asked of whoever builds the model."""
    net = f"""
    import torch
    from torch import nn
    from inner import Inner, make
    from elsewhere import Other
    class Net(nn.Module):
        def __init__(self, q, p=0.0):
            super().__init__()
            {init}
    """
    inner = """
    from torch import nn
    class Inner(nn.Module):
        def __init__(self):
            self.drop = nn.Dropout(0.2)
    def make():
        return nn.Sequential(Inner())
    """
    layers = Layers(Resolver({"net.py": read(net), "inner.py": read(inner)}))
    found = layers.inside(ClassRef("net.py", "Net"))
    assert (found.layer, tuple(found.by_rate), found.unknown) == (layer, by_rate, unknown)


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("nn.Module", True),
        ("Base", True),
        ("object", False),
        ("torch.utils.data.Dataset", False),
        ("other.FancyLayer", True),
        ("other.Thing", False),
    ],
)
def test_a_class_is_a_module_by_its_bases(base: str, expected: bool) -> None:
    """Across files, and by evidence where the base is not at hand."""
    text = f"""
    import torch, other
    from torch import nn
    from base import Base
    class Net({base}):
        def forward(self, x): return x
    """
    files = {
        "net.py": read(text),
        "base.py": read("from torch import nn\nclass Base(nn.Module): ..."),
    }
    assert Layers(Resolver(files)).is_module(ClassRef("net.py", "Net")) is expected


def test_a_return_keeps_its_value() -> None:
    """Or says that there is none."""
    found = read("def f():\n    if g: return\n    return h\n").functions[0].body
    assert isinstance(found[0], If)
    assert found[0].body == (Return(None, 2),)
    assert found[1] == Return(H, 3)
