"""Every example in the catalogue: scanned, fixed, scanned again."""

from __future__ import annotations

import re

import pytest

from dropaudit.catalogue import Example, Rule, rules
from tests.programs import findings, fixed, marked, unmarked

EXAMPLES = [
    pytest.param(rule, example, id=f"{rule.code}-{n}")
    for rule in rules()
    for n, example in enumerate(rule.examples)
]


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_marked_lines_are_reported_and_no_others(rule: Rule, example: Example) -> None:
    """Exactly the marked lines, whatever rule might speak."""
    found = findings(example.code, example.others)
    assert [(f.where.line, f.code) for f in found] == marked(example.code)


@pytest.mark.parametrize(("rule", "example"), [e for e in EXAMPLES if e.values[1].fixed])  # type: ignore[union-attr]
def test_the_fix_gives_the_fixed_program(rule: Rule, example: Example) -> None:
    """All fixes together, to the end, give `fixed`."""
    assert fixed(unmarked(example.code), example.others) == example.fixed


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_a_second_fix_changes_nothing(rule: Rule, example: Example) -> None:
    """A fix converges, keeps the syntax, and leaves nothing it could mend."""
    once = fixed(unmarked(example.code), example.others)
    compile(once, "example.py", "exec")
    assert fixed(once, example.others) == once
    assert not [f for f in findings(once, example.others) if f.fix]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_a_rule_shows_what_it_reports_and_what_it_spares(rule: Rule) -> None:
    """Each rule with a check over code has an example with its mark and one without any."""
    if rule.source_checks or rule.project_checks:
        assert any(re.search(rf"# {rule.code}\b", e.code) for e in rule.examples)
        assert any(not marked(e.code) for e in rule.examples)
