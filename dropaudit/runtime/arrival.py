"""Something to do as soon as a package is imported, whoever imports it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


def when_imported(package: str, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` once, when the top-level `package` has been imported; now if it has been already.

    Importing torch before a program does would not be nothing: libraries read environment
    variables, such as `OMP_NUM_THREADS`, when they are loaded, and a program may set them first.

    Returns what calls the wait off; it may be called at any time.

    >>> when_imported("sys", lambda: print("here"))()
    here
    """
    if package in sys.modules:
        act()
        return lambda: None
    waiting = _Waiting(package, act)
    sys.meta_path.insert(0, waiting)
    return waiting.leave


class _Waiting:
    """A finder that finds nothing itself and sees every import."""

    def __init__(self, package: str, act: Callable[[], None]) -> None:
        self.package = package
        self.act: Callable[[], None] | None = act

    def leave(self) -> None:
        self.act = None
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.package or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)  # else the next line would come back here
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                del loader.exec_module  # the method of its class is back
                execute(module)
                act = self.act
                self.leave()
                if act is not None:
                    act()

            loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
