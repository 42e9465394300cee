"""Which files a scan reads: excludes, gitignore, links; nothing is opened but ignore files.

The conventions are ruff's: a pattern without a slash is compared with every component of a path, a
pattern with one with the path from the project root; what is named on the command line is read
even if excluded, unless `force_exclude`. Directory links are never followed, so loops do no harm
and nothing outside the root is read; a link to a file is, if the file lies inside the root.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from dropaudit.static.gitignore import Ignores

_RUFF = """
    .bzr .direnv .eggs .git .git-rewrite .hg .ipynb_checkpoints .mypy_cache .nox .pants.d .pyenv
    .pytest_cache .pytype .ruff_cache .svn .tox .venv .vscode __pypackages__ _build buck-out build
    dist node_modules site-packages venv
"""
DEFAULT_EXCLUDE = tuple(_RUFF.split())
SUFFIXES = (".py", ".pyi", ".ipynb")


class NoSuchPath(OSError):
    """A path that was asked for does not exist."""


@dataclass(frozen=True)
class FileSelection:
    """The settings that choose files. `root` anchors patterns with a slash; empty is the cwd."""

    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    extend_exclude: tuple[str, ...] = ()
    respect_gitignore: bool = True
    force_exclude: bool = False
    root: str = ""


@dataclass(frozen=True)
class Found:
    """A file to check; or, where `problem` says why, something that could not be looked into."""

    path: Path
    display: str
    problem: str = ""


def discover(paths: Sequence[str], selection: FileSelection) -> list[Found]:
    """The files below `paths`, sorted by what is displayed, each file once.

    Raises `NoSuchPath` for a path that does not exist.
    """
    cwd = os.getcwd()
    root = os.path.abspath(selection.root or cwd)
    excluded = _Excludes((*selection.exclude, *selection.extend_exclude), root)
    found: dict[str, tuple[bool, Found]] = {}
    for given in paths:
        path = os.path.abspath(given)
        mode = _mode(path, given)
        if selection.force_exclude and excluded.with_parents(path):
            continue
        if mode is not None and S_ISDIR(mode):
            walk = _Walk(path, root, excluded, selection.respect_gitignore)
            entries = walk.entries()
        else:
            problem = "" if mode is None or S_ISREG(mode) else "is not a regular file"
            entries = iter([(os.path.realpath(path), path, False, problem)])
        for real, one, linked, problem in entries:
            known = found.get(real)
            if known is None or (known[0] and not linked):
                found[real] = linked, Found(Path(one), _display(one, cwd), problem)
    return sorted((f for _, f in found.values()), key=lambda f: f.display)


class Nearby:
    """Files below one folder after another, each folder once, those near the top first.

    `folders` is how many were looked into so far.
    """

    def __init__(self, selection: FileSelection) -> None:
        self._root = os.path.abspath(selection.root or os.getcwd())
        self._excluded = _Excludes((*selection.exclude, *selection.extend_exclude), self._root)
        self._gitignore = selection.respect_gitignore
        self._seen: set[str] = set()

    @property
    def folders(self) -> int:
        return len(self._seen)

    def below(self, top: str) -> Iterator[tuple[str, Found]]:
        """(real path, file) of each that was not in a folder seen before."""
        cwd = os.getcwd()
        walk = _Walk(top, self._root, self._excluded, self._gitignore, self._seen)
        for real, path, _, problem in walk.entries():
            if not problem:
                yield real, Found(Path(path), _display(path, cwd))


def _mode(path: str, given: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        raise NoSuchPath(f"no such file or directory: {given}") from None
    except NotADirectoryError:
        raise NoSuchPath(f"no such file or directory: {given}") from None
    except OSError:  # cannot be looked at: reading it will say why
        return None
    except ValueError:
        raise NoSuchPath(f"not a path: {given!r}") from None


def _display(path: str, cwd: str) -> str:
    inside = cwd if cwd.endswith(os.sep) else cwd + os.sep
    shown = path[len(inside) :] if path.startswith(inside) else path
    return shown.replace(os.sep, "/")


class _Walk:
    """One directory tree: (real path, path, whether through a link, problem) of each file.

    Directories that were `seen` are left out; those that are entered are added.
    """

    def __init__(
        self,
        top: str,
        root: str,
        excluded: _Excludes,
        gitignore: bool,
        seen: set[str] | None = None,
    ) -> None:
        self._seen = set() if seen is None else seen
        self._top = top
        self._inside = tuple({os.path.realpath(top) + os.sep, os.path.realpath(root) + os.sep})
        self._excluded = excluded
        self._ignores = Ignores.above(top) if gitignore else None

    def entries(self) -> Iterator[tuple[str, str, bool, str]]:
        waiting = deque([(self._top, os.path.realpath(self._top), self._ignores)])
        while waiting:
            directory, real, ignores = waiting.popleft()
            if directory in self._seen:
                continue
            self._seen.add(directory)
            try:
                with os.scandir(directory) as listing:
                    inside = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                yield real, directory, False, f"cannot be listed: {error.strerror}"
                continue
            if ignores is not None:
                ignores = ignores.entered(directory, {entry.name for entry in inside})
            for entry in inside:
                path = os.path.join(directory, entry.name)
                is_directory = _is_directory(entry)
                if not is_directory and not entry.name.endswith(SUFFIXES):
                    continue
                if self._excluded(path, entry.name):
                    continue
                if ignores is not None and ignores.match(path, is_directory):
                    continue
                if is_directory:
                    waiting.append((path, os.path.join(real, entry.name), ignores))
                elif entry.is_symlink():
                    target = os.path.realpath(path)
                    if target.startswith(self._inside) and os.path.isfile(target):
                        yield target, path, True, ""
                elif entry.is_file(follow_symlinks=False):
                    yield os.path.join(real, entry.name), path, False, ""


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


class _Excludes:
    """Whether a path is excluded, by its name or by its place below the root."""

    def __init__(self, patterns: Sequence[str], root: str) -> None:
        self._root = root
        names, places = [], []
        for pattern in patterns:
            pattern = pattern.replace("\\", "/")
            pattern = pattern[2:] if pattern.startswith("./") else pattern
            pattern = pattern.rstrip("/") or pattern
            if "/" not in pattern:
                names.append(pattern)
            absolute = pattern if pattern.startswith("/") else f"{_slashed(root)}/{pattern}"
            places.append(absolute)
        self._names = _any_of(names)
        self._places = _any_of(places)

    def __call__(self, path: str, name: str) -> bool:
        return bool(self._names.match(name) or self._places.match(_slashed(path)))

    def with_parents(self, path: str) -> bool:
        """Whether `path` or a directory above it, below the root, is excluded."""
        while path != self._root:
            above, name = os.path.split(path)
            if not name:
                return False
            if self(path, name):
                return True
            path = above
        return False


def _slashed(path: str) -> str:
    return path.replace(os.sep, "/").rstrip("/")


def _any_of(globs: Sequence[str]) -> re.Pattern[str]:
    every = [one for glob in globs for one in _braces(glob)]
    return re.compile("|".join(map(_regex, every)) if every else r"(?!)")


def _regex(glob: str) -> str:
    parts = re.split(r"(?:(?<=/)|^)\*\*/", glob)  # `**/` is any number of directories, also none
    return r"(?:.*/)?".join(translate(p)[: -len(r"\Z")] for p in parts) + r"\Z"


def _braces(glob: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", glob)
    if match is None:
        return [glob]
    before, after = glob[: match.start()], glob[match.end() :]
    return [one for choice in match[1].split(",") for one in _braces(before + choice + after)]


def path_matches(path: str, pattern: str, root: str) -> bool:
    """Whether a pattern means `path`: its name, its place below `root`, or a directory above it.

    >>> path_matches("tests/unit/test_net.py", "tests/**", "")
    True
    >>> path_matches("src/net.py", "test_*.py", "")
    False
    """
    root = os.path.abspath(root or os.getcwd())
    return _excluder(pattern, root).with_parents(os.path.abspath(path))


@lru_cache(maxsize=256)
def _excluder(pattern: str, root: str) -> _Excludes:
    return _Excludes((pattern,), root)
