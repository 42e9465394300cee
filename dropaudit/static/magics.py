"""IPython's own syntax, taken out of the code of a notebook cell; lines keep their numbers."""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass

# Cell magics that run the cell as Python in this or another interpreter.
_PYTHON_MAGICS = re.compile(r"capture|debug|ipytest|mem\w+|prun|pypy|python3?|time|timeit")
_NEWLINE = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
_CELL_MAGIC = re.compile(r"(?:[ \t]*(?:#[^\r\n]*)?(?:\r\n?|\n))*%%([\w.]*)")
_ESCAPE = re.compile(r"[ \t]*[%!?/,;]")
_HELP = re.compile(r"[ \t]*%{0,2}(?!\d)[\w*]+(?:\.(?!\d)[\w*]+|\[[0-9]+\])*\?{1,2}[ \t]*(?:#.*)?$")
_AUTOMAGIC = re.compile(  # commands that IPython takes without a mark
    r"[ \t]*(?:cd|ls|ll|pwd|mkdir|rmdir|rm|cp|mv|cat|less|man|pip|conda|mamba|run|load_ext"
    r"|matplotlib|env|who|whos)(?:[ \t]+(?![=(\[,:+*%&|^<>]|(?:in|is|if|and|or|not)\b)\S.*)?$"
)
_ASSIGNED = re.compile(r"([ \t]*[^\s=#'\"!%][^=#'\"!%]*=[ \t]*)[!%](?!=)")
_TOKEN = re.compile(
    r"#.*|[rRbBuUfFtT]{0,2}(?P<quote>\"\"\"|'''|\"|')|(?P<open>[(\[{])|(?P<close>[)\]}])|\\."
)
_REST = {q: re.compile(r"(?:\\.|[^\\])*?" + q, re.DOTALL) for q in ('"""', "'''", '"', "'")}


@dataclass(frozen=True)
class Code:
    """The lines of a cell as Python; `indented` when all of it stands one level in, as pasted.

    `why`, at `line` and `column`, says what is wrong when it is not Python after all.
    """

    lines: tuple[str, ...]
    indented: bool = False
    why: str = ""
    line: int = 1
    column: int = 1


def split_lines(text: str) -> list[str]:
    r"""The lines with their ends; at least one.

    >>> split_lines("a\r\nb")
    ['a\r\n', 'b']
    """
    lines = _NEWLINE.split(text)
    return lines[:-1] if len(lines) > 1 and lines[-1] == "" else lines


def neutralized(text: str) -> Code:
    r"""`text` without magics, shell lines and help, each replaced by a statement that does nothing.

    >>> neutralized("%matplotlib inline\nfiles = !ls\nx = 1\n").lines
    ('pass\n', 'files = get_ipython()\n', 'x = 1\n')
    """
    lines = split_lines(text)
    magic = _CELL_MAGIC.match(text)
    if magic is None and _problem(text) is None:
        return Code(tuple(lines))
    if magic is not None:
        if not _PYTHON_MAGICS.fullmatch(magic[1]):
            return Code(tuple(map(_blank, lines)))
        first = len(split_lines(text[: magic.start(1)])) - 1
        lines[: first + 1] = map(_blank, lines[: first + 1])
    lines = _without_magics(lines)
    problem = _problem("".join(lines))
    if problem is None:
        return Code(tuple(lines))
    if _problem("if 1:\n" + "".join(lines)) is None:
        return Code(tuple(lines), indented=True)
    if _newer_python("".join(lines)):
        return Code(tuple(lines))
    return Code(tuple(map(_blank, lines)), False, *problem)


def _without_magics(lines: list[str]) -> list[str]:
    """Lines that start a statement and are not Python, replaced; those inside one, kept."""
    kept: list[str] = []
    state = _Lexer()
    in_magic = False
    for line in lines:
        body = line.rstrip("\r\n")
        end = line[len(body) :]
        continues = body.endswith("\\")
        if in_magic:
            kept.append(end)
            in_magic = continues
        elif state.inside:
            kept.append(line)
            state.read(body)
        elif _ESCAPE.match(line) or _HELP.match(body) or _AUTOMAGIC.match(body):
            indent = body[: len(body) - len(body.lstrip())]
            kept.append(f"{indent}pass{end}")
            in_magic = continues and not _HELP.match(body)
        elif match := _ASSIGNED.match(body):
            kept.append(f"{match[1]}get_ipython(){end}")
            in_magic = continues
        else:
            kept.append(line)
            state.read(body)
    return kept


class _Lexer:
    """Whether the end of a line is inside brackets, a string or a continued line."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._continued = False

    @property
    def inside(self) -> bool:
        return bool(self._depth or self._quote or self._continued)

    def read(self, body: str) -> None:
        at = 0
        self._continued = False
        while at < len(body):
            if self._quote:
                end = _REST[self._quote].match(body, at)
                if end is None:
                    break
                at, self._quote = end.end(), ""
                continue
            token = _TOKEN.search(body, at)
            if token is None:
                break
            at = token.end()
            self._quote = token["quote"] or ""
            self._depth += 1 if token["open"] else -1 if token["close"] and self._depth else 0
            if token[0].startswith("#"):
                return
        if len(self._quote) == 1 and not body.endswith("\\"):
            self._quote = ""  # not closed: the line is wrong, the next one may be right
        self._continued = body.endswith("\\") and not self._quote


def _problem(text: str) -> tuple[str, int, int] | None:
    """Why Python cannot parse `text`, and where; None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except SyntaxError as error:
            why = " ".join(str(error.msg).split())
            return why, max(error.lineno or 1, 1), max(error.offset or 1, 1)
        except (ValueError, RecursionError, MemoryError) as error:
            return str(error) or type(error).__name__, 1, 1
    return None


def _newer_python(text: str) -> bool:
    """Whether libcst, which knows versions that this interpreter may not, can parse `text`."""
    from dropaudit.static.calm import is_calm

    if not is_calm(text.encode("utf-8", "replace")):  # its parser would recurse without bounds
        return False
    import libcst as cst

    try:
        cst.parse_module(text)
    except (cst.ParserSyntaxError, ValueError, RecursionError):
        return False
    return True


def _blank(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]
