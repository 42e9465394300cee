"""The sites of an audit: which call belongs to which, and what they are called."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import ref

from torch import nn

from dropaudit.runtime.places import user_line
from dropaudit.runtime.purpose import on_purpose
from dropaudit.runtime.sitelog import SiteLog
from dropaudit.runtime.sites import Application
from dropaudit.runtime.threads import THREAD
from dropaudit.runtime.tree import Tree, held_in_plain_container


class SiteBook:
    """Finds the log of a call, or opens one."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.logs: list[SiteLog] = []
        self._by_key: dict[Hashable, SiteLog] = {}
        self._modules: dict[int, tuple[ref[nn.Module], str]] = {}

    def log(
        self, module: nn.Module | None, owner: nn.Module | None, application: Application
    ) -> SiteLog:
        """The log of a call.

        Args:
            module: the site, where it is a module of its own.
            owner: the innermost module: the site itself, or what the function was called in.
        """
        file, line = user_line()
        known = owner is not None and owner in self._tree
        token = self._token(owner, known)
        # A module is one site wherever it is called from; a function one for each line.
        place = (file, line) if module is None or owner is None else None
        key = (token, application.kind, application.function, place)
        log = self._by_key.get(key)
        if log is None:
            log = self._by_key[key] = SiteLog(
                index=len(self.logs),
                module=token,
                class_name="" if owner is None else type(owner).__name__,
                kind=application.kind,
                function=application.function,
                file=file,
                line=line,
                is_module=module is not None,
                quantum=application.quantum,
            )
            self.logs.append(log)
            log.unscaled_on_purpose = getattr(module, "scale_by_keep", True) is False
            log.always_on = any(
                on_purpose(f"{type(each).__module__}.{type(each).__qualname__}", _words(each))
                for each in (owner, *THREAD.stack[-2:])
                if each is not None
            )
            if owner is not None and isinstance(token, int):
                self._modules[token] = (ref(owner), self._tree.name(owner) or "")
            if module is not None and not known:
                log.registered = False
                holders = [each for each in THREAD.stack if each in self._tree]
                log.built_in_forward = not held_in_plain_container(module, holders)
        above = None if module is None else self._tree.owner(module)
        if module is not None and above is not None and above.training != module.training:
            log.follows, log.switched = False, True
        return log

    def holder(self, module: nn.Module | None) -> nn.Module | None:
        """The innermost module around a call that belongs to an audited model."""
        if module is not None and module in self._tree:
            return module
        return next((each for each in reversed(THREAD.stack) if each in self._tree), None)

    def name(self, log: SiteLog) -> str:
        """Path of a site's module; "?" outside the audited models, "-" outside any module."""
        if isinstance(log.module, int):
            weak, name = self._modules[log.module]
            module = weak()
            return name if module is None else (self._tree.name(module) or name)
        return "-" if log.module == "-" else "?"

    def _token(self, owner: nn.Module | None, known: bool) -> Hashable:
        if owner is None:
            return "-"
        if known:
            return self._tree.serial(owner)
        holder = self.holder(None)
        above = "?" if holder is None else self._tree.serial(holder)
        return ("?", above, type(owner).__name__)


def _words(module: nn.Module) -> str:
    """The docstring of a user's class."""
    cls = type(module)
    return "" if cls.__module__.startswith("torch.") else vars(cls).get("__doc__") or ""
