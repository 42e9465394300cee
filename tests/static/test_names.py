"""What a name stands for: aliases, shadowing, scopes, conditions."""

from __future__ import annotations

import libcst as cst
import pytest

from dropaudit.static.source import Source

F = "torch.nn.functional"

# a program in which `target(...)` is called once -> the dotted name of its first argument
RESOLVED = {
    "plain import": ("import torch\ntarget(torch.nn.functional.dropout)\n", f"{F}.dropout"),
    "import as": ("import torch.nn.functional as F\ntarget(F.dropout)\n", f"{F}.dropout"),
    "submodule import": (
        "import torch.nn.functional\ntarget(torch.nn.Dropout)\n",
        "torch.nn.Dropout",
    ),
    "from import": ("from torch.nn.functional import dropout\ntarget(dropout)\n", f"{F}.dropout"),
    "from import as": ("from torch.nn import functional as G\ntarget(G.dropout)\n", f"{F}.dropout"),
    "long way": (
        "from torch.nn.modules.dropout import Dropout as D\ntarget(D)\n",
        "torch.nn.Dropout",
    ),
    "relative": ("from .layers import Dropout\ntarget(Dropout)\n", ".layers.Dropout"),
    "relative package": ("from . import nn\ntarget(nn.Dropout)\n", ".nn.Dropout"),
    "relative above": ("from ..a.b import nn\ntarget(nn.Dropout)\n", "..a.b.nn.Dropout"),
    "star": ("from torch.nn import *\ntarget(Dropout)\n", "torch.nn.Dropout"),
    "star of another": ("from layers import *\ntarget(Dropout)\n", "Dropout"),
    "conventional through star": ("from fast.all import *\ntarget(F.dropout)\n", f"{F}.dropout"),
    "unbound": ("target(Dropout)\n", "Dropout"),
    "alias by assignment": (
        "from torch import nn\nD = nn.Dropout\ntarget(D)\n",
        "torch.nn.Dropout",
    ),
    "alias by unpacking": (
        "from torch import nn\nD, L = nn.Dropout, 1\ntarget(D)\n",
        "torch.nn.Dropout",
    ),
    "alias with annotation": (
        "from torch import nn\nD: type = nn.Dropout\ntarget(D)\n",
        "torch.nn.Dropout",
    ),
    "assigned twice": ("from torch import nn\nD = nn.Dropout\nD = 1\ntarget(D)\n", ""),
    "parameter": ("import torch.nn.functional as F\ndef f(F):\n    target(F.dropout)\n", ""),
    "lambda parameter": ("import torch.nn.functional as F\nf = lambda F: target(F.dropout)\n", ""),
    "local assignment": (
        "import torch.nn.functional as F\ndef f():\n    F = g()\n    target(F.x)\n",
        "",
    ),
    "loop variable": ("import torch.nn.functional as F\nfor F in fs:\n    target(F.dropout)\n", ""),
    "with target": ("from torch import nn\nwith g() as nn:\n    target(nn.x)\n", ""),
    "except target": (
        "from torch import nn\ntry:\n    g()\nexcept E as nn:\n    target(nn.x)\n",
        "",
    ),
    "match capture": (
        "from torch import nn\nmatch g():\n    case [nn, *_]:\n        target(nn.x)\n",
        "",
    ),
    "match rest": (
        "from torch import nn\nmatch g():\n    case {**nn}:\n        target(nn.x)\n",
        "",
    ),
    "redefined by class": (
        "from torch.nn import Dropout\nclass Dropout: pass\ntarget(Dropout)\n",
        "",
    ),
    "redefined by def": (
        "from torch.nn.functional import dropout\ndef dropout(): pass\ntarget(dropout)\n",
        "",
    ),
    "walrus": ("from torch import nn\nif nn := g():\n    target(nn.x)\n", ""),
    "walrus in comprehension binds outside": (
        "from torch import nn\ndef f():\n    [nn := y for y in z]\n    target(nn.x)\n",
        "",
    ),
    "nested function sees outer alias": (
        "def f():\n    import torch.nn.functional as F\n    def g():\n        target(F.dropout)\n",
        f"{F}.dropout",
    ),
    "sibling's alias is not seen": (
        "def f():\n    import torch.nn.functional as F\ndef g():\n    target(F.dropout)\n",
        "F.dropout",
    ),
    "class body sees its own": (
        "class A:\n    from torch import nn\n    target(nn.Dropout)\n",
        "torch.nn.Dropout",
    ),
    "method does not see the class body": (
        "from torch import nn\nclass A:\n  nn = 1\n  def f(self):\n    target(nn.Dropout)\n",
        "torch.nn.Dropout",
    ),
    "comprehension variable": ("from torch import nn\n[target(nn.x) for nn in y]\n", ""),
    "comprehension variable stays inside": (
        "from torch import nn\n[nn for nn in y]\ntarget(nn.Dropout)\n",
        "torch.nn.Dropout",
    ),
    "first iterable is outside": (
        "from torch import nn\n[nn for nn in target(nn.x)]\n",
        "torch.nn.x",
    ),
    "default is outside": ("from torch import nn\ndef f(nn=target(nn.x)): pass\n", "torch.nn.x"),
    "annotation is outside": (
        "from torch import nn\ndef f(nn: target(nn.x)): pass\n",
        "torch.nn.x",
    ),
    "decorator is outside": (
        "from torch import nn\n@target(nn.x)\ndef f(nn): pass\n",
        "torch.nn.x",
    ),
    "base is outside": ("from torch import nn\nclass A(target(nn.x)):\n    nn = 1\n", "torch.nn.x"),
    "global": (
        "def f():\n  global F\n  import torch.nn.functional as F\ndef g():\n  target(F.dropout)\n",
        f"{F}.dropout",
    ),
    "nonlocal": (
        "from torch import nn\ndef f():\n    nn = 1\n"
        "    def g():\n        nonlocal nn\n        nn = 2\n"
        "    def h():\n        target(nn.x)\n",
        "",
    ),
    "nonlocal two levels up": (
        "def f():\n    from torch import nn\n"
        "    def g():\n        def h():\n            nonlocal nn\n"
        "            nn = None\n        target(nn.x)\n",
        "torch.nn.x",
    ),
    "import or None": (
        "try:\n    import torch.nn.functional as F\nexcept E:\n    F = None\ntarget(F.dropout)\n",
        f"{F}.dropout",
    ),
    "one of two imports": (
        "try:\n    from torch.nn import Dropout\nexcept E:\n    from mine import Dropout\n"
        "target(Dropout)\n",
        "torch.nn.Dropout",
    ),
    "a later import always wins": (
        "from torch.nn import Dropout\nfrom mine import Dropout\ntarget(Dropout)\n",
        "mine.Dropout",
    ),
    "only for type checkers": (
        "if TYPE_CHECKING:\n    from torch import nn\ntarget(nn.Dropout)\n",
        "torch.nn.Dropout",
    ),
    "not a name": ("target(f()[0].dropout)\n", ""),
    "assigned in a circle": ("a = b\nb = a\ntarget(a)\n", ""),
}


