"""The prefilter is sound: with it on, no finding is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropaudit.catalogue import Example, Rule, rules
from dropaudit.findings import Finding
from dropaudit.static import scanner
from dropaudit.static.prefilter import prefilter
from dropaudit.static.record import Options
from tests.programs import findings

ROOT = Path(__file__).parents[2]
CHECKED = [rule for rule in rules() if rule.source_checks]
EXAMPLES = [
    pytest.param(program, id=f"{rule.code}-{n}-{which}")
    for rule in rules()
    for n, example in enumerate(rule.examples)
    for which, program in (("bad", example.code), ("fixed", example.fixed))
    if program
]
FIXTURES = sorted((ROOT / "fixtures").rglob("*.py"))


def found(data: bytes, chosen: list[Rule]) -> list[Finding]:
    """What the rules find, or would if the program agrees, when nothing is left out."""
    reported, claims = scanner._scan("net.py", data, chosen, Options(), frozenset())
    return [*reported, *(claim.finding for claim in claims)]


def lost(data: bytes) -> list[str]:
    """Rules whose own triggers match nowhere in a file in which they find something.

    Stricter than the union that a scan uses: no rule may live on the triggers of another.
    """
    silent = [rule for rule in CHECKED if not prefilter([rule])(data)]
    return sorted({f.code for f in found(data, silent) if f.code != "DRP000"})


@pytest.mark.parametrize("program", EXAMPLES)
def test_no_example_is_lost(program: str) -> None:
    """Every rule on every example of every rule."""
    assert lost(program.encode()) == []


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_finding_in_a_fixture_is_lost(path: Path) -> None:
    """Realistic files."""
    assert lost(path.read_bytes()) == []


@pytest.mark.parametrize(
    ("rule", "example"),
    [(rule, example) for rule in rules() if rule.project_checks for example in rule.examples],
)
def test_a_rule_across_files_matches_where_it_reports(rule: Rule, example: Example) -> None:
    """The file in which a finding lies holds one of the words, whatever the others hold."""
    if any(finding.code == rule.code for finding in findings(example.code, example.others)):
        assert prefilter([rule])(example.code.encode())


VARIATIONS = {
    "a longer alias": [(r"\bF\.", "fun."), (r"functional as F\b", "functional as fun")],
    "another alias": [(r"\bnn\.", "layers."), (r"(torch import nn)\b", r"\1 as layers")],
    "the whole path": [(r"\bF\.", "torch.nn.functional."), (r"(import torch)\.\S+ as F", r"\1")],
    "line breaks after brackets": [(r"\((?=[\w\"'])", "(\n")],
    "line breaks after commas": [(r"(?<=[\w)]), (?=\w+=)", ",\n")],
    "blanks around keywords": [(r"(?<=[(,\s]\w)=(?=\w)", " = ")],
    "blanks before brackets": [(r"(?<=\w)\((?!\))", " (")],
    "line breaks around operators": [(r" ([*/<>]) ", r" \\\n\1 ")],
    "CRLF": [(r"\n", "\r\n")],
    "tabs": [(r"(?m)^( {4})+", lambda m: "\t" * (len(m[0]) // 4))],
    "no blanks around operators": [(r" ([*/<>]) ", r"\1")],
}  # fmt: skip


@pytest.mark.parametrize("changes", VARIATIONS.values(), ids=VARIATIONS)
def test_no_variation_of_an_example_is_lost(changes: list[tuple[str, str]]) -> None:
    """The same programs by other aliases, line breaks and blanks."""
    programs = {str(param.values[0]) for param in EXAMPLES}
    for program in sorted(programs):
        for pattern, replacement in changes:
            program = re.sub(pattern, replacement, program)
        assert lost(program.encode()) == [], program


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([str(p.values[0]) for p in EXAMPLES]), min_size=2, max_size=2),
    st.data(),
)
def test_no_mixture_of_examples_is_lost(pair: list[str], data: st.DataObject) -> None:
    """Two programs in one file, a line of which is missing."""
    lines = "\n".join(pair).splitlines(keepends=True)
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    assert lost("".join(lines).encode()) == []


def test_a_trigger_that_is_too_narrow_would_be_seen() -> None:
    """The twin: a rule with a trigger that its example does not hold."""
    rule = next(r for r in CHECKED if r.code == "DRP401")
    narrow = Rule("DRP996", "narrow", "Narrow.", triggers=("no such word",))
    narrow.source_checks.extend(rule.source_checks)
    program = next(e.code for e in rule.examples if "DRP401" in e.code).encode()
    assert found(program, [narrow])
    assert not prefilter([narrow])(program)
