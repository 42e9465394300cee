"""The facts of one file: what it imports, its classes, its functions. Plain and picklable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dropaudit.static.program.code import Expression, Import, Span, Statement, Top, unpacked


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function; `default` is None where there is none. `*args` keeps its star."""

    name: str
    default: Expression | None = None
    keyword_only: bool = False


@lru_cache(maxsize=1000)  # bodies in use; texts are a tenth of their size
def _unpacked(text: str) -> tuple[Statement, ...]:
    return unpacked(text)


@dataclass(frozen=True)
class FunctionFacts:
    """A function, method or lambda, or the code of a module (`qualified` is then empty).

    `qualified` is the name with classes and functions around it: `Trainer.fit`, `main.helper`.
    `calls` are the last names of what is called in it, `decorators` dotted names as written,
    `assigned` the plain names that it binds, `elsewhere` those that it declares `global` or
    `nonlocal`. `text` is the body, packed; `body` unpacks it each time. `top` is
    where a first statement can be put, after a docstring.
    """

    qualified: str
    parameters: tuple[Parameter, ...]
    decorators: tuple[str, ...]
    calls: frozenset[str]
    assigned: tuple[str, ...]
    elsewhere: tuple[str, ...]
    text: str
    where: Span
    is_method: bool = False
    is_generator: bool = False
    top: Top | None = None

    @property
    def name(self) -> str:
        return self.qualified.rpartition(".")[2]

    @property
    def body(self) -> tuple[Statement, ...]:
        return _unpacked(self.text)


@dataclass(frozen=True)
class Held:
    """One `self.name = value` of a class, or a class-level `name = value` (`method` is empty)."""

    name: str
    value: Expression
    method: str
    line: int


@dataclass(frozen=True)
class ClassFacts:
    """A class: bases as written, what it puts on `self`, the names of its methods.

    `reads` are the attribute names that its code reads on `self` (or on `super()`); `dynamic`
    says that it reads attributes by computed names (`getattr`, `vars`, `__dict__`). `fields` are
    the names that it annotates: of a dataclass, the parameters of its constructor.
    """

    qualified: str
    bases: tuple[str, ...]
    keywords: tuple[str, ...]
    decorators: tuple[str, ...]
    held: tuple[Held, ...]
    methods: tuple[str, ...]
    reads: frozenset[str]
    dynamic: bool
    where: Span
    fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.qualified.rpartition(".")[2]


@dataclass(frozen=True)
class FileFacts:
    """Everything that other files may want to know of one file.

    `stars` are the modules of star imports; `exports` is `__all__` where it is written out;
    `inner` are the modules and names (dotted) that functions import for themselves, `is_main` says
    that the file has an `if __name__ == "__main__":`.
    """

    imports: tuple[Import, ...] = ()
    stars: tuple[str, ...] = ()
    exports: tuple[str, ...] | None = None
    classes: tuple[ClassFacts, ...] = ()
    functions: tuple[FunctionFacts, ...] = ()
    is_main: bool = False
    inner: tuple[str, ...] = ()
