"""What a scan does, in order: find files, check, mend, report. Only this writes files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropaudit.commands.failure import Failure
from dropaudit.commands.mending import Mended, mend
from dropaudit.commands.output import WITH_FOOTER, is_colored, write_out
from dropaudit.commands.settings import STDIN, Settings
from dropaudit.findings import Finding, Severity
from dropaudit.reporting import Outcome, render
from dropaudit.static.cache import Cache
from dropaudit.static.files import Found, NoSuchPath, discover
from dropaudit.static.record import FileRecord
from dropaudit.static.runner import scan, scan_bytes
from dropaudit.static.suppressions import apply
from dropaudit.static.surroundings import Surroundings, surroundings
from dropaudit.static.whole import Whole

if TYPE_CHECKING:
    from dropaudit.static.baseline import Baseline
    from dropaudit.static.texts import Texts


def run(settings: Settings) -> int:
    """Do what `settings` ask for; the exit code. Raises `Failure`."""
    if settings.show_settings:
        for field in fields(settings):
            click.echo(f"{field.name} = {_shown(getattr(settings, field.name))}")
        return 0
    return _Scan(settings).run()


class _Scan:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stdin: bytes | None = None
        self.baseline = self._baseline()

    def run(self) -> int:
        settings = self.settings
        started = time.monotonic()
        if settings.paths == (STDIN,):
            if settings.show_files:
                click.echo(self._stdin_name())
                return 0
            files, whole = self._stdin_whole()
        else:
            files = self._discovered()
            if settings.show_files:
                for file in files:
                    click.echo(file.display)
                return 0
            if not files:
                self._say("warning: no Python files were found under the given paths")
            whole = self._whole(files)
        found = [finding for record in whole.records for finding in self._wanted(record)]
        if settings.verbose:
            seconds = time.monotonic() - started
            self._say(f"checked {len(files)} files{_beside(whole.around)} in {seconds:.2f} s")
        if settings.write_baseline is not None:
            return self._write_baseline(found)
        texts = self._texts()
        known = found
        if self.baseline is not None:
            found = self.baseline.new(known, texts.lines)
            if settings.verbose:
                for path, code, line, _ in self.baseline.stale(known, texts.lines):
                    self._say(f"baseline: {path}: {code} is not found any more: {line}")
        if settings.add_noqa:
            return self._add_noqa(found)
        if settings.fix or settings.diff:
            return self._fixed(files, found, whole)
        self._report(found, len(files))
        return self._exit_code(found, 0)

    def _discovered(self) -> list[Found]:
        try:
            return discover(self.settings.paths, self.settings.files)
        except NoSuchPath as error:
            raise Failure(str(error)) from error

    def _whole(self, files: Sequence[Found]) -> Whole:
        settings = self.settings
        cache = self._cache()
        quiet = settings.quiet or not (sys.stderr.isatty() and sys.stdout.isatty())
        if quiet:
            whole = self._scan(files, cache, None)
        else:
            from dropaudit.commands.progress import Progress

            with Progress() as progress:
                whole = self._scan(files, cache, progress.tell)
        self._warn(cache)
        return whole

    def _scan(
        self,
        files: Sequence[Found],
        cache: Cache | None,
        progress: Callable[[int, int], None] | None,
    ) -> Whole:
        settings = self.settings
        return scan(
            files,
            settings.options,
            jobs=settings.jobs,
            cache=cache,
            progress=progress,
            around=lambda: surroundings(settings.paths, files, settings.files),
        )

    def _cache(self) -> Cache | None:
        directory = self.settings.cache_dir
        return None if directory is None else Cache(directory)

    def _warn(self, cache: Cache | None) -> None:
        if cache is not None and cache.warning:
            self._say(f"warning: {cache.warning}")

    def _stdin_name(self) -> str:
        name = self.settings.stdin_filename
        if not name:
            return STDIN
        path = os.path.abspath(name)
        inside = os.getcwd().rstrip(os.sep) + os.sep
        return (path[len(inside) :] if path.startswith(inside) else path).replace(os.sep, "/")

    def _stdin_whole(self) -> tuple[list[Found], Whole]:
        settings = self.settings
        self.stdin = sys.stdin.buffer.read()
        name = self._stdin_name()
        files = [Found(Path(name), name)]
        if settings.files.force_exclude and self._stdin_excluded():
            return [], scan([], settings.options, jobs=1, cache=None)
        cache = self._cache()
        around = Surroundings(cut=True)  # whatever it belongs to
        whole = scan_bytes(
            files[0],
            self.stdin,
            settings.options,
            jobs=settings.jobs,
            cache=cache,
            around=lambda: around if name == STDIN else surroundings((), files, settings.files),
        )
        self._warn(cache)
        return files, whole

    def _stdin_excluded(self) -> bool:
        from dropaudit.static.files import path_matches

        files = self.settings.files
        name = self.settings.stdin_filename
        patterns = (*files.exclude, *files.extend_exclude)
        return name is not None and any(path_matches(name, one, files.root) for one in patterns)

    def _wanted(self, record: FileRecord) -> list[Finding]:
        return apply(record, lambda code: self.settings.selected(record.path, code))

    def _texts(self, changed: Callable[[str], bytes | None] = lambda path: None) -> Texts:
        from dropaudit.static.texts import Texts

        def read(path: str) -> bytes:
            data = changed(path)
            if data is not None:
                return data
            return self.stdin if self.stdin is not None else Path(path).read_bytes()

        return Texts(read)

    def _baseline(self) -> Baseline | None:
        if self.settings.baseline is None:
            return None
        if self.settings.write_baseline is not None and not self.settings.baseline.exists():
            return None
        from dropaudit.static.baseline import BaselineError, load

        try:
            return load(self.settings.baseline)
        except BaselineError as error:
            raise Failure(str(error)) from error

    def _write_baseline(self, found: Sequence[Finding]) -> int:
        from dropaudit.static.baseline import save

        file = self.settings.write_baseline
        assert file is not None
        try:
            count = save(file, found, self._texts().lines)
        except OSError as error:
            raise Failure(f"{file} cannot be written: {error.strerror or error}") from error
        self._say(f"Wrote {_many(count, 'finding')} to {file}.")
        return 0

    def _add_noqa(self, found: Sequence[Finding]) -> int:
        from dropaudit.static.noqa import add
        from dropaudit.static.written import write

        total = 0
        for path, findings in _by_path(found).items():
            try:
                data = self.stdin if self.stdin is not None else Path(path).read_bytes()
                new, count = add(path, data, findings)
                if self.stdin is not None:
                    sys.stdout.buffer.write(new)
                elif new != data:
                    write(Path(path), new, expected=data)
            except (OSError, ValueError) as error:
                raise Failure(f"{path} cannot be written: {error}") from error
            total += count
        if self.stdin is not None and not found:
            sys.stdout.buffer.write(self.stdin)
        self._say(f"Added {_many(total, 'noqa directive')}.")
        return 0

    def _fixed(self, files: Sequence[Found], found: Sequence[Finding], whole: Whole) -> int:
        settings = self.settings
        fixable = {f.where.path for f in found if f.fix and (f.fix.safe or settings.unsafe_fixes)}
        left = [f for f in found if f.where.path not in fixable]
        mended: list[Mended] = []
        for file in (file for file in files if file.display in fixable):
            try:
                mended.append(self._mend(file, whole))
            except OSError as error:  # gone, or not to be read any more
                self._say(f"warning: {file.display} was not fixed: {error.strerror or error}")
                left += [f for f in found if f.where.path == file.display]
        applied = [finding for one in mended for finding in one.applied]
        if settings.diff:
            return self._diff(mended, applied)
        remaining = self._still(left, whole)
        for one in mended:
            remaining += one.remaining
        remaining.sort(key=lambda finding: finding.sort_key)
        if self.stdin is not None:
            out = sys.stdout.buffer
            out.write(mended[0].after if mended else self.stdin)
            out.flush()
        if settings.fix_only:
            if applied:
                self._say(f"Fixed {_many(len(applied), 'error')}.")
            remaining = []
        else:
            now = {one.path: one.after for one in mended}
            self._report(remaining, len(files), applied, now.get)
        return self._exit_code(remaining, len(applied))

    def _still(self, left: Sequence[Finding], whole: Whole) -> list[Finding]:
        """What is left in files that were not mended, now that others were."""
        kept: list[Finding] = []
        for record in whole.now({finding.where.path for finding in left}):
            found = self._wanted(record)
            if self.baseline is not None:
                found = self.baseline.new(found, self._texts().lines)
            kept += found
        return kept

    def _mend(self, file: Found, whole: Whole) -> Mended:
        return mend(
            file,
            self.stdin,
            self.settings,
            whole,
            lambda record, data: self._new(self._wanted(record), data),
        )

    def _new(self, findings: list[Finding], data: bytes) -> list[Finding]:
        if self.baseline is None:
            return findings
        return self.baseline.new(findings, self._texts(lambda path: data).lines)

    def _diff(self, mended: Sequence[Mended], applied: Sequence[Finding]) -> int:
        from dropaudit.static.diff import unified

        text = "".join(unified(one.path, one.before, one.after) for one in mended)
        write_out(self.settings, text)
        if applied:
            self._say(f"Would fix {_many(len(applied), 'error')}.")
        elif not self.settings.quiet:
            self._say("No errors would be fixed.")
        return 1 if applied and not self.settings.exit_zero else 0

    def _report(
        self,
        findings: Sequence[Finding],
        count: int,
        applied: Sequence[Finding] = (),
        changed: Callable[[str], bytes | None] = lambda path: None,
    ) -> None:
        settings = self.settings
        texts = self._texts(changed)
        outcome = Outcome(
            tuple(findings),
            count,
            tuple(applied),
            lines=texts.lines,
            place=texts.place,
            unsafe_fixes=settings.unsafe_fixes,
            show_fixes=settings.show_fixes,
            color=is_colored(settings),
        )
        if settings.statistics:
            from dropaudit.reporting.statistics import statistics

            text = statistics(outcome, "json" if "json" in settings.output_format else "text")
        else:
            text = render(settings.output_format, outcome)
        if settings.quiet and settings.output_format in WITH_FOOTER:
            from dropaudit.reporting.footer import footer

            text = text.removesuffix(footer(outcome))
        write_out(settings, text, err=self.stdin is not None and settings.fix)

    def _exit_code(self, findings: Iterable[Finding], applied: int) -> int:
        if self.settings.exit_zero:
            return 0
        serious = any(finding.severity is not Severity.INFO for finding in findings)
        return int(serious or (applied > 0 and self.settings.exit_non_zero_on_fix))

    def _say(self, sentence: str) -> None:
        if not self.settings.quiet:
            click.echo(sentence, err=True)


def _beside(around: Surroundings) -> str:
    if not around.files:
        return ""
    bound = ", the most that are read" if around.cut else ""
    return f" beside {len(around.files)} others{bound},"


def _by_path(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    by_path: dict[str, list[Finding]] = {}
    for finding in findings:
        by_path.setdefault(finding.where.path, []).append(finding)
    return by_path


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shown(value: object) -> str:
    if isinstance(value, (frozenset, tuple)):
        return f"[{', '.join(sorted(map(str, value)))}]"
    return "" if value is None else str(value)
