"""The command line, one module a command. Heavy imports wait for their turn."""

from __future__ import annotations

from typing import Any

import click

from dropaudit import __version__
from dropaudit.commands.failure import Failure
from dropaudit.commands.judge import judge
from dropaudit.commands.rule import rule
from dropaudit.commands.run import run
from dropaudit.commands.scan import scan


class _Commands(click.Group):
    """Turns what goes wrong inside into one sentence and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except Exception as error:
            if ctx.meta.get("dropaudit.verbose"):
                import traceback

                traceback.print_exception(error)
            why = " ".join(f"{type(error).__name__}: {error}".split())
            raise Failure(
                f"dropaudit failed ({why}); run again with -v and please report this"
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="dropaudit %(version)s")
def main() -> None:
    """Find dropout misuse in PyTorch code and in live models."""


main.add_command(scan)
main.add_command(rule)
main.add_command(run)
main.add_command(judge)
