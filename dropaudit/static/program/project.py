"""All files of a program, joined: which thing a name stands for, whatever file it is in."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from dropaudit.static.program.facts import FileFacts
from dropaudit.static.program.following import follow
from dropaudit.static.program.resolve import Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.record import Claim, Options


class Project:
    """The facts of every file by its path, and the claims of the files that are reported on.

    `files` may hold more than `reported`: what lies around the files that were asked for. `cells`
    says of notebooks on which of their lines each code cell starts. The answers do not depend on
    the order of the files.
    """

    def __init__(
        self,
        files: Mapping[str, FileFacts],
        claims: Iterable[Claim] = (),
        reported: Iterable[str] | None = None,
        options: Options = Options(),  # noqa: B008 (frozen)
        cells: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    ) -> None:
        self.files = dict(sorted(files.items()))
        self.reported = frozenset(self.files if reported is None else reported)
        self.options = options
        self._claims = tuple(claims)
        self._cells = cells or {}

    def spot(self, path: str, line: int, beside: str) -> str:
        """What a message about the file `beside` calls a line.

        >>> Project({}).spot("net.py", 8, beside="net.py"), Project({}).spot("net.py", 8, "a.py")
        ('line 8', 'net.py:8')
        """
        cells = self._cells.get(path, ())
        at = bisect_right(cells, (line, sys.maxsize)) - 1
        if at < 0:
            return f"line {line}" if path == beside else f"{path}:{line}"
        first, cell = cells[at]
        inside = f"cell {cell}, line {max(line - first + 1, 1)}"
        return inside if path == beside else f"{path}, {inside}"

    @cached_property
    def resolver(self) -> Resolver:
        """Which thing a name stands for."""
        return Resolver(self.files)

    @cached_property
    def sightings(self) -> Sightings:
        """What happens to the models of the program, seen by following it."""
        return follow(self.resolver, self.options, self.reported)

    def claims(self, code: str) -> list[Claim]:
        """What checks of single files would report under `code` if the program agrees."""
        return [one for one in self._claims if one.finding.code == code]
