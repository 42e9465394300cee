"""Notebooks: what is Python in them, where it stands, and that fixes keep every other byte."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropaudit.findings import Edit
from dropaudit.static.checker import check
from dropaudit.static.magics import neutralized
from dropaudit.static.notebooks import Notebook, NotebookError
from dropaudit.static.record import Options


def _code(source: str | list[str], **more: Any) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "outputs": [], "source": source, **more}


def _notebook(*cells: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5, **more}


def _bytes(*cells: dict[str, Any], **more: Any) -> bytes:
    return (json.dumps(_notebook(*cells, **more), indent=1, ensure_ascii=False) + "\n").encode()


@pytest.mark.parametrize(
    ("cell", "python"),
    [
        ("x = 1", "x = 1"),
        ("%matplotlib inline\nx = 1", "pass\nx = 1"),
        ("% matplotlib inline", "pass"),
        ("!pip install \\\n  torch \\\n  numpy\nx", "pass\n\n\nx"),
        ("!!ls", "pass"),
        ("?help", "pass"),
        ("torch.nn??", "pass"),
        ("if x:\n    %cd ..\n    !ls\ny = 1", "if x:\n    pass\n    pass\ny = 1"),
        ("x = !ls", "x = get_ipython()"),
        ("x = %time f(1)", "x = get_ipython()"),
        ("a.b, c = !ls -l", "a.b, c = get_ipython()"),
        ("await f(x)", "await f(x)"),
        ("%%time\nx = 1\n!ls", "\nx = 1\npass"),
        ("\n# note\n%%capture out\nx = 1", "\n\n\nx = 1"),
        ("%%bash\nls | grep x\n", "\n\n"),
        ("%%html\n<b>x</b>", "\n"),
        ("%%writefile net.py\nx = 1", "\n"),
        ('!ls\ns = """\n%d items\n!x\n"""', 'pass\ns = """\n%d items\n!x\n"""'),
        ("!ls\ny = (a\n  % b)", "pass\ny = (a\n  % b)"),
        ("!ls\ny = a \\\n  % b", "pass\ny = a \\\n  % b"),
        ("!ls\ns = '(' # (\n%cd x", "pass\ns = '(' # (\npass"),
        ("!ls\r\nx = 1\r\n", "pass\r\nx = 1\r\n"),
        ("cd ..\npip install torch\nls = 1", "pass\npass\nls = 1"),
        ("plt.plot(x);", "plt.plot(x);"),
        ("", ""),
        ("# only a comment", "# only a comment"),
    ],
)
def test_what_is_not_python_is_neutralized_with_the_line_count_kept(cell: str, python: str) -> None:
    """Magics, shell lines and help; never a line inside a string or an expression."""
    code = neutralized(cell)
    assert ("".join(code.lines), code.why) == (python, "")


def test_a_cell_that_is_not_python_is_said_and_the_others_are_kept() -> None:
    """The broken cell is blank; it is named with its line and column."""
    notebook = Notebook(_bytes(_code("a = 1"), _code("b = = 1\nc"), _code("d = 1")))
    assert notebook.source == b"a = 1\n\n\nd = 1\n"
    (broken,) = notebook.broken
    assert (broken.cell, broken.line, broken.why) == (2, 1, "invalid syntax")


def test_the_checker_reports_a_broken_cell_and_what_the_others_hold() -> None:
    """One DRP000 in the cell, and the finding in the cell behind it."""
    drop = "import torch\n\ndef dropout(x, p):\n    m = torch.rand_like(x) > p\n    return x * m"
    data = _bytes(_code("b = = 1"), {"cell_type": "markdown", "source": "x"}, _code(drop))
    found = check("nb.ipynb", data, Options()).findings
    assert [(str(f.where), f.code) for f in found] == [
        ("nb.ipynb:cell 1:1:5", "DRP000"),
        ("nb.ipynb:cell 2:5:12", "DRP101"),
    ]


def test_cells_that_were_pasted_with_their_indent_are_checked() -> None:
    """IPython runs them, so they are no error; lines and fixes still fit."""
    data = _bytes(_code("a"), _code("    x = 1\n    y = 2"))
    notebook = Notebook(data)
    assert notebook.source == b"a\nif 1:\n    x = 1\n    y = 2\n"
    assert [notebook.locate(n) for n in (1, 2, 3, 4)] == [(1, 1), (2, 1), (2, 1), (2, 2)]
    at = notebook.source.index(b"2")
    assert notebook.edited([Edit(at, at + 1, "3")]) == data.replace(b"y = 2", b"y = 3")


def test_lines_are_located_in_code_cells_counted_from_one() -> None:
    """Other cells do not count; `cell_ends` are the last lines of the cells."""
    notebook = Notebook(
        _bytes(_code("a\nb"), {"cell_type": "markdown", "source": "# x"}, _code(""), _code("c\n"))
    )
    assert notebook.source == b"a\nb\n\nc\n"
    assert [notebook.locate(n) for n in range(1, 6)] == [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]
    assert notebook.cell_ends == {2, 3, 4}


@pytest.mark.parametrize(
    "metadata",
    [
        {"language_info": {"name": "julia"}},
        {"kernelspec": {"language": "R", "name": "ir"}},
    ],
)
def test_notebooks_for_other_languages_have_no_cells(metadata: dict[str, Any]) -> None:
    """They are skipped in silence, as ruff does."""
    assert Notebook(_bytes(_code("x <- 1"), metadata=metadata)).source == b""


def test_cells_in_other_languages_are_blank() -> None:
    """The numbers of the other cells do not change."""
    sql = _code("SELECT 1", metadata={"vscode": {"languageId": "sql"}})
    notebook = Notebook(_bytes(sql, _code("x")))
    assert (notebook.source, notebook.locate(2), notebook.broken) == (b"\nx\n", (2, 1), ())


def test_notebooks_of_format_3_are_read() -> None:
    """Cells in worksheets, their source called `input`."""
    cell = {"cell_type": "code", "input": ["x = 1\n", "y"], "language": "python"}
    data = json.dumps({"nbformat": 3, "worksheets": [{"cells": [cell]}]}).encode()
    notebook = Notebook(data)
    assert notebook.source == b"x = 1\ny\n"
    assert notebook.edited([Edit(4, 5, "2")]) == data.replace(b"x = 1", b"x = 2")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the file is empty"),
        (b"{", "at line 1 column 2"),
        (b"[]", "it is not one JSON object"),
        (b"{} {}", "it is not one JSON object"),
        (b"{}", "it has no cells"),
        (b'{"cells": 3}', "its cells are not an array"),
        (b'{"cells": [{"cell_type": "code"}]}', "a code cell has no source"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', "a code cell has no source"),
        (b'{"cells": [], "nbformat": 2}', "nbformat 2; only 3 and 4 can be read"),
        (b'{"cells": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"cells": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_a_notebook_is_said_in_one_sentence(data: bytes, why: str) -> None:
    """What is wrong and where, without a traceback."""
    with pytest.raises(NotebookError, match=r"^is (not )?a notebook[^\n]*$") as caught:
        Notebook(data)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("source", "old", "new", "expected"),
    [
        ('["a\\n", "b"]', "b", "c", '["a\\n", "c"]'),
        ('"a\\nb # \\u00e9\\/"', "b", "c", '"a\\nc # \\u00e9\\/"'),
        ('[\n  "a\\n",\n  "b"\n]', "a\n", "", '[\n  "b"\n]'),
        ('[\n  "a\\n",\n  "b"\n]', "b", "b\nc", '[\n  "a\\n",\n  "b\\n",\n  "c"\n]'),
        ('["a\\n", "b"]', "\nb\n", "\n", '["a"]'),
        ('["a"]', "a\n", "", "[]"),
        ('["a"]', "a", "ä\t", '["ä\\t"]'),
        ('["\\u00e9=1"]', "1", "'ä'", "[\"\\u00e9='\\u00e4'\"]"),
        ('["a\\r\\n", "b"]', "b", "b\nc", '["a\\r\\n", "b\\r\\n", "c"]'),
        ('["#\\ud83d\\ude00\\n", "b"]', "b", "c", '["#\\ud83d\\ude00\\n", "c"]'),
    ],
)
def test_an_edit_changes_the_strings_of_its_lines_only(
    source: str, old: str, new: str, expected: str
) -> None:
    """Escapes, indents and separators are those of the file."""
    whole = '{"cells" : [{"cell_type":"code","source": %s}],  "x": 1e3}\n\n'
    notebook = Notebook((whole % source).encode())
    at = notebook.source.index(old.encode())
    found = notebook.edited([Edit(at, at + len(old.encode()), new)])
    assert found.decode() == whole % expected


@pytest.mark.parametrize(
    ("cells", "edit"),
    [
        (["a\n", "b"], Edit(0, 3, "")),
        (["!ls\nx"], Edit(2, 4, "")),
    ],
)
def test_edits_that_a_notebook_cannot_hold_are_refused(cells: list[str], edit: Edit) -> None:
    """Edits across cells, and of lines that are not Python."""
    with pytest.raises(ValueError, match="an edit"):
        Notebook(_bytes(*map(_code, cells))).edited([edit])


def test_edits_over_a_magic_are_refused() -> None:
    """A fix that replaces a block would delete the shell line in it."""
    with pytest.raises(ValueError, match="an edit"):
        Notebook(_bytes(_code("x\n!ls\ny"))).edited([Edit(0, 8, "z")])


def test_a_byte_order_mark_is_kept() -> None:
    """The mark is no part of the JSON."""
    data = b"\xef\xbb\xbf" + _bytes(_code("x"))
    assert Notebook(data).edited([Edit(0, 1, "y")]) == data.replace(b'"x"', b'"y"')


_TEXT = st.text(st.sampled_from('ab(): \n\r\t"\\é日😀\x1b#%!='), max_size=30)
_CELLS = st.lists(
    st.tuples(st.sampled_from(["code", "markdown"]), _TEXT, st.booleans()), max_size=5
)
_STYLE = st.tuples(st.sampled_from([None, 1, 4]), st.booleans())


def _drawn(cells: list[tuple[str, str, bool]], style: tuple[int | None, bool]) -> bytes:
    found = [
        {"cell_type": kind, "source": text.splitlines(keepends=True) if as_list else text}
        for kind, text, as_list in cells
    ]
    return json.dumps(_notebook(*found), indent=style[0], ensure_ascii=style[1]).encode()


@given(_CELLS, _STYLE)
def test_a_notebook_without_edits_is_the_same_bytes(
    cells: list[tuple[str, str, bool]], style: tuple[int | None, bool]
) -> None:
    """Whatever its cells hold; and what is joined is always Python."""
    data = _drawn(cells, style)
    notebook = Notebook(data)
    assert notebook.edited([]) == data
    ast.parse(notebook.source)
    code = [text for kind, text, _ in cells if kind == "code"]
    assert list(notebook.cells) == code


@given(_CELLS, _STYLE, st.data())
def test_an_edit_changes_its_cell_and_no_other(
    cells: list[tuple[str, str, bool]], style: tuple[int | None, bool], draw: st.DataObject
) -> None:
    """Text inserted anywhere arrives where `locate` says, and all other values stay."""
    data = _drawn(cells, style)
    notebook = Notebook(data)
    source = notebook.source.decode()
    at = draw.draw(st.integers(0, max(len(source) - 1, 0)))
    offset = len(source[:at].encode())
    try:
        after = notebook.edited([Edit(offset, offset, "é\nq")])
    except ValueError:
        return
    number = notebook.locate(notebook.source.count(b"\n", 0, offset) + 1)[0]
    before, now = json.loads(data), json.loads(after)
    changed = [
        n for n, (a, b) in enumerate(zip(before["cells"], now["cells"], strict=True)) if a != b
    ]
    assert len(changed) == 1
    old = "".join(before["cells"][changed[0]]["source"])
    new = "".join(now["cells"][changed[0]]["source"])
    assert any(new == old[:n] + f"é{end}q" + old[n:] for n in range(len(old) + 1) for end in _ENDS)
    code = [n for n, cell in enumerate(before["cells"]) if cell["cell_type"] == "code"]
    if "\r" not in source:
        assert code.index(changed[0]) == number - 1
    assert {k: v for k, v in before.items() if k != "cells"} == {
        k: v for k, v in now.items() if k != "cells"
    }


_ENDS = ("\n", "\r\n")
