"""Who reads an attribute of a class: its family, and whoever holds an instance."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from dropaudit.static.program.code import Attribute, Call, Constant, Name, dotted, within
from dropaudit.static.program.facts import ClassFacts
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef, Resolver

# bases that read none of the attributes that a class adds
PLAIN_BASE = re.compile(
    r"^(torch\.nn\.Module|object|abc\.ABC|torch\.jit\.ScriptModule"
    r"|.*LightningModule|transformers\..*PreTrainedModel)$"
)
# holders of settings, whose attributes go by the names of layers
SETTINGS = re.compile(
    r"(^|\.)(_?\w*(args|arg|conf|config|configs|cfg|opt|opts|option|options|param|params|hparams"
    r"|hp|hps|hyper\w*|settings|flags|FLAGS|namespace|c|p))$"
)
READS_ALL = frozenset(("children", "named_children", "_modules", "__dict__", "__getattr__"))
ENTRIES = ("forward", "__call__", "training_step")


class Readers:
    """Answers about attributes of classes, over all files of a program."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def knows(self, ref: ClassRef) -> bool:
        """Whether the facts hold the class."""
        return any(one.qualified == ref.qualified for one in self._resolver.files[ref.path].classes)

    def is_read(self, ref: ClassRef, name: str) -> bool:
        """Whether other classes read `self.name` of its instances, or other files `model.name`."""
        for one in self._family(ref):
            if one != ref and _reads(self._resolver.class_facts(one), name):
                return True
        near = self._importers({one.path for one in self._family(ref)})
        return any(self._reads_of_others(path, name) for path in sorted(near - {ref.path}))

    def is_whole(self, ref: ClassRef) -> bool:
        """Whether the program shows all that runs on an instance of a class, and that it does run.

        Its bases and those of its subclasses are at hand, and one of these can be called.
        """
        family = self._family(ref)
        for one in family:
            for base in self._resolver.lineage(one):
                if isinstance(base, External) and not PLAIN_BASE.match(base.dotted):
                    return False
        facts = [self._resolver.class_facts(one) for one in family]
        if any(one.dynamic or one.reads & READS_ALL for one in facts):
            return False
        own = [ref, *self._subclasses(ref)]
        return any(
            isinstance(self._resolver.method(one, entry), FunctionRef)
            for one in own
            for entry in ENTRIES
        )

    def has_subclass(self, ref: ClassRef) -> bool:
        """Whether a class of the program builds on this one."""
        return bool(self._subclasses(ref))

    def _family(self, ref: ClassRef) -> list[ClassRef]:
        """A class, its bases, its subclasses, and the bases of these."""
        found: dict[ClassRef, None] = {}
        for one in (ref, *self._subclasses(ref)):
            every = self._resolver.lineage(one)
            found.update((each, None) for each in every if isinstance(each, ClassRef))
        return list(found)

    def _subclasses(self, ref: ClassRef) -> list[ClassRef]:
        return self._by_base.get(ref, [])

    @cached_property
    def _by_base(self) -> dict[ClassRef, list[ClassRef]]:
        found: dict[ClassRef, list[ClassRef]] = {}
        for path, facts in self._resolver.files.items():
            for cls in facts.classes:
                one = ClassRef(path, cls.qualified)
                for base in self._resolver.lineage(one):
                    if isinstance(base, ClassRef) and base != one:
                        found.setdefault(base, []).append(one)
        return found

    def _importers(self, paths: set[str]) -> set[str]:
        """The files that can get at what these define: those that import them, and from those."""
        found = set(paths)
        for _ in range(2):
            found |= {path for path, imports in self._imports.items() if imports & found}
        return found

    @cached_property
    def _imports(self) -> dict[str, set[str]]:
        """The files that each file imports something of."""
        found: dict[str, set[str]] = {}
        for path, facts in self._resolver.files.items():
            names = [*(one.dotted for one in facts.imports), *facts.stars]
            symbols = (self._resolver.imported(path, name) for name in names)
            known = (one for one in symbols if not isinstance(one, External))
            found[path] = {one.path for one in known}
        return found

    def _reads_of_others(self, path: str, name: str) -> bool:
        """Whether a file reads the attribute of something other than `self` and settings."""
        functions = self._resolver.files[path].functions
        quoted = f'"{name}"'
        return any(quoted in one.text and _names(one.body, name) for one in functions)


def _reads(facts: ClassFacts, name: str) -> bool:
    return name in facts.reads or facts.dynamic or bool(facts.reads & READS_ALL)


def _names(body: Any, name: str) -> bool:
    for node in within(body):
        match node:
            case Attribute(value=value, name=attribute) if attribute == name:
                holder = dotted(value)
                if holder != "self" and not SETTINGS.search(holder):
                    return True
            case Call(function=Name("getattr" | "hasattr")):
                if any(one.value == Constant(name) for one in node.arguments):
                    return True
    return False
