"""All files of a program, joined: which thing a name stands for, whatever file it is in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

from dropaudit.static.program.facts import FileFacts
from dropaudit.static.program.following import follow
from dropaudit.static.program.resolve import Resolver
from dropaudit.static.program.sightings import Sightings
from dropaudit.static.record import Claim, Options


class Project:
    """The facts of every file by its path, and the claims of the files that are reported on.

    `files` may hold more than `reported`: what lies around the files that were asked for. The
    answers do not depend on the order of the files.
    """

    def __init__(
        self,
        files: Mapping[str, FileFacts],
        claims: Iterable[Claim] = (),
        reported: Iterable[str] | None = None,
        options: Options = Options(),  # noqa: B008 (frozen)
    ) -> None:
        self.files = dict(sorted(files.items()))
        self.reported = frozenset(self.files if reported is None else reported)
        self.options = options
        self._claims = tuple(claims)

    @cached_property
    def resolver(self) -> Resolver:
        """Which thing a name stands for."""
        return Resolver(self.files)

    @cached_property
    def sightings(self) -> Sightings:
        """What happens to the models of the program, seen by following it."""
        return follow(self.resolver, self.options)

    def claims(self, code: str) -> list[Claim]:
        """What checks of single files would report under `code` if the program agrees."""
        return [one for one in self._claims if one.finding.code == code]
