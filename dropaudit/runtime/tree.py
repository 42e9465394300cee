"""The names of modules: which path leads to each, from the models that are audited."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from weakref import WeakKeyDictionary, WeakSet, ref

from torch import nn


class Tree:
    """The modules of the audited models. Without models, of whatever is called outermost."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        self._names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._owners: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()
        self._serials: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        self._strangers: WeakSet[nn.Module] = WeakSet()
        self._numbers = count()
        self._roots: list[ref[nn.Module]] = []
        self.open = True
        for model in models:
            self.add(model)
            self.open = False

    def add(self, root: nn.Module) -> None:
        """Name `root` and all below it."""
        prefix = "" if not self._roots else f"{type(root).__name__}"
        known = [each() for each in self._roots]
        if root not in known:
            self._roots.append(ref(root))
        self._name(root, prefix)

    def adopt(self, replica: nn.Module) -> bool:
        """Take the modules of a DataParallel replica for those that they are copies of."""
        if not getattr(replica, "_is_replica", False):
            return False
        for root in self.roots():
            own = {type(m): m for m in reversed(list(root.modules()))}
            original = own.get(type(replica))
            if original is None:
                continue
            copies = dict(replica.named_modules())
            for name, module in original.named_modules():
                if name in copies and module in self._names:
                    self._names[copies[name]] = self._names[module]
                    self._serials[copies[name]] = self.serial(module)
                    if module in self._owners:
                        self._owners[copies[name]] = self._owners[module]
            return replica in self._names
        return False

    def roots(self) -> list[nn.Module]:
        """The models that are still alive."""
        return [root for each in self._roots if (root := each()) is not None]

    def __contains__(self, module: nn.Module) -> bool:
        if module in self._names:
            return True
        if module in self._strangers:
            return False
        self._refresh()
        if module in self._names:
            return True
        self._strangers.add(module)
        return False

    def name(self, module: nn.Module) -> str | None:
        """The path of a module that is known."""
        return self._names.get(module)

    def owner(self, module: nn.Module) -> nn.Module | None:
        """The module that holds a known module as its child."""
        holder = self._owners.get(module)
        return None if holder is None else holder()

    def serial(self, module: nn.Module) -> int:
        """A number for this very object: unlike its id, it is never given twice."""
        number = self._serials.get(module)
        if number is None:
            number = self._serials[module] = next(self._numbers)
        return number

    def _refresh(self) -> None:
        """Modules may have been added since."""
        for number, root in enumerate(self.roots()):
            self._name(root, "" if number == 0 else type(root).__name__)

    def _name(self, root: nn.Module, prefix: str) -> None:
        for name, module in root.named_modules(prefix=prefix):
            self._names.setdefault(module, name)
            if module is root and prefix == "" and self._names[module] != "":
                self._names[module] = name
            for child in module.children():
                if child not in self._owners:
                    self._owners[child] = ref(module)


def held_in_plain_container(module: nn.Module, holders: Iterable[nn.Module]) -> bool:
    """Whether some attribute of the holders is a plain list, tuple, dict or set that holds it."""
    return any(
        _holds(value, module, 3) for holder in holders for value in list(vars(holder).values())
    )


def _holds(value: object, module: nn.Module, depth: int) -> bool:
    if value is module:
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        return any(_holds(item, module, depth - 1) for item in list(value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(_holds(item, module, depth - 1) for item in list(value)[:256])
    if isinstance(value, nn.Module):
        return any(child is module for child in value.modules())
    return False
