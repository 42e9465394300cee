"""What the interpreter of a program computes with: values, modes, states."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from dropaudit.static.program.code import Span
from dropaudit.static.program.resolve import ClassRef, FunctionRef, Symbol

_MOST_VALUES = 24
_MOST_STATES = 24


@dataclass(frozen=True, slots=True)
class Object:
    """A thing with attributes: a model, an instance of some class, or nobody knows what."""

    number: int


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the project: bound to `owner`, defined in the function running in `frame`."""

    ref: FunctionRef
    owner: Object | None = None
    frame: Frame | None = None
    given: tuple[tuple[str, Values], ...] = ()  # what functools.partial has passed
    cls: ClassRef | None = None  # of a class method: the class that it was looked up in


@dataclass(frozen=True, slots=True)
class Class:
    """A class of the project."""

    ref: ClassRef


@dataclass(frozen=True, slots=True)
class Module:
    """A file of the project as a module."""

    path: str


@dataclass(frozen=True, slots=True)
class Foreign:
    """Something outside the project by its dotted name, of `owner` where it is its method."""

    dotted: str
    owner: Object | None = None


@dataclass(frozen=True, slots=True)
class Plain:
    """A constant."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Group:
    """A container of known things."""

    items: tuple[Values, ...]


Value: TypeAlias = Object | Function | Class | Module | Foreign | Plain | Group
Values: TypeAlias = "frozenset[Value]"  # empty: nobody knows

UNKNOWN: Values = frozenset()


def one(value: Value) -> Values:
    return frozenset((value,))


def union(*every: Values) -> Values:
    """All of the values; nobody knows as soon as one of them is unknown or they are too many."""
    if not all(every):
        return UNKNOWN
    if len(every) == 2 and every[0] == every[1]:
        return every[0]
    found = frozenset().union(*every)
    return found if len(found) <= _MOST_VALUES else UNKNOWN


def objects(values: Values) -> list[Object]:
    """The objects among values, also those in containers, in the order of their numbers."""
    found: set[Object] = set()
    stack = [values]
    while stack:
        for value in stack.pop():
            if isinstance(value, Object):
                found.add(value)
            elif isinstance(value, Group):
                stack.extend(value.items)
    return sorted(found, key=lambda each: each.number)


@dataclass(frozen=True, slots=True)
class Frame:
    """One function being run, or the code of a module.

    `number` is that of its variables, `names` are the names that it binds, `around` the frame of
    the function that it is defined in.
    """

    number: int
    path: str
    qualified: str
    names: frozenset[str]
    elsewhere: frozenset[str]
    owner: Object | None = None
    around: Frame | None = None

    @property
    def ref(self) -> FunctionRef:
        return FunctionRef(self.path, self.qualified)


@dataclass(frozen=True, slots=True)
class Step:
    """One function on the way to an event: where it is, where it was called, if it trains."""

    path: str
    function: str
    where: Span
    called_at: Span | None
    trains: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a model: a switch, a forward pass, a backward pass."""

    path: str
    where: Span
    function: str  # qualified name of the function it stands in, empty for a module's code


ModeKind: TypeAlias = Literal["train", "eval", "unknown", "given"]


@dataclass(frozen=True, slots=True)
class Mode:
    """The mode of a model, and what led to it.

    "given" is the mode that a parameter or global came with: unknown, but by nobody's fault.
    `switch` is the event that set the mode (None: it was built so), `evaluated` the last `eval()`
    since it was last trained in train mode, `trained` whether a backward pass went through it
    outside of eval mode, `loaded` whether weights were loaded into it.
    """

    kind: ModeKind
    switch: Event | None = None
    evaluated: Event | None = None
    trained: bool = False
    loaded: bool = False
    mates: frozenset[int] = frozenset()  # the models that one loss trained together with it


class Row:
    """The variables of a frame, or the attributes of a thing: never changed, cheap to compare."""

    __slots__ = ("_hash", "values")

    def __init__(self, values: dict[str, Values]) -> None:
        self.values = values
        self._hash: int | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Row) and self.values == other.values)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.values.items()))
        return self._hash


