"""What git ignores: `.gitignore` files from the repository root down, and `.git/info/exclude`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec


class Ignores:
    """The ignore files that hold in one directory, innermost first. Immutable."""

    def __init__(self, rules: tuple[tuple[str, GitIgnoreSpec], ...], in_repository: bool) -> None:
        self._rules = rules
        self._in_repository = in_repository

    @classmethod
    def above(cls, directory: str) -> Ignores:
        """What holds for `directory` from the repository around it, itself not entered yet.

        Rules that ignore `directory` itself are left out: it was asked for.
        """
        chain = list(_parents(directory))
        repository = next((i for i, d in enumerate(chain) if _has_git(d)), None)
        if repository is None:
            return cls((), False)
        ignores = cls((), True)
        for parent in reversed(chain[1 : repository + 1]):
            ignores = ignores.entered(parent, {".gitignore", ".git"})
        if any(ignores.match(one, True) for one in chain[:repository]):
            return cls((), True)
        return ignores

    def entered(self, directory: str, names: set[str]) -> Ignores:
        """What holds inside `directory`, whose entries are `names`."""
        rules, inside = self._rules, self._in_repository
        if ".git" in names and _has_git(directory):
            # a repository starts here: what the one around it ignores has no say
            exclude = _read(os.path.join(directory, ".git", "info", "exclude"))
            rules, inside = (((directory, exclude),) if exclude else ()), True
        if inside and ".gitignore" in names:
            spec = _read(os.path.join(directory, ".gitignore"))
            rules = ((directory, spec), *rules) if spec else rules
        return self if rules is self._rules else Ignores(rules, inside)

    def match(self, path: str, is_directory: bool) -> bool:
        """Whether git ignores `path`; the directories above it are known not to be ignored."""
        for base, spec in self._rules:
            below = path[len(base) :].lstrip(os.sep).replace(os.sep, "/")
            include = spec.check_file(below + "/" if is_directory else below).include
            if include is not None:
                return include
        return False


def _parents(directory: str) -> Iterator[str]:
    while True:
        yield directory
        above = os.path.dirname(directory)
        if above == directory:
            return
        directory = above


def _has_git(directory: str) -> bool:
    return os.path.exists(os.path.join(directory, ".git"))


def _read(path: str) -> GitIgnoreSpec | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    if not any(line.strip() and not line.startswith("#") for line in lines):
        return None
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)
