"""Flags over the configuration file, checked and resolved: what a scan is asked to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropaudit.catalogue import names, previews
from dropaudit.commands.failure import Failure, warn
from dropaudit.config import Config, ConfigError, Ignores, load, load_file
from dropaudit.selection import Layer, UnknownRule, enabled, is_exact, selectors
from dropaudit.static.cache import Cache
from dropaudit.static.files import DEFAULT_EXCLUDE, FileSelection
from dropaudit.static.record import Options

STDIN = "-"


@dataclass(frozen=True)
class FileIgnores:
    """The codes that are not reported in the files that a pattern matches."""

    pattern: str
    codes: frozenset[str]
    root: Path

    def match(self, path: str) -> bool:
        """Whether these are ignored in `path`: `!` in front of the pattern means elsewhere."""
        from dropaudit.static.files import path_matches

        pattern = self.pattern.removeprefix("!")
        return path_matches(path, pattern, str(self.root)) != self.pattern.startswith("!")


@dataclass(frozen=True)
class Settings:
    """What a scan is asked to do."""

    paths: tuple[str, ...]
    stdin_filename: str | None
    codes: frozenset[str]
    ignores: tuple[FileIgnores, ...]
    files: FileSelection
    options: Options
    output_format: str
    output_file: str | None
    fix: bool
    unsafe_fixes: bool
    diff: bool
    show_fixes: bool
    fix_only: bool
    statistics: bool
    add_noqa: bool
    show_files: bool
    show_settings: bool
    cache_dir: Path | None
    baseline: Path | None
    write_baseline: Path | None
    config_file: Path | None
    jobs: int
    quiet: bool
    verbose: bool
    color: str
    exit_zero: bool
    exit_non_zero_on_fix: bool

    def selected(self, path: str, code: str) -> bool:
        """Whether findings of a rule are reported in a file."""
        if code not in self.codes:
            return False
        return not any(one.match(path) for one in self.ignores if code in one.codes)


def settings(given: Mapping[str, Any]) -> Settings:
    """The settings that flags and the configuration file amount to. Raises `Failure`."""
    cwd = Path.cwd()
    stdin_filename = given["stdin_filename"]
    paths = given["paths"] or ((STDIN,) if stdin_filename is not None else (".",))
    if STDIN in paths and len(paths) > 1:
        raise Failure("- reads standard input and cannot be given together with other paths")
    try:
        config = _config(given, (stdin_filename,) if stdin_filename else paths, cwd)
        codes = _codes(config, given)
        ignores = tuple(_ignores(config, given, cwd))
    except (ConfigError, UnknownRule) as error:
        raise Failure(str(error)) from error
    if given["diff"] and given["add_noqa"]:
        raise Failure("--diff and --add-noqa cannot be given together")

    def either(name: str, default: Any) -> Any:
        flag, setting = given[name], getattr(config, name)
        return flag if flag is not None else setting if setting is not None else default

    return Settings(
        paths=tuple(paths),
        stdin_filename=stdin_filename,
        codes=codes,
        ignores=ignores,
        files=FileSelection(
            exclude=_exclude(given["exclude"], cwd)
            or (DEFAULT_EXCLUDE if config.exclude is None else config.exclude),
            extend_exclude=(*config.extend_exclude, *_exclude(given["extend_exclude"], cwd)),
            respect_gitignore=either("respect_gitignore", True),
            force_exclude=either("force_exclude", False),
            root=str(config.root),
        ),
        options=Options(config.always_on, config.framework_bases),
        output_format=_output_format(given, config),
        output_file=given["output_file"],
        fix=bool(given["fix"] or given["fix_only"]),
        unsafe_fixes=either("unsafe_fixes", False),
        diff=bool(given["diff"]),
        show_fixes=bool(given["show_fixes"]),
        fix_only=bool(given["fix_only"]),
        statistics=bool(given["statistics"]),
        add_noqa=bool(given["add_noqa"]),
        show_files=bool(given["show_files"]),
        show_settings=bool(given["show_settings"]),
        cache_dir=None if given["no_cache"] else _cache_dir(given, config, cwd),
        baseline=_path(given["baseline"], config.baseline, config.root),
        write_baseline=_path(given["write_baseline"], None, cwd),
        config_file=config.file,
        jobs=given["jobs"] or os.cpu_count() or 1,
        quiet=given["quiet"],
        verbose=given["verbose"],
        color=given["color"],
        exit_zero=bool(given["exit_zero"]),
        exit_non_zero_on_fix=bool(given["exit_non_zero_on_fix"]),
    )


def _config(given: Mapping[str, Any], paths: Iterable[str], cwd: Path) -> Config:
    if given["isolated"]:
        if given["config"]:
            raise Failure("--config and --isolated cannot be given together")
        return Config(cwd)
    return load_file(Path(given["config"])) if given["config"] else load(paths, cwd)


def _codes(config: Config, given: Mapping[str, Any]) -> frozenset[str]:
    known = names()
    where = f"{config.file}: " if config.file else ""
    try:
        below = _layer(config.select, config.extend_select, (config.ignore, config.extend_ignore))
    except UnknownRule as error:
        raise UnknownRule(f"{where}{error}") from None
    above = _layer(
        _split(given["select"]) or None,
        _split(given["extend_select"]),
        (_split(given["ignore"]), _split(given["extend_ignore"])),
    )
    preview = given["preview"] if given["preview"] is not None else config.preview
    held = frozenset() if preview else previews()
    for layer in (below, above):
        for selector in (*(layer.select or ()), *layer.extend_select):
            if is_exact(selector) and held.issuperset(selector.codes):
                warn(f"{selector.text} is in preview and has no effect without --preview")
    return enabled((below, above), known, held)


def _layer(
    select: tuple[str, ...] | None,
    extend_select: tuple[str, ...],
    ignores: Iterable[tuple[str, ...]],
) -> Layer:
    known = names()
    ignored = [text for texts in ignores for text in texts]
    return Layer(
        None if select is None else selectors(select, known),
        selectors(extend_select, known),
        selectors(ignored, known),
    )


def _ignores(config: Config, given: Mapping[str, Any], cwd: Path) -> Iterable[FileIgnores]:
    own, more = _pairs(given["per_file_ignores"]), _pairs(given["extend_per_file_ignores"])
    from_file = (*(() if own else config.per_file_ignores), *config.extend_per_file_ignores)
    for root, pairs in ((config.root, from_file), (cwd, (*own, *more))):
        for pattern, texts in pairs:
            codes = (code for s in selectors(texts, names()) for code in _unless_group(s.codes))
            yield FileIgnores(pattern, frozenset(codes), root)


def _unless_group(codes: tuple[str, ...]) -> tuple[str, ...]:
    """Codes without DRP000, which only its own code can silence."""
    return codes if len(codes) == 1 else tuple(code for code in codes if code != "DRP000")


def _pairs(texts: Iterable[str]) -> Ignores:
    pairs: dict[str, tuple[str, ...]] = {}
    for text in _split(texts):
        pattern, colon, code = text.rpartition(":")
        if not colon or not pattern or not code:
            raise Failure(f"--per-file-ignores takes PATTERN:CODE, not {text!r}")
        pairs[pattern] = (*pairs.get(pattern, ()), code)
    return tuple(pairs.items())


def _split(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(one.strip() for text in texts for one in text.split(",") if one.strip())


def _exclude(texts: Iterable[str], cwd: Path) -> tuple[str, ...]:
    """Patterns from flags: those with a slash start at the current directory."""
    return tuple(
        f"{cwd.as_posix()}/{one.removeprefix('./')}"
        if "/" in one.rstrip("/") and not one.startswith("/")
        else one
        for one in _split(texts)
    )


def _output_format(given: Mapping[str, Any], config: Config) -> str:
    from dropaudit.reporting import names as formats

    chosen: str = given["output_format"] or config.output_format or "full"
    if chosen not in formats():
        raise Failure(f"{config.file}: `output-format` must be one of {', '.join(formats())}")
    return chosen


def _cache_dir(given: Mapping[str, Any], config: Config, cwd: Path) -> Path:
    return _path(given["cache_dir"], config.cache_dir, config.root) or Cache.default_directory(
        config.root
    )


def _path(flag: str | None, setting: str | None, root: Path) -> Path | None:
    if flag is not None:
        return Path(flag)
    return None if setting is None else root / Path(setting).expanduser()
