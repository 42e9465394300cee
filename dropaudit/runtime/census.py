"""Modules whose descendants are in another mode than they are themselves."""

from __future__ import annotations

from dataclasses import replace
from types import FunctionType

from torch import nn

from dropaudit.runtime.places import location
from dropaudit.runtime.sites import is_torch_dropout, looks_like_dropout, rate
from dropaudit.runtime.trace import Divided
from dropaudit.runtime.tree import Tree

_PINS = {"eval", "train", "children", "modules", "apply", "named_children", "_modules"}


class Census:
    """Looks at every module's mode when a model is called, whenever one has changed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._seen: dict[int, tuple[tuple[bool, ...], list[tuple[str, bool]]]] = {}
        self._records: dict[tuple[str, bool], Divided] = {}

    def enter(self, root: nn.Module, where: tuple[str, int]) -> None:
        """An outermost call begins."""
        modules = list(root.modules())
        flags = tuple(module.training for module in modules)
        serial = self._tree.serial(root)
        known = self._seen.get(serial)
        if known is not None and known[0] == flags:
            for key in known[1]:
                again = self._records[key]
                self._records[key] = replace(again, calls=again.calls + 1)
            return
        keys = []
        if True in flags and False in flags:
            for module in modules:
                record = self._divided(module, where)
                if record is not None:
                    key = (record.module, record.training)
                    keys.append(key)
                    old = self._records.get(key)
                    self._records[key] = (
                        record if old is None else replace(old, calls=old.calls + 1)
                    )
                    break  # what stands below it follows from it
        self._seen[serial] = (flags, keys)

    def records(self) -> tuple[Divided, ...]:
        """What was seen."""
        return tuple(self._records.values())

    def _divided(self, module: nn.Module, where: tuple[str, int]) -> Divided | None:
        below = list(module.modules())[1:]
        apart = [each for each in below if each.training != module.training]
        dropouts = [each for each in apart if _drops(each)]
        if not dropouts:
            return None
        override, function = _override(type(module))
        if len(apart) < len(below):
            # Part of the model in training mode below an evaluating one. Dropout alone, or a norm:
            # Monte-Carlo dropout, statistics. A whole subtree: only an override forgets that.
            forgotten = not module.training and override and any(any(m.children()) for m in apart)
            if not forgotten:
                return None
        elif module.training and (
            not override or function is None or _PINS & set(function.__code__.co_names)
        ):
            return None  # a frozen part, put into eval mode on purpose
        elif all(_drops(each) for each in below):
            return None  # nothing but dropout below: it was switched by itself
        return Divided(
            module=self._tree.name(module) or "",
            class_name=type(module).__name__,
            where=location(*where, module=self._tree.name(module) or ""),
            training=module.training,
            override=override,
            descendants=len(below),
            differing=len(apart),
            dropouts=len(dropouts),
            example=self._tree.name(dropouts[0]) or type(dropouts[0]).__name__,
        )


def _drops(module: nn.Module) -> bool:
    return (is_torch_dropout(module) or looks_like_dropout(module)) and bool(rate(module))


def _override(cls: type[nn.Module]) -> tuple[str, FunctionType | None]:
    """Which of `train` and `eval` a class overrides, and with what."""
    for base in cls.__mro__:
        if base.__module__.startswith("torch."):
            return "", None
        for name in ("train", "eval"):
            own = vars(base).get(name)
            if own is not None:
                return name, own if isinstance(own, FunctionType) else None
    return "", None
