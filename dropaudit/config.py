"""`[tool.dropaudit]` of the nearest pyproject.toml, or a dropaudit.toml, as a frozen `Config`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

Ignores = tuple[tuple[str, tuple[str, ...]], ...]  # pattern of a path, selectors

_NAMES = (".dropaudit.toml", "dropaudit.toml", "pyproject.toml")


class ConfigError(ValueError):
    """What is wrong in which file, in one sentence."""


@dataclass(frozen=True)
class Config:
    """The settings of a project; what it does not set is None. `root` is what paths start at."""

    root: Path
    file: Path | None = None
    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    extend_select: tuple[str, ...] = ()
    extend_ignore: tuple[str, ...] = ()
    per_file_ignores: Ignores = ()
    extend_per_file_ignores: Ignores = ()
    exclude: tuple[str, ...] | None = None
    extend_exclude: tuple[str, ...] = ()
    force_exclude: bool | None = None
    respect_gitignore: bool | None = None
    output_format: str | None = None
    unsafe_fixes: bool | None = None
    preview: bool | None = None
    cache_dir: str | None = None
    baseline: str | None = None
    always_on: tuple[str, ...] = ()
    framework_bases: tuple[str, ...] = ()


def keys() -> tuple[str, ...]:
    """The keys of `[tool.dropaudit]`.

    >>> "per-file-ignores" in keys()
    True
    """
    return tuple(sorted(_READERS))


def load(paths: Iterable[str], cwd: Path) -> Config:
    """The configuration nearest to the common directory of `paths`, upwards.

    Raises `ConfigError`.
    """
    for directory in (start := _common(paths, cwd), *start.parents):
        for name in _NAMES:
            file = directory / name
            if file.is_file() and (table := _table(file, name)) is not None:
                return _config(file, table)
    return Config(cwd)


def load_file(file: Path) -> Config:
    """The configuration in `file`, for `--config`. Raises `ConfigError`.

    Paths in it start at its directory.
    """
    table = _table(file, file.name)
    return _config(file, table or {})


def _common(paths: Iterable[str], cwd: Path) -> Path:
    absolute = [os.path.join(cwd, path) for path in paths if path != "-"]
    if not absolute:
        return cwd
    try:
        common = Path(os.path.normpath(os.path.commonpath([os.path.normpath(p) for p in absolute])))
    except ValueError:  # on different drives
        return cwd
    return common if common.is_dir() else common.parent


def _table(file: Path, name: str) -> dict[str, Any] | None:
    """What `file` says of dropaudit; None if it says nothing."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    if name == "pyproject.toml" and b"dropaudit" not in data:
        return None
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        value: Any = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {' '.join(str(error).split())}") from error
    if name == "pyproject.toml":
        tool = value.get("tool", {})
        value = tool.get("dropaudit") if isinstance(tool, dict) else None
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{file}: `tool.dropaudit` must be a table, not {_kind(value)}")
    table: dict[str, Any] | None = value
    return table


def _config(file: Path, table: dict[str, Any]) -> Config:
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _READERS:
            raise ConfigError(f"{file}: {_unknown(key)}")
        try:
            settings[key.replace("-", "_")] = _READERS[key](value)
        except ValueError as error:
            raise ConfigError(f"{file}: `{key}` must be {error}, not {_kind(value)}") from None
    file = Path(os.path.abspath(file))
    return Config(file.parent, file, **settings)


def _unknown(key: str) -> str:
    near = get_close_matches(key.replace("_", "-"), keys(), 1, 0.6)
    hint = f", did you mean `{near[0]}`?" if near else ";"
    return f"unknown key `{key}`{hint} Valid keys: {', '.join(keys())}"


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    if isinstance(value, list):
        odd = next((item for item in value if not isinstance(item, str)), None)
        return "an array" if odd is None else f"an array that holds {_kind(odd)}"
    return kinds.get(type(value), "a table" if isinstance(value, dict) else "a date")


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("an array of strings")
    return tuple(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def _ignores(value: Any) -> Ignores:
    try:
        if isinstance(value, dict):
            return tuple((pattern, _strings(codes)) for pattern, codes in value.items())
    except ValueError:
        raise ValueError("a table of patterns, each with an array of strings") from None
    raise ValueError("a table of patterns, each with an array of strings")


_READ_AS: dict[str, Callable[[Any], Any]] = {
    "tuple[str, ...]": _strings,
    "tuple[str, ...] | None": _strings,
    "bool | None": _boolean,
    "str | None": _string,
    "Ignores": _ignores,
}
_READERS = {
    field.name.replace("_", "-"): _READ_AS[str(field.type)]
    for field in fields(Config)
    if field.name not in ("root", "file")
}
