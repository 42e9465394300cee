"""Who reads an attribute of a class: its family, and whoever holds an instance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from dropaudit.static.program.code import (
    Attribute,
    Call,
    Constant,
    Expression,
    Name,
    dotted,
    within,
)
from dropaudit.static.program.facts import ClassFacts, FunctionFacts
from dropaudit.static.program.resolve import ClassRef, External, FunctionRef, Resolver, Symbol

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
        family = frozenset(self._family(ref))
        near = self._importers({one.path for one in family})
        parts = {held.name for held in self._resolver.class_facts(ref).held} - {name}
        own_forward = "forward" in self._resolver.class_facts(ref).methods
        return any(
            self._reads_of_others(path, name, family, parts if own_forward else set())
            for path in sorted(near - {ref.path})
        )

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

    def _reads_of_others(
        self, path: str, name: str, family: frozenset[ClassRef], parts: set[str]
    ) -> bool:
        """Whether a file reads the attribute of something other than `self` and settings.

        What a class is seen to build is no instance of `family` if it is something else. Who runs
        several of the `parts` of a module by hand, in place of its forward, does not mend that.
        """
        quoted = f'"{name}"'
        for function in self._resolver.files[path].functions:
            if quoted in function.text:
                holders = set(_holders(function.body, name))
                holders -= {one for one in holders if _runs_parts(function.body, one, parts)}
                if any(self._may_be(path, function, one, family) for one in holders):
                    return True
        return False

    def _may_be(
        self, path: str, function: FunctionFacts, holder: str, family: frozenset[ClassRef]
    ) -> bool:
        """Whether `holder`, as written in a function, may be an instance of `family`."""
        if not holder.startswith("self.") or holder.count(".") > 1 or not function.is_method:
            return True
        owner = ClassRef(path, function.qualified.rpartition(".")[0])
        if not self.knows(owner):
            return True
        built = [
            self._built(one.path, held.value)
            for one in self._resolver.lineage(owner)
            if isinstance(one, ClassRef)
            for held in self._resolver.class_facts(one).held
            if held.name == holder.removeprefix("self.")
        ]
        return not built or any(one is None or one in family for one in built)

    def _built(self, path: str, value: Expression) -> Symbol | None:
        """The class whose instance a value is, where it plainly is one."""
        if not isinstance(value, Call):
            return None
        symbol = self._resolver.resolve(path, dotted(value.function))
        if isinstance(symbol, External):
            return symbol if symbol.dotted.startswith("torch.nn.") else None
        return symbol if isinstance(symbol, ClassRef) else None


def _reads(facts: ClassFacts, name: str) -> bool:
    return name in facts.reads or facts.dynamic or bool(facts.reads & READS_ALL)


def _runs_parts(body: Any, holder: str, parts: set[str]) -> bool:
    """Whether code calls at least two other parts of what it reads an attribute of."""
    called = {
        node.function.name
        for node in within(body)
        if isinstance(node, Call)
        and isinstance(node.function, Attribute)
        and dotted(node.function.value) == holder
    }
    return holder != "?" and len(called & parts) > 1


def _holders(body: Any, name: str) -> Iterator[str]:
    """What an attribute is read of; a question mark where that cannot be written as a name."""
    for node in within(body):
        match node:
            case Attribute(value=value, name=attribute) if attribute == name:
                holder = dotted(value)
                if holder != "self" and not SETTINGS.search(holder):
                    yield holder or "?"
            case Call(function=Name("getattr" | "hasattr")):
                if any(one.value == Constant(name) for one in node.arguments):
                    yield "?"
