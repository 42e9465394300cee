"""`dropaudit scan`: its options. What it does with them is in `session`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from dropaudit.reporting import names as format_names

CODES = "CODES"
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _flag(*names: str, help: str) -> Decorator:
    """A switch that says nothing, rather than no, when it is not given."""
    return click.option(*names, is_flag=True, default=None, help=help)


def _many(*names: str, metavar: str, help: str) -> Decorator:
    return click.option(*names, multiple=True, metavar=metavar, help=help)


@click.command()
@click.argument("paths", nargs=-1)
@_many("--select", metavar=CODES, help="Codes, prefixes (DRP2), names, or ALL, to report.")
@_many("--ignore", metavar=CODES, help="Codes, prefixes or names not to report.")
@_many("--extend-select", metavar=CODES, help="As --select, added to what is selected.")
@_many("--extend-ignore", metavar=CODES, help="As --ignore, added to what is ignored.")
@_many("--per-file-ignores", metavar="PATTERN:CODE", help="Codes not to report in some files.")
@_many("--extend-per-file-ignores", metavar="PATTERN:CODE", help="As above, added to settings.")
@_flag("--fix/--no-fix", help="Mend what has a safe fix.")
@_flag("--unsafe-fixes/--no-unsafe-fixes", help="Count fixes that may change behavior as well.")
@_flag("--diff", help="Show what fixes would change, and change nothing.")
@_flag("--show-fixes", help="List what was mended.")
@_flag("--fix-only", help="Mend, and do not report what is left. Implies --fix.")
@click.option(
    "--output-format",
    type=click.Choice(format_names()),
    envvar="DROPAUDIT_OUTPUT_FORMAT",
    help="How to print findings.  [default: full]",
)
@click.option("-o", "--output-file", metavar="FILE", help="Where to print findings.")
@_flag("--statistics", help="Count findings by rule in place of printing them.")
@_flag("--add-noqa", help="Add a `# noqa` comment for every finding.")
@_flag("--show-files", help="List the files that would be checked, and stop.")
@_flag("--show-settings", help="List the settings in effect, and stop.")
@click.option("--stdin-filename", metavar="NAME", help="The name of the file that - reads.")
@_many("--exclude", metavar="PATTERNS", help="What to leave out, in place of the usual.")
@_many("--extend-exclude", metavar="PATTERNS", help="What else to leave out.")
@_flag("--force-exclude/--no-force-exclude", help="Leave out even what is named in PATHS.")
@_flag("--respect-gitignore/--no-respect-gitignore", help="Leave out what git ignores.")
@click.option("-n", "--no-cache", is_flag=True, envvar="DROPAUDIT_NO_CACHE", help="Use no cache.")
@click.option("--cache-dir", metavar="DIR", envvar="DROPAUDIT_CACHE_DIR", help="Where it is.")
@click.option("--config", metavar="FILE", help="A pyproject.toml or dropaudit.toml to use.")
@_flag("--isolated", help="Use no configuration file.")
@_flag("--preview/--no-preview", help="Report rules that are still being tried.")
@click.option("--baseline", metavar="FILE", help="Report only what is not in this file.")
@click.option("--write-baseline", metavar="FILE", help="Write findings to this file.")
@click.option("-j", "--jobs", type=click.IntRange(1), help="Processes.  [default: processors]")
@click.option("-q", "--quiet", is_flag=True, help="Print findings and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Say what is done; show tracebacks.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="When to use color; NO_COLOR and FORCE_COLOR count.  [default: auto]",
)
@_flag("-e", "--exit-zero", help="Exit with 0 even if something was found.")
@_flag("--exit-non-zero-on-fix", help="Exit with 1 if something was mended.")
@click.pass_context
def scan(ctx: click.Context, /, **given: Any) -> None:
    """Check files, folders and notebooks; the current folder if nothing is named, - for stdin."""
    ctx.meta["dropaudit.verbose"] = given["verbose"]
    from dropaudit.commands.session import run
    from dropaudit.commands.settings import settings

    ctx.exit(run(settings(given)))
