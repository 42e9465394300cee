"""`dropaudit judge`: a saved trace, judged where there is no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dropaudit.commands.failure import Failure

if TYPE_CHECKING:
    from dropaudit.runtime.trace import Trace


@click.command()
@click.argument("file", metavar="TRACE.json")
@click.option(
    "--output-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print it.  [default: text]",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    help="The least severity that gives exit code 1.  [default: error]",
)
@click.pass_context
def judge(ctx: click.Context, file: str, output_format: str, fail_on: str) -> None:
    """Judge a saved trace: what `dropaudit run --json FILE` wrote, - for standard input."""
    from dropaudit.runtime.judge import judge as findings
    from dropaudit.runtime.report import Report

    trace = _trace(file)
    report = Report(trace, findings(trace))
    click.echo(report.to_json() if output_format == "json" else str(report))
    ctx.exit(int(bool(report.failing(fail_on))))


def _trace(file: str) -> Trace:
    from dropaudit.runtime.trace import Trace

    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return Trace.from_json(_unwrapped(data.decode("utf-8-sig")))
    except FileNotFoundError:
        raise Failure(f"no such file or directory: {file}") from None
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise Failure(f"{file} cannot be judged: it is not UTF-8") from None
    except RecursionError:
        raise Failure(f"{file} cannot be judged: it is nested too deeply") from None
    except ValueError as error:
        raise Failure(f"{file} cannot be judged: {error}") from None


def _unwrapped(text: str) -> str:
    """The trace in a report that `Report.to_json` wrote; else the text as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text  # what reads it next says what is wrong
    if isinstance(value, dict) and isinstance(value.get("trace"), dict):
        return json.dumps(value["trace"])
    return text
