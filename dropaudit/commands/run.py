"""`dropaudit run`: a training script, unmodified, under an audit."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dropaudit.commands.failure import Failure, warn

if TYPE_CHECKING:
    from dropaudit.runtime.policies import Policies
    from dropaudit.runtime.report import Report


class _Program(click.Command):
    """Options up to the script, or to `-m MODULE`; all that follows belongs to the program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for name in parameter.opts
        }
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at].startswith("-m"):
                return super().parse_args(ctx, [*args[:at], *_split(args[at:])])
            at += 2 if args[at] in valued else 1
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "SCRIPT|-m MODULE", "[ARGS]..."]


def _split(args: list[str]) -> list[str]:
    """`-m name rest` or `-mname rest`, so that no option of `rest` is taken for one of ours."""
    name, rest = (args[0][2:], args[1:]) if len(args[0]) > 2 else ("", args[1:])
    if not name:
        name, rest = (rest[0], rest[1:]) if rest else ("", [])
    return [f"-m{name}", "--", *rest] if name else ["-m"]


def _elements(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    if value == "all":
        return value
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is neither a positive number nor all.")
    return int(value)


@click.command(cls=_Program, context_settings={"allow_interspersed_args": False})
@click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does.")
@click.option(
    "--every", type=click.IntRange(1), default=1, metavar="N", help="Audit every N-th step."
)
@click.option(
    "--elements",
    default="4096",
    metavar="N|all",
    callback=_elements,
    help="How many elements to look at in each call.  [default: 4096]",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=1e-6,
    metavar="A",
    help="The chance of any false alarm in a statistical check, over the whole run.  "
    "[default: 1e-06]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    help="The least severity that gives exit code 1.  [default: error]",
)
@click.option(
    "--ranks",
    multiple=True,
    metavar="[GROUP=]POLICY",
    help="Of many ranks, whose masks must be distinct, identical or either (ignore): of all, of a "
    "mesh dimension (tp=ignore) or of some (0,1=identical). alone: a report for each rank.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=60.0,
    metavar="S",
    help="Seconds that rank 0, which reports for all, waits for the others.  [default: 60]",
)
@click.option("--json", "json_file", metavar="FILE", help="Save the trace, for `dropaudit judge`.")
@click.option("-q", "--quiet", is_flag=True, help="Print findings and nothing else.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    module: str | None,
    every: int,
    elements: int | str,
    alpha: float,
    fail_on: str,
    ranks: tuple[str, ...],
    patience: float,
    json_file: str | None,
    quiet: bool,
    program: tuple[str, ...],
) -> None:
    """Run a training script as `python` would, and audit the dropout of every model in it.

    The report goes to standard error. The exit code is the script's own if that is not 0, else 1
    if something was found.
    """
    if module is None and not program:
        raise click.UsageError("give a script, or -m and a module")
    if not _has_torch():
        raise Failure("dropaudit run needs PyTorch: pip install 'dropaudit[torch]'")
    # The script may change the directory, and its streams.
    trace_file = None if json_file is None else _writable(json_file)
    stderr = sys.stderr
    audit = _Audit(
        *(_policies(ranks), patience),
        every=every,
        elements=None if elements == "all" else elements,
        alpha=alpha,
    )
    code = _run(audit, module, program)
    try:
        report = audit.report(failed=bool(code))
    except Exception as error:
        if not code:
            raise
        warn(f"the audit failed as well: {type(error).__name__}: {error}")
        ctx.exit(code)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    if report.trace.rank and not audit.alone:
        ctx.exit(code)  # rank 0 reports for all
    if not quiet or report.findings:
        click.echo(report.complaint() if quiet else str(report), file=stderr)
    if trace_file is not None:
        _save(report, trace_file)
    if report.trace.missing:
        warn(report.complaint_of_ranks().partition("\n")[0])
    ctx.exit(code or int(bool(report.failing(fail_on) or report.trace.missing)))


class _Audit:
    """An audit that starts when the script imports torch: not before, not later."""

    def __init__(self, policies: Policies, patience: float, **options: Any) -> None:
        self.policies, self.patience, self.options = policies, patience, options
        self.alone = policies.alone
        self.audit: Any = None

    def start(self) -> None:
        from dropaudit.runtime.auditor import Audit
        from dropaudit.runtime.gathering import Gathering
        from dropaudit.runtime.trace import Settings

        settings = Settings(**self.options)
        gathering = Gathering(self.patience, certain=True)
        self.audit = Audit((), settings, "collect", "error", (), self.policies, gathering)
        self.audit.start()

    def report(self, *, failed: bool) -> Report:
        if self.audit is not None:
            report: Report = self.audit.finish(failed=failed)
            return report
        from dropaudit.runtime.judge import judge
        from dropaudit.runtime.report import Report
        from dropaudit.runtime.trace import Trace

        return Report(Trace(), judge(Trace()))  # torch was never imported


def _run(audit: _Audit, module: str | None, program: tuple[str, ...]) -> int:
    from dropaudit.runtime.arrival import when_imported
    from dropaudit.runtime.script import NoSuchProgram, run_module, run_script

    give_up = when_imported("torch", audit.start)
    try:
        if module is not None:
            return run_module(module, program)
        return run_script(program[0], program[1:])
    except NoSuchProgram as error:
        raise Failure(str(error)) from None
    finally:
        give_up()


def _policies(ranks: tuple[str, ...]) -> Policies:
    from dropaudit.runtime.policies import Policies

    try:
        return Policies.parse(ranks)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="'--ranks'") from None


def _has_torch() -> bool:
    """Whether torch is installed, without importing it: that is for the script to do."""
    try:
        spec = find_spec("torch")
    except (ImportError, ValueError):  # something forbids it
        return False
    places = (spec and spec.submodule_search_locations) or ()
    return any(Path(place, "nn").is_dir() for place in places)


def _writable(file: str) -> Path:
    """Where to save the trace; refused now and not after hours of training."""
    path = Path(file).absolute()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"{file} cannot be written: it needs a directory that can be written to")
    return path


def _save(report: Report, path: Path) -> None:
    from dropaudit.static.written import write

    try:
        write(path, (report.trace.to_json() + "\n").encode())
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror or error}") from error