@pytest.mark.parametrize(("program", "dotted"), RESOLVED.values(), ids=RESOLVED)
def test_a_name_stands_for_what_python_would_find(program: str, dotted: str) -> None:
    """The first argument of `target` resolves as the program would bind it."""
    source = Source("net.py", program.encode())
    (call,) = [c for c in source.nodes[cst.Call] if getattr(c.func, "value", "") == "target"]
    assert source.name_of(call.args[0].value) == dotted


def test_calls_are_indexed_in_source_order() -> None:
    """Decorators come before the body, bases before methods, handlers' types before handlers."""
    program = (
        "@a()\nclass A(b()):\n    @c()\n    def f(self, x=d()) -> e():\n"
        "        try:\n            f()\n        except g():\n            h()\n"
    )
    calls = Source("net.py", program.encode()).nodes[cst.Call]
    assert [call.func.value for call in calls] == list("abcdefgh")


def test_every_node_knows_its_parent_and_its_scope() -> None:
    """Parents lead from every indexed node to the module; each node has one scope."""
    program = "class A:\n    def f(self, x=[y for y in z if y]):\n        return lambda q=1: q\n"
    source = Source("net.py", program.encode())
    for nodes in source.nodes.values():
        for node in nodes:
            *_, top = [node, *source.ancestors(node)]
            assert top is source.module
            assert source.scope_of(node).module is source.scopes[source.module]
