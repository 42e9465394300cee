"""Sites that their authors declare: functions and kernels that drop, by decorator or by option."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar, overload

from torch import nn

from dropaudit.runtime.interception import INTERCEPTION
from dropaudit.runtime.sites import application_by_name, argument, first_tensor

C = TypeVar("C", bound=Callable[..., Any])
_MARK = "__dropaudit_site__"


@dataclass(frozen=True)
class Declaration:
    """One of `audit`'s `sites`: a class of modules, a pattern of module paths, or a function."""

    cls: type[nn.Module] | None = None
    pattern: str | None = None
    function: Callable[..., Any] | None = None

    @classmethod
    def of(cls, value: Any) -> Declaration:
        """Raises `TypeError` for anything that is none of the three."""
        if isinstance(value, type):
            if issubclass(value, nn.Module):
                return cls(cls=value)
        elif isinstance(value, str):
            return cls(pattern=value)
        elif callable(value):
            return cls(function=value)
        raise TypeError(
            "sites takes Module classes, patterns of module paths and functions, "
            f"and was given {value!r}"
        )

    def names(self, module: nn.Module, path: str | None) -> bool:
        """Whether it declares this module."""
        if self.cls is not None:
            return isinstance(module, self.cls)
        return self.pattern is not None and path is not None and fnmatchcase(path, self.pattern)


@overload
def site(function: C, /) -> C: ...
@overload
def site(*, p: str | None = "p", training: str | None = "training") -> Callable[[C], C]: ...
def site(function: Any = None, /, *, p: str | None = "p", training: str | None = "training") -> Any:
    """Declare a function, or a kernel's wrapper, a dropout site. Without an audit it does nothing.

    Args:
        p: name of the parameter that holds the drop probability; None if there is none.
        training: name of the parameter that holds the mode; None if there is none.

    Its first floating tensor argument is the input, its (first) result the output.

    >>> import torch
    >>> @site(p="rate")
    ... def fused_dropout(x, rate=0.1, training=True):
    ...     return torch.nn.functional.dropout(x, rate, training)
    >>> fused_dropout(torch.ones(2), 0.0).tolist()
    [1.0, 1.0]
    """
    if function is None:
        return lambda actual: site(actual, p=p, training=training)  # type: ignore[call-overload]
    if not callable(function):
        raise TypeError(f"site() decorates functions, and was given {function!r}")
    return _watched(function, p, training)


def _watched(function: Any, p: str | None = "p", training: str | None = "training") -> Any:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if not INTERCEPTION.recorders:
            return function(*args, **kwargs)
        x = first_tensor(args)
        x = first_tensor(kwargs) if x is None else x
        if x is None:
            return function(*args, **kwargs)
        rate = argument(function, args, kwargs, p)
        on = argument(function, args, kwargs, training)
        number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        application = application_by_name(
            getattr(function, "__name__", type(function).__name__),
            float(rate) if number else None,
            None if on is None else bool(on),
            x,
        )
        return INTERCEPTION.declared(function, application, x, lambda: function(*args, **kwargs))

    setattr(watched, _MARK, True)
    return watched


class DeclaredSites:
    """Puts watched functions in the place of declared ones, wherever a module names them."""

    def __init__(self, declarations: tuple[Declaration, ...]) -> None:
        self._functions = [d.function for d in declarations if d.function is not None]
        self._replaced: list[tuple[dict[str, Any], str, Any, Any]] = []

    def install(self) -> None:
        """Replace them."""
        wanted = {id(f): f for f in self._functions if not getattr(f, _MARK, False)}
        if not wanted:
            return
        watched = {key: _watched(function) for key, function in wanted.items()}
        for module in list(sys.modules.values()):
            space = getattr(module, "__dict__", None)
            if not isinstance(space, dict):
                continue
            for name, value in list(space.items()):
                if id(value) in wanted and value is wanted[id(value)]:
                    space[name] = watched[id(value)]
                    self._replaced.append((space, name, value, space[name]))

    def uninstall(self) -> None:
        """Put the originals back, where nobody has put something else since."""
        for space, name, before, ours in self._replaced:
            if space.get(name) is ours:
                space[name] = before
        self._replaced.clear()
