"""The site: a page for every rule, made from its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import options, page, table
from dropaudit.catalogue import Rule, rules
from dropaudit.config import keys

HEADINGS = [
    "What it does",
    "Why is this bad",
    "Example",
    "Use instead",
    "Fix safety",
    "Not seen",
    "References",
]
EVERY_RULE = pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)


@EVERY_RULE
def test_a_page_has_the_fixed_headings(rule: Rule) -> None:
    """In this order; only the references may be missing."""
    found = re.findall(r"^## (.+)$", rule.doc, re.MULTILINE)
    assert found in (HEADINGS, HEADINGS[:-1])


@EVERY_RULE
def test_a_page_starts_with_one_sentence(rule: Rule) -> None:
    """The summary stands in tables and in SARIF: a sentence that fits there."""
    assert rule.summary.endswith(".")
    assert len(rule.summary) <= 120
    assert not rule.summary.startswith("#")


@EVERY_RULE
def test_the_help_is_a_sentence(rule: Rule) -> None:
    """It is printed below every finding, so it holds no code block and no list."""
    assert rule.help
    assert "```" not in rule.help
    assert not rule.help.startswith(("-", "*", "#"))


@EVERY_RULE
def test_a_page_closes_its_code_blocks(rule: Rule) -> None:
    """An open fence would swallow the rest of the page."""
    assert rule.doc.count("```") % 2 == 0


@EVERY_RULE
def test_a_rule_has_a_page_and_a_row(rule: Rule) -> None:
    """Page and row name the code; the page shows the programs."""
    written = page(rule)
    assert written.startswith(f"# {rule.name} ({rule.code})\n")
    assert all(example.code.rstrip() in written for example in rule.examples)
    assert f"| {rule.code} | " in table("{name}.md")


@pytest.mark.parametrize(
    ("command", "flag"),
    [("scan", "--select"), ("rule", "--all"), ("run", "--every"), ("judge", "--fail-on")],
)
def test_the_options_of_a_command_are_listed(command: str, flag: str) -> None:
    """The reference is made from the command line itself."""
    assert f"{flag}" in options(command)


def test_the_page_on_configuration_has_every_key_and_no_other() -> None:
    """The reference of the keys is what `config.py` reads."""
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(keys())