@dataclass(slots=True)
class State:
    """The program at one point of one path. Consumed by whoever is given it; `copy` to branch.

    `rows` hold the variables of frames and the attributes of things, `modes` the models, `pending`
    the models that were called since the last backward pass, with their modes then, `stepped` those
    that a backward pass met in eval mode and that await an optimizer step. `strangers` are the
    things that were called of which no mode is known. `decided` remembers the outcome of tests by
    (frame, text).
    """

    rows: dict[int, Row] = field(default_factory=dict)
    modes: dict[int, Mode] = field(default_factory=dict)
    pending: dict[int, Mode] = field(default_factory=dict)
    stepped: dict[int, Mode] = field(default_factory=dict)
    strangers: set[int] = field(default_factory=set)
    decided: dict[tuple[int, str], bool] = field(default_factory=dict)
    grad: bool = True

    def copy(self) -> State:
        return State(
            dict(self.rows),
            dict(self.modes),
            dict(self.pending),
            dict(self.stepped),
            set(self.strangers),
            dict(self.decided),
            self.grad,
        )

    def row(self, number: int) -> dict[str, Values]:
        """What is known of a frame or thing; not to be changed."""
        row = self.rows.get(number)
        return {} if row is None else row.values

    def cell(self, number: int, name: str) -> Values | None:
        """A variable or attribute; None where it was never set."""
        row = self.rows.get(number)
        return None if row is None else row.values.get(name)

    def put(self, number: int, name: str, values: Values) -> None:
        """Set a variable or attribute."""
        row = self.rows.get(number)
        if row is None:
            self.rows[number] = Row({name: values})
        elif row.values.get(name) != values or name not in row.values:
            self.rows[number] = Row({**row.values, name: values})

    def deciding(self, decided: dict[tuple[int, str], bool]) -> State:
        """A copy in which these tests are decided."""
        other = self.copy()
        other.decided = dict(decided)
        return other

    def key(self) -> object:
        """Equal for states that differ in nothing that matters to modes."""
        every = self.modes, self.pending, self.stepped
        return *(frozenset(one.items()) for one in every), self.grad


def merged(states: Iterable[State]) -> list[State]:
    """States joined where their modes agree; all of them where they become too many."""
    states = list(states)
    if len(states) < 2:
        return states
    found: dict[object, State] = {}
    for state in states:
        key = state.key()
        other = found.get(key)
        found[key] = state if other is None else _joined(other, state)
    result = list(found.values())
    if len(result) <= _MOST_STATES:
        return result
    whole = result[0]
    for state in result[1:]:
        whole = _joined(whole, state)
    return [whole]


def _joined(left: State, right: State) -> State:
    rows = dict(left.rows)
    for number, row in right.rows.items():
        mine = rows.get(number)
        if mine is None:
            rows[number] = row
        elif mine != row:
            rows[number] = _joined_row(mine, row)
    modes = dict(left.modes)
    for number, mode in right.modes.items():
        mine_mode = modes.get(number)
        if mine_mode is not None and mine_mode != mode:
            mode = _joined_mode(mine_mode, mode)
        modes[number] = mode
    pending = {**right.pending, **left.pending}
    stepped = {**right.stepped, **left.stepped}
    decided = {k: v for k, v in left.decided.items() if right.decided.get(k) == v}
    strangers = left.strangers | right.strangers
    return State(rows, modes, pending, stepped, strangers, decided, left.grad and right.grad)


def _joined_row(left: Row, right: Row) -> Row:
    values = dict(left.values)
    for name, theirs in right.values.items():
        mine = values.get(name)
        values[name] = theirs if mine is None else union(mine, theirs)
    return Row(values)


def _joined_mode(left: Mode, right: Mode) -> Mode:
    if left.kind == right.kind:
        return replace(
            left,
            switch=left.switch if left.switch == right.switch else None,
            evaluated=left.evaluated if left.evaluated == right.evaluated else None,
            trained=left.trained or right.trained,
            loaded=left.loaded or right.loaded,
            mates=left.mates | right.mates,
        )
    return Mode("unknown", trained=left.trained or right.trained)


@dataclass(frozen=True, slots=True)
class Origin:
    """What an object is: what it was built from, where, under which name, and inside what."""

    symbol: Symbol | None
    is_model: bool
    name: str
    where: Event | None = None
    parent: int | None = None
    rates: frozenset[str] = frozenset()  # keywords that were given something but zero
    is_given: bool = False  # came from outside: a parameter, a global
    holds: tuple[Object, ...] = ()  # what was passed to a foreign constructor
