"""The README tells the truth: its table, its commands and its numbers are made by the tool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import table, with_outputs, with_table
from dropaudit.catalogue import names
from dropaudit.cli import main as command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
STALE = "run `make readme`"


def test_the_table_is_what_the_rule_files_say() -> None:
    """Code, name, severity, fix and summary of every rule."""
    assert with_table(README) == README, STALE


@pytest.mark.parametrize("code", names())
def test_every_rule_is_in_the_table(code: str) -> None:
    """The twin of the above, which would hold for an empty table as well."""
    assert f"| {code} | [{names()[code]}](dropaudit/rules/" in README


def test_a_changed_table_is_noticed() -> None:
    """The comparison above can fail."""
    changed = README.replace("| code | name |", "| name | code |")
    assert changed != README
    assert with_table(changed) == with_table(README) != changed


def test_the_outputs_are_what_the_tool_prints() -> None:
    """Before and after are no fiction."""
    assert with_outputs(README) == README, STALE
    assert "DRP201" in README.split("## Use\n")[0]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_to_files_of_the_repository(target: str) -> None:
    """A file that is moved takes its links along."""
    assert (ROOT / target).exists()


@pytest.mark.parametrize("flag", sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))))
def test_the_flags_exist(flag: str) -> None:
    """What the README names is an option of a command, or of the pytest plugin."""
    import click

    context = click.Context(command_line)
    commands = (command_line.get_command(context, n) for n in command_line.list_commands(context))
    known = {opt for c in commands if c for p in c.params for opt in (*p.opts, *p.secondary_opts)}
    plugin = (ROOT / "dropaudit" / "pytest_plugin.py").read_text("utf-8")
    known.update(re.findall(r'"(--[a-z-]+)", action', plugin))
    assert flag in known


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\$ make (\w+)", README))))
def test_the_commands_for_a_fresh_machine_exist(target: str) -> None:
    """`make demo` and `make test` are targets of the Makefile."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    """`.ci/run` calls what the README tells a person to call."""
    assert "$ make test" in README
    assert re.search(r"^make test\b", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)


def test_links_of_the_table_follow_the_template() -> None:
    """The site and the README show the same table with other links."""
    assert table("{name}.md").count(".md)") == len(names())
