"""Running a program as `python` itself would, in this process."""

from __future__ import annotations

import builtins
import os
import pkgutil
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType

INTERRUPTED = 130
_PACKAGE = str(Path(__file__).parent.parent) + os.sep


class NoSuchProgram(Exception):
    """There is nothing to run: the text is a sentence."""


def run_script(path: str, arguments: Sequence[str]) -> int:
    """Run what `python path arguments...` runs: a file, a directory or a zip file.

    Returns the exit code. What `python` prints on standard error when the program fails is
    printed. Raises `NoSuchProgram`.
    """
    if not os.path.exists(path):
        raise NoSuchProgram(f"no such file or directory: {path}")
    full = os.path.join(os.getcwd(), path)  # not normalized: as `python` has it in `__file__`
    if pkgutil.get_importer(full) is None:
        first = None if _is_path_safe() else os.path.dirname(os.path.realpath(path))
        with _as_main(first, [path, *arguments]) as main:
            return _exit_code(lambda: _run_file(main, full))
    with _as_main(full, [path, *arguments]):
        return _exit_code(lambda: _run_module("__main__", name_it=False))


def run_module(name: str, arguments: Sequence[str]) -> int:
    """Run what `python -m name arguments...` runs; otherwise as `run_script`."""
    first = None if _is_path_safe() else os.getcwd()
    with _as_main(first, ["-m", *arguments]):
        _look_for(name)
        return _exit_code(lambda: _run_module(name, name_it=True))


def _is_path_safe() -> bool:
    """Whether `python -P`, or what implies it, keeps the program's directory off the path."""
    return bool(getattr(sys.flags, "safe_path", sys.flags.isolated))


@contextmanager
def _as_main(first: str | None, argv: list[str]) -> Iterator[ModuleType]:
    """A new `__main__`, with `first` in front of the path.

    In the process of the command itself nothing is put back: what runs at its exit must find the
    program's own `__main__`. In somebody else's process everything is.
    """
    before = sys.modules["__main__"], sys.argv, list(sys.path)
    embedded = not _is_own(before[0])
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    sys.modules["__main__"], sys.argv = main, argv
    if not embedded and not _is_path_safe():
        del sys.path[0]  # where `dropaudit` was started from
    if first is not None:
        sys.path.insert(0, first)
    try:
        yield main
    finally:
        if embedded:
            sys.modules["__main__"], sys.argv, sys.path[:] = before


def _is_own(main: ModuleType) -> bool:
    """Whether the process was started as `dropaudit` or `python -m dropaudit`."""
    file = Path(getattr(main, "__file__", None) or "")
    return (file.parent if file.name == "__main__.py" else file).stem == "dropaudit"


def _run_file(main: ModuleType, path: str) -> None:
    main.__file__ = path
    main.__dict__["__cached__"] = None
    if path.endswith(".pyc"):
        main.__loader__ = SourcelessFileLoader("__main__", path)
        code = main.__loader__.get_code("__main__")
    else:
        main.__loader__ = SourceFileLoader("__main__", path)
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
    assert code is not None
    exec(code, main.__dict__)


def _run_module(name: str, *, name_it: bool) -> None:
    # What the interpreter itself calls for -m, for a directory and for a zip file.
    runpy._run_module_as_main(name, name_it)  # type: ignore[attr-defined]


def _look_for(name: str) -> None:
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            return  # the module exists and something that it needs does not: it will say so
        spec = None
    except Exception:  # a package that fails when it is imported will do so again, visibly
        return
    if spec is None:
        raise NoSuchProgram(f"no module named {name} that could be run")


def _exit_code(run: object) -> int:
    """The exit code of what `run()` runs, after printing what the interpreter prints."""
    assert callable(run)
    try:
        run()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException as error:
        error.__traceback__ = _own_frames(error.__traceback__)
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except Exception:
            traceback.print_exception(error)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _own_frames(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the program's first frame on."""
    while tb is not None and tb.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        tb = tb.tb_next
    return tb
