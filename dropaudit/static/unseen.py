"""The facts of a file, or why the checks across files cannot see it.

Python's own parser reads them, so a file that is written for a newer Python has none. Statements
that nest too deeply to be followed are left out of the facts; the rest of the file has its own.
"""

from __future__ import annotations

import ast
import sys
import warnings
from dataclasses import dataclass
from types import FrameType

from dropaudit.findings import Finding, Location, Severity
from dropaudit.static.program.facts import FileFacts
from dropaudit.static.program.reading import read_facts

_DEPTH = 3_000  # frames: the same wherever a file is read, so that its facts are the same
_MOST_NESTED = 200
_HELP = "Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`."


@dataclass(frozen=True)
class Unseen:
    """Why Python's parser gave nothing: an error of syntax at a place, or a shape."""

    why: str
    line: int = 1
    column: int = 1
    is_syntax: bool = False

    def finding(self, path: str, data: bytes, parsed: bool) -> Finding:
        """What is reported of the file; `parsed` says that libcst could parse it."""
        why = f"was not seen by the rules across files: {self.why}"
        if self.is_syntax:
            if parsed or _is_newer(data):
                version = ".".join(map(str, sys.version_info[:2]))
                why = (
                    f"was not seen by the rules across files: Python {version} cannot parse it "
                    f"({self.why}); run dropaudit with the Python that it is written for"
                )
            else:
                why = f"cannot be parsed: {self.why}"
        where = Location(path, self.line, self.column, self.line, self.column + 1)
        return Finding("DRP000", "unchecked", Severity.ERROR, where, why, _HELP)


def facts_of(data: bytes) -> tuple[FileFacts | None, Unseen | None]:
    """The facts in a Python source, whatever its bytes are.

    >>> facts_of(b"import torch\\nif\\n")
    (None, Unseen(why='invalid syntax', line=2, column=3, is_syntax=True))
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(_height() + _DEPTH)
    try:
        return _read(data), None
    except SyntaxError as error:
        line, column = max(error.lineno or 1, 1), max(error.offset or 1, 1)
        why = " ".join(str(error.msg).split())
        return None, Unseen(why, line, column, is_syntax=True)
    except ValueError as error:  # an encoding that is none, a NUL
        return None, Unseen(f"it cannot be decoded: {' '.join(str(error).split())}")
    except (RecursionError, MemoryError):
        return None, Unseen("a statement in it is too long or too deep")
    finally:
        sys.setrecursionlimit(limit)


def _read(data: bytes) -> FileFacts:
    try:
        return read_facts(data)
    except RecursionError:
        return read_facts(_without_deep(data))


def _without_deep(data: bytes) -> bytes:
    """The source with blank lines in place of the outermost statements that nest too deeply."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(data)
    lines = data.splitlines(keepends=True)
    for statement in tree.body:
        if _deeper(statement, _MOST_NESTED):
            first = min((node.lineno for node in _decorators(statement)), default=statement.lineno)
            last = statement.end_lineno or first
            for at in range(first - 1, min(last, len(lines))):
                lines[at] = lines[at][len(lines[at].rstrip(b"\r\n")) :]
    return b"".join(lines)


def _decorators(statement: ast.stmt) -> list[ast.expr]:
    return getattr(statement, "decorator_list", [])


def _deeper(statement: ast.stmt, most: int) -> bool:
    stack: list[tuple[ast.AST, int]] = [(statement, 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, ast.BoolOp):
            depth += len(node.values)  # `a and b and c` is read from the right
        if depth > most:
            return True
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))
    return False


def _is_newer(data: bytes) -> bool:
    """Whether libcst, which knows every Python, parses what this one cannot."""
    import libcst as cst

    try:
        cst.parse_module(data)
    except (cst.ParserSyntaxError, UnicodeError, LookupError, SyntaxError, RecursionError):
        return False
    return True


def _height() -> int:
    frame: FrameType | None = sys._getframe()
    height = 0
    while frame is not None:
        height, frame = height + 1, frame.f_back
    return height
