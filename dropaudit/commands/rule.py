"""`dropaudit rule`: the page of a rule."""

from __future__ import annotations

import json
from typing import Any

import click

from dropaudit.catalogue import Rule, names
from dropaudit.commands.failure import Failure
from dropaudit.selection import UnknownRule, is_exact, selectors


@click.command()
@click.argument("code", metavar="[CODE|NAME]", required=False)
@click.option("--all", "every", is_flag=True, help="Explain all rules.")
@click.option(
    "--output-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print it.  [default: text]",
)
def rule(code: str | None, every: bool, output_format: str) -> None:
    """Explain a rule: what it reports, why, and what to write instead."""
    if every == (code is not None):
        raise click.UsageError("give either the code or name of a rule, or --all")
    from dropaudit.catalogue import rules

    chosen = [one for one in rules() if every or one.code == _code(code or "")]
    if output_format == "json":
        value: Any = [_value(one) for one in chosen]
        click.echo(json.dumps(value if every else value[0], indent=2))
    else:
        click.echo("\n\n".join(_page(one) for one in chosen))


def _code(text: str) -> str:
    try:
        (selector,) = selectors([text], names())
    except UnknownRule as error:
        raise Failure(str(error)) from error
    if not is_exact(selector):
        raise Failure(f"{text} is a group of rules: {', '.join(selector.codes)}")
    return selector.codes[0]


def _page(one: Rule) -> str:
    preview = ", preview: only reported with --preview" if one.preview else ""
    ways = {
        "source": "reading code",
        "program": "reading across files",
        "trace": "watching a model",
    }
    found = " and by ".join(ways[check] for check in one.checks)
    by = f" Found by {found}." if found else ""
    facts = f"Severity: {one.severity.value}{preview}.{by} {_fix(one)}"
    return f"# {one.name} ({one.code})\n\n{facts}\n\n{one.doc.strip()}"


def _fix(one: Rule) -> str:
    return "Fix is sometimes available." if _fixable(one) else "There is no fix."


def _fixable(one: Rule) -> bool:
    return one.code == "DRP001" or any(example.fixed is not None for example in one.examples)


def _value(one: Rule) -> dict[str, Any]:
    return {
        "code": one.code,
        "name": one.name,
        "severity": one.severity.value,
        "summary": one.summary,
        "help": one.help,
        "fixable": _fixable(one),
        "preview": one.preview,
        "checks": list(one.checks),
        "explanation": one.doc.strip(),
    }
