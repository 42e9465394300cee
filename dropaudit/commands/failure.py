"""How a command ends when it cannot do what it was asked to."""

from __future__ import annotations

import click


class Failure(click.ClickException):
    """A wrong flag, setting or path: one sentence on standard error, exit code 2."""

    exit_code = 2


def warn(sentence: str) -> None:
    """Say something on standard error that does not stop the command."""
    click.echo(f"warning: {sentence}", err=True)
