"""Which thing a dotted name stands for, through imports, re-exports and star imports.

A module is found as Python would find it that runs in the folder of the importing file, in one
above it, or in a `src` folder of one of these; nothing is imported and no `sys.path` is read.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dropaudit.static.lineages import canonical
from dropaudit.static.program.facts import ClassFacts, FileFacts, FunctionFacts

_DEPTH = 12  # re-exports of re-exports
_SOURCE_FOLDERS = frozenset(("src", "lib", "source", "python", "code"))


@dataclass(frozen=True, slots=True)
class ClassRef:
    """A class of the project."""

    path: str
    qualified: str


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """A function or method of the project; an empty name is the code of the module."""

    path: str
    qualified: str


@dataclass(frozen=True, slots=True)
class ModuleRef:
    """A file of the project as a module."""

    path: str


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A variable of a module of the project."""

    path: str
    name: str


@dataclass(frozen=True, slots=True)
class External:
    """Something that is not in the project, by its dotted name."""

    dotted: str


Symbol: TypeAlias = ClassRef | FunctionRef | ModuleRef | GlobalRef | External


class Resolver:
    """Resolves names over the facts of all files."""

    def __init__(self, files: Mapping[str, FileFacts]) -> None:
        self.files = files
        self._modules: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        self._names: dict[str, dict[str, Symbol | str]] = {}
        self._known: dict[tuple[str, str], Symbol | None] = {}
        self._nearest: dict[tuple[str, str], str | None] = {}
        self._classes: dict[str, dict[str, ClassFacts]] = {}
        self._functions: dict[str, dict[str, FunctionFacts]] = {}
        self._lineages: dict[ClassRef, tuple[ClassRef | External, ...]] = {}
        for path in sorted(files):
            for root, dotted in _names_of(path):
                self._modules[dotted].append((root, path))

    # -- records ---------------------------------------------------------------------------

    def class_facts(self, ref: ClassRef) -> ClassFacts:
        """The facts of a class that was resolved."""
        if ref.path not in self._classes:
            found = self.files[ref.path].classes
            self._classes[ref.path] = {one.qualified: one for one in found}
        return self._classes[ref.path][ref.qualified]

    def function_facts(self, ref: FunctionRef) -> FunctionFacts:
        """The facts of a function that was resolved."""
        return self.functions(ref.path)[ref.qualified]

    def functions(self, path: str) -> Mapping[str, FunctionFacts]:
        """The functions of a file by qualified name; of two with one name the last."""
        if path not in self._functions:
            found = self.files[path].functions
            self._functions[path] = {one.qualified: one for one in found}
        return self._functions[path]

    # -- names -----------------------------------------------------------------------------

    def resolve(self, path: str, dotted: str) -> Symbol | None:
        """What `dotted`, as written in the file at `path`, stands for; None if nobody says.

        Names that the file does not bind (builtins, for one) are external.
        """
        key = path, dotted
        if key not in self._known:
            self._known[key] = None  # a name that needs itself is nothing
            self._known[key] = self._resolve(path, dotted, 0)
        return self._known[key]

    def imports(self, path: str, name: str) -> bool:
        """Whether a module imports what it calls `name`."""
        return isinstance(self._table(path).get(name), str)

    def imported(self, path: str, dotted: str) -> Symbol:
        """What an import of `dotted` (with leading dots where it is relative) gives in a file."""
        return self._imported(path, dotted, 0) or External(canonical(dotted.lstrip(".")))

    def member(self, symbol: Symbol, name: str) -> Symbol | None:
        """`symbol.name`: of a module, a class or something external."""
        return self._member(symbol, name, 0)

    def method(self, ref: ClassRef, name: str) -> FunctionRef | External | None:
        """The method `name` of a class: its own or that of a base."""
        for one in self.lineage(ref):
            if isinstance(one, External):
                continue
            if name in self.class_facts(one).methods:
                return FunctionRef(one.path, f"{one.qualified}.{name}")
        return None

    def lineage(self, ref: ClassRef) -> tuple[ClassRef | External, ...]:
        """A class and its bases, nearest first; bases outside the project as `External`."""
        if ref not in self._lineages:
            self._lineages[ref] = (ref,)  # a cycle of bases ends here
            found: dict[ClassRef | External, None] = {ref: None}
            for base in self.class_facts(ref).bases:
                one = self.resolve(ref.path, base) if base else None
                if isinstance(one, ClassRef) and one != ref:
                    found.update(dict.fromkeys(self.lineage(one)))
                elif isinstance(one, External):
                    found[one] = None
                else:
                    found[External(f"?{base}")] = None
            self._lineages[ref] = tuple(found)
        return self._lineages[ref]

    def subclasses(self, ref: ClassRef) -> Iterator[ClassRef]:
        """The classes of the project that build on `ref`, by path and name."""
        for path, facts in self.files.items():
            for one in facts.classes:
                other = ClassRef(path, one.qualified)
                if other != ref and ref in self.lineage(other):
                    yield other

    # -- how -------------------------------------------------------------------------------

    def _resolve(self, path: str, dotted: str, depth: int) -> Symbol | None:
        head, *rest = dotted.split(".")
        symbol: Symbol | None = self._global(path, head, depth)
        if symbol is None:
            symbol = External(canonical(dotted)) if not rest else External(head)
        start = symbol
        for name in rest:
            if symbol is None:
                break
            symbol = self._member(symbol, name, depth)
        if rest and (symbol is None or isinstance(start, External)):
            imported = self._table(path).get(head)
            if isinstance(imported, str):  # `import a.b.c`, where `a` has no `__init__.py`
                whole = ".".join((imported, *rest))
                return self._imported(path, whole, depth + 1) or symbol
        return symbol

    def _global(self, path: str, name: str, depth: int) -> Symbol | None:
        """A name of the module at `path`."""
        if depth > _DEPTH:
            return None
        table = self._table(path)
        found = table.get(name)
        if isinstance(found, str):
            symbol = self._imported(path, found, depth + 1)
            return symbol or External(canonical(found.lstrip(".")))
        if found is not None:
            return found
        for star in self.files[path].stars:
            module = self._imported(path, star, depth + 1)
            if isinstance(module, ModuleRef):
                exports = self.files[module.path].exports
                if exports is None and name.startswith("_"):
                    continue
                if exports is not None and name not in exports:
                    continue
                symbol = self._global(module.path, name, depth + 1)
                if symbol is not None:
                    return symbol
            elif star in ("torch.nn", "torch.nn.functional") and name[:1].isupper():
                return External(f"{star}.{name}")
        return None

    def _table(self, path: str) -> dict[str, Symbol | str]:
        """The names of a module: symbols, or for imports what is imported."""
        if path not in self._names:
            facts = self.files[path]
            table: dict[str, Symbol | str] = {}
            for one in facts.imports:
                # of two (`try: import fast` / `except: fast = None`) the first is the intention
                table.setdefault(one.name, one.dotted)
            module = self.functions(path).get("")
            if module is not None:
                table.update((n, GlobalRef(path, n)) for n in module.assigned if n not in table)
            for function in facts.functions:
                if function.qualified and "." not in function.qualified:
                    table[function.qualified] = FunctionRef(path, function.qualified)
            for cls in facts.classes:
                if "." not in cls.qualified:
                    table[cls.qualified] = ClassRef(path, cls.qualified)
            self._names[path] = table
        return self._names[path]

    def _imported(self, path: str, dotted: str, depth: int) -> Symbol | None:
        """What `dotted` of an import statement stands for, if it is in the project."""
        if depth > _DEPTH:
            return None
        rest = dotted.lstrip(".")
        parts = rest.split(".") if rest else []
        for count in range(len(parts), -1, -1):
            name = ".".join(parts[:count])
            module = self._module(path, dotted[: len(dotted) - len(rest)], name)
            if module is None:
                continue
            # a name that a package defines hides its module of the same name
            if count == len(parts) and count:
                above = self._module(path, dotted[: len(dotted) - len(rest)], ".".join(parts[:-1]))
                if above is not None and above != path:
                    own = self._table(above).get(parts[-1])
                    if isinstance(own, str):  # `from .name import name`
                        own = self._imported(above, own, depth + 1)
                    if isinstance(own, (ClassRef, FunctionRef)):
                        return own
                return ModuleRef(module)
            symbol: Symbol | None = ModuleRef(module)
            for one in parts[count:]:
                if symbol is not None:
                    symbol = self._member(symbol, one, depth + 1)
            return symbol
        return None

    def _member(self, symbol: Symbol, name: str, depth: int) -> Symbol | None:
        match symbol:
            case External(dotted):
                return External(canonical(f"{dotted}.{name}"))
            case ModuleRef(path):
                found = self._global(path, name, depth)
                if found is None and posixpath.basename(path) == "__init__.py":
                    below = self._module(path, ".", name)
                    return None if below is None else ModuleRef(below)
                return found
            case ClassRef(path, qualified):
                inner = f"{qualified}.{name}"
                if any(one.qualified == inner for one in self.files[path].classes):
                    return ClassRef(path, inner)
                return self.method(symbol, name)
        return None

    def _module(self, path: str, dots: str, name: str) -> str | None:
        """The file of a module: `dots` are the leading dots of a relative import."""
        folder = posixpath.dirname(path)
        if dots:
            for _ in range(len(dots) - 1):
                folder = posixpath.dirname(folder) if folder else ".."
            stem = posixpath.join(folder, *name.split(".")) if name else folder
            for candidate in (f"{stem}.py", posixpath.join(stem, "__init__.py")):
                if candidate in self.files:
                    return candidate
            return None
        if not name or name == "torch" or name.startswith("torch."):
            return None
        key = folder, name
        if key not in self._nearest:
            self._nearest[key] = self._absolute(folder, name)
        return self._nearest[key]

    def _absolute(self, folder: str, name: str) -> str | None:
        above = list(_above(folder))
        best: tuple[int, str] | None = None
        for root, path in self._modules.get(name, ()):
            if root in above:
                rank = above.index(root)
            elif posixpath.basename(root) in _SOURCE_FOLDERS and posixpath.dirname(root) in above:
                rank = above.index(posixpath.dirname(root))
            else:
                continue
            if best is None or (rank, path) < best:
                best = rank, path
        return None if best is None else best[1]


def _names_of(path: str) -> Iterator[tuple[str, str]]:
    """The folders that a file can be imported from, each with its dotted name from there.

    >>> list(_names_of("src/net/head.py"))
    [('src/net', 'head'), ('src', 'net.head'), ('', 'src.net.head')]
    """
    if not path.endswith((".py", ".pyi")):
        return
    folder, file = posixpath.split(path)
    stem = file.rpartition(".")[0]
    dotted = "" if stem == "__init__" else stem
    while True:
        if dotted:
            yield folder, dotted
        above, name = posixpath.split(folder)
        if not name or above == folder:
            return
        dotted = f"{name}.{dotted}" if dotted else name
        folder = above


def _above(folder: str) -> Iterator[str]:
    """A folder and those above it."""
    yield folder
    while folder and posixpath.dirname(folder) != folder:
        folder = posixpath.dirname(folder)
        yield folder
