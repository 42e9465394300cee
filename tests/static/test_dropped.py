"""Forms in which a dropped tensor is dropped again, or is not."""

from __future__ import annotations

import pytest

from dropaudit.static.dropped import Dropped
from dropaudit.static.source import Source

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange
from other import StableDropout

class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.1)

    def forward(self, x, y=None):
        if y is None:
            return self.drop(x)
        return x

class Net(nn.Module):
    def __init__(self, p, flag):
        super().__init__()
        self.p = p
        self.drop, self.other, self.fc = nn.Dropout(p), nn.Dropout(p), nn.Linear(4, 4)
        self.perhaps = nn.Dropout(p) if flag else nn.Identity()
        self.stable = StableDropout(p)
        self.inner = Inner()
        self.flat = nn.Sequential(nn.Flatten(), nn.Identity())
        self.none = None
        if p > 0:
            self.none = nn.Dropout(p)

    def twice(self, x):
        return self.drop(x)

"""
DROPPED_AGAIN = """
return self.drop(self.flat(self.drop(x)))
return self.drop(rearrange(self.drop(x), "b c -> c b"))
return self.drop(torch.cat([self.drop(x), self.other(x)], 1))
return self.drop(self.none(x))
return self.drop(self.twice(x))
return self.stable(self.stable(x))
return self.perhaps(self.perhaps(x))
return self.drop(y := self.drop(x))
return F.dropout(input=self.drop(x)[:, 0].mT, p=0.5, training=self.training)
for _ in range(3): x = self.drop(self.fc(x))
while x.any(): x = self.drop(x)
with torch.no_grad(): x = self.drop(x)
if self.p > 0: x = self.drop(x)
if self.fc: x = self.drop(x) | else: x = self.other(x)
a, b = self.drop(x).chunk(2); x = torch.stack((a, b))
x = self.drop(x) if self.training else x
try: x = self.drop(x) | except ValueError: raise
""".strip().splitlines()
LEFT_ALONE = """
return self.drop(self.inner(x))
return self.drop(self.perhaps(x))
return self.drop(self.stable(x))
return self.drop(F.dropout2d(self.drop(x), 0.5))
return self.drop(x), self.drop(x)
return [self.drop(x) for _ in range(3)]
return self.drop(torch.cat([self.drop(x), x], 1))
if self.fc: x = self.drop(x)
if self.fc: return self.drop(x)
x += self.drop(x)
x[0] = self.drop(x)
for x in self.drop(x): pass
for _ in range(3): x = self.fc(self.drop(x))
x = lambda x: self.drop(x)
f = lambda x: self.drop(x); x = f(self.drop(x))
def x(x): return self.drop(x)
try: x = self.drop(x) | except ValueError: x = self.fc(x)
x = F.dropout(x, 0.0)
x = F.dropout(x, self.p, training=False)
""".strip().splitlines()


def doubled(body: str) -> int:
    """How many dropouts of a dropped tensor a forward with this body has."""
    lines = "\n".join(f"        {line}" for line in body.split(" | "))
    program = f"{HEAD}    def forward(self, x):\n{lines}\n        return self.drop(x)\n"
    found = Dropped(Source("net.py", program.encode())).doubled()
    return len(list(found))


@pytest.mark.parametrize("body", DROPPED_AGAIN)
def test_a_dropped_tensor_is_followed(body: str) -> None:
    """Through shape changes, branches, loops, methods and modules."""
    assert doubled(body) == 1


@pytest.mark.parametrize("body", LEFT_ALONE)
def test_any_other_tensor_is_left_alone(body: str) -> None:
    """What is computed anew, or dropped on some of the paths only, is another tensor."""
    assert doubled(body) == 0


def test_long_chains_end() -> None:
    """A sum of many terms, and functions that call each other without end."""
    functions = "".join(f"def f{n}(x):\n    return f{n + 1}(x)\n" for n in range(500))
    total = " + ".join(["x"] * 400)
    program = f"import torch\n{functions}def f500(x):\n    return f0({total})\n"
    assert list(Dropped(Source("net.py", program.encode())).doubled()) == []


def test_nested_loops_end() -> None:
    """Each loop runs twice, but not each of thirty inside each other."""
    loops = "".join("    " * n + f"for i{n} in x:\n" for n in range(1, 31))
    program = f"import torch\ndef f(x):\n{loops}{'    ' * 31}x = torch.dropout(x, 0.5, True)\n"
    assert list(Dropped(Source("net.py", program.encode())).doubled()) == []
