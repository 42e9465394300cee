"""What may be parsed in this process."""

from __future__ import annotations

import pytest

from dropaudit.static.calm import is_calm, measured, nests_too_deep

CALM = {
    "empty": b"",
    "code": b"def f(x):\n    return [x, (1, {2: 3})]\n" * 100,
    "a long text": b'"""' + b"((((" * 1000 + b'"""\n',
    "a long string": b"x = '" + b"(" * 5000 + b"'\n",
    "long comments": b"x = f(  # " + b"(" * 3000 + b"\n)\n",
}
WILD = {
    "brackets": b"x = " + b"(" * 201 + b")" * 201 + b"\n",
    "mixed brackets": b"x = " + b"([{" * 100 + b"}])" * 100 + b"\n",
    "a sum": b"x = " + b"a + " * 600 + b"a\n",
    "a sum over lines": b"x = (\n" + b"a +\n" * 600 + b"a)\n",
    "a sum by continuation": b"x = " + b"a + \\\n" * 600 + b"a\n",
    "signs": b"x = " + b"-" * 3000 + b"1\n",
    "many branches": b"if a: pass\n" + b"elif b: pass\n" * 300,
    "code in a formatted string": b"x = f'{" + b"(" * 3000 + b")" * 3000 + b"}'\n",
    "code in a long formatted string": b"x = f'''{" + b"(" * 3000 + b")" * 3000 + b"}'''\n",
    "brackets in strings between": b"x = " + b'(")"+' * 800 + b"1" + b")" * 800,
}


@pytest.mark.parametrize("data", CALM.values(), ids=CALM)
def test_short_statements_are_calm(data: bytes) -> None:
    """Strings and comments may be as long as they like."""
    assert is_calm(data)


@pytest.mark.parametrize("data", WILD.values(), ids=WILD)
def test_long_and_deep_statements_are_not(data: bytes) -> None:
    """Everything on which a recursive parser can overflow."""
    assert not is_calm(data)


@pytest.mark.parametrize(("depth", "deep"), [(200, False), (201, True), (1600, True)])
def test_nesting_is_counted_as_python_counts(depth: int, deep: bool) -> None:
    """200 brackets may be open at once, 201 not; those in strings do not count."""
    program = b"x = " + b"[(" * (depth // 2) + b"(" * (depth % 2) + b"1\n"
    assert nests_too_deep(program) is deep
    assert measured(program)[0] == depth
    assert not nests_too_deep(b"x = '''" + program + b"'''")
