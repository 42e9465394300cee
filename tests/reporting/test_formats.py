"""Every output format: what it says, in which form, whatever the findings hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema  # type: ignore[import-untyped]
import pytest

from dropaudit import reporting
from dropaudit.findings import Finding, Location, Severity
from dropaudit.reporting import Outcome, formats, names, render
from tests.reporting.samples import (
    FINDINGS,
    HOSTILE,
    IN_CELL,
    LINES,
    NET,
    ONE_LINE,
    ROOT,
    outcome,
)

FORMATS = Path(reporting.__file__).parent / "format"
SCHEMA = json.loads(
    (Path(__file__).parents[1] / "data" / "sarif-schema-2.1.0.json").read_text("utf-8")
)

EXPECTED = {
    "concise": """\
nb.ipynb:cell 1:2:1: DRP401 thrown away
src/net.py:4:20: DRP201 [*] drops in eval too: 50% of <x>, always
src/net.py:5:12: DRP205 spans lines
Found 2 errors and 1 note.
[*] 1 fixable with the `--fix` option \
(1 hidden fix can be enabled with the `--unsafe-fixes` option).
""",
    "grouped": """\
nb.ipynb:
  cell 1:2:1 DRP401 thrown away

src/net.py:
  4:20 DRP201 [*] drops in eval too: 50% of <x>, always
  5:12 DRP205 spans lines

Found 2 errors and 1 note.
[*] 1 fixable with the `--fix` option \
(1 hidden fix can be enabled with the `--unsafe-fixes` option).
""",
    "full": """\
nb.ipynb:cell 1:2:1: DRP401 thrown away
  |
1 | !ls
2 | F.dropout(x)
  | ^^^^^^^^^^^^ DRP401
  |
  = help: Pass `training=self.training`.

src/net.py:4:20: DRP201 [*] drops in eval too: 50% of <x>, always
  |
3 | def f(x):
4 |     label = "日本"; y = F.dropout(x)
  |                         ^^^^^^^^^^^^ DRP201
5 |     return F.dropout(
6 |         y,
  |
  = help: Pass `training=self.training`.

src/net.py:5:12: DRP205 spans lines
  |
3 |   def f(x):
4 |       label = "日本"; y = F.dropout(x)
5 |       return F.dropout(
  |  ____________^
6 | |         y,
7 | |     )
  | |_____^ DRP205
  |

Found 2 errors and 1 note.
[*] 1 fixable with the `--fix` option \
(1 hidden fix can be enabled with the `--unsafe-fixes` option).
""",
    "github": f"""\
::notice title=dropaudit (DRP401),file={ROOT}/nb.ipynb,line=1,col=1,endLine=1,endColumn=1\
::nb.ipynb:cell 1:2:1: DRP401 thrown away%0A  help: Pass `training=self.training`.
::error title=dropaudit (DRP201),file={ROOT}/src/net.py,line=4,col=20,endLine=4,endColumn=32\
::src/net.py:4:20: DRP201 drops in eval too: 50%25 of <x>, always\
%0A  help: Pass `training=self.training`.
::warning title=dropaudit (DRP205),file={ROOT}/src/net.py,line=5,col=12,endLine=7,endColumn=6\
::src/net.py:5:12: DRP205 spans lines
""",
}


def test_the_formats_are_the_files() -> None:
    """No list is kept by hand, and each has `render`."""
    files = {f.stem.replace("_", "-") for f in FORMATS.glob("[a-z]*.py")}
    assert set(names()) == set(formats()) == files
    assert callable(reporting.formats)  # no submodule has taken the name
    for name in ("full", "concise", "json", "json-lines", "github", "gitlab", "sarif"):
        assert name in files
    assert {"junit", "rdjson", "grouped"} <= files


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_texts_for_people_and_commands_are_exactly_these(name: str) -> None:
    """Headers, frames, carets under wide characters and tabs, counts, escapes."""
    assert render(name, outcome(*FINDINGS)) == EXPECTED[name]


@pytest.mark.parametrize("name", names())
def test_every_format_takes_any_text(name: str) -> None:
    """No control character or half of a pair gets through, and the output can be encoded."""
    text = render(name, outcome(HOSTILE))
    text.encode("utf-8")
    assert not set(text) & set(map(chr, [*range(9), 11, 12, *range(14, 32), 127])) or name in (
        "github",
    )
    assert text.endswith("\n")


@pytest.mark.parametrize("name", names())
def test_every_format_says_nothing_of_nothing(name: str) -> None:
    """No findings: still a whole document."""
    text = render(name, outcome())
    if name in ("full", "concise", "grouped"):
        assert text == "All checks passed!\n"
    elif name in ("json", "gitlab"):
        assert json.loads(text) == []
    elif name in ("json-lines", "github"):
        assert text == ""


@pytest.mark.parametrize("name", names())
def test_every_format_does_without_the_source(name: str) -> None:
    """A file that is gone has no frame and no edits, and is reported all the same."""
    text = render(name, Outcome(FINDINGS, 3, root=ROOT))
    assert "DRP201" in text


def test_json_has_the_keys_that_ruff_gives() -> None:
    """All of them, with `name` and `severity`."""
    found = json.loads(render("json", outcome(*FINDINGS)))
    assert found[1] == {
        "cell": None,
        "code": "DRP201",
        "end_location": {"column": 32, "row": 4},
        "filename": str(ROOT / "src/net.py"),
        "fix": {
            "applicability": "safe",
            "edits": [
                {
                    "content": ", z",
                    "end_location": {"column": 31, "row": 4},
                    "location": {"column": 31, "row": 4},
                }
            ],
            "message": "Say the mode",
        },
        "location": {"column": 20, "row": 4},
        "message": "drops in eval too: 50% of <x>, always",
        "name": "functional-dropout-ignoring-mode",
        "noqa_row": 4,
        "severity": "error",
        "url": None,
    }
    assert (found[0]["cell"], found[0]["fix"], found[0]["severity"]) == (1, None, "info")
    assert found[2]["fix"]["applicability"] == "unsafe"


def test_json_lines_are_the_items_of_json() -> None:
    """One object a line."""
    lines = render("json-lines", outcome(*FINDINGS)).splitlines()
    assert [*map(json.loads, lines)] == json.loads(render("json", outcome(*FINDINGS)))


def test_gitlab_entries_have_what_gitlab_needs() -> None:
    """Paths from the root, known severities, fingerprints that differ."""
    found = json.loads(render("gitlab", outcome(*FINDINGS, *FINDINGS)))
    assert len({entry["fingerprint"] for entry in found}) == 6
    assert [entry["severity"] for entry in found[:3]] == ["info", "major", "minor"]
    assert found[1]["location"] == {
        "path": "src/net.py",
        "positions": {"begin": {"line": 4, "column": 20}, "end": {"line": 4, "column": 32}},
    }


@pytest.mark.parametrize(
    ("name", "prints"),
    [
        ("gitlab", lambda text: [e["fingerprint"] for e in json.loads(text)]),
        (
            "sarif",
            lambda t: [r["partialFingerprints"] for r in json.loads(t)["runs"][0]["results"]],
        ),
    ],
)
def test_fingerprints_do_not_move_with_the_lines(name: str, prints: Any) -> None:
    """Lines added above and other indentation change nothing; two alike differ."""
    found = []
    for head, indent in (("", ""), ("\n\n# new\n", "    ")):
        text = f"{head}{indent}F.dropout(x)\n{indent}F.dropout(x)\n"
        lines = text.splitlines()
        first = head.count("\n") + 1
        where = [Location("net.py", line, 1, line, 5) for line in (first, first + 1)]
        findings = tuple(Finding("DRP201", "n", Severity.ERROR, w, "m") for w in where)
        given = Outcome(findings, 1, lines=lambda _, lines=lines: lines, root=ROOT)
        found.append(prints(render(name, given)))
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_junit_is_well_formed_and_counts() -> None:
    """One suite a file, one failed case a finding, texts whole."""
    root = ElementTree.fromstring(render("junit", outcome(*FINDINGS, HOSTILE)))
    assert root.attrib["failures"] == root.attrib["tests"] == "4"
    assert [suite.attrib["tests"] for suite in root] == ["1", "2", "1"]
    failures = [*root.iter("failure")]
    assert failures[1].attrib["message"] == ONE_LINE.message
    assert failures[0].text == (
        "cell 1, line 2, col 1, thrown away\nhelp: Pass `training=self.training`."
    )
    assert "\\x1b" in (failures[3].text or "")


def test_junit_of_no_findings_holds_a_test_that_passed() -> None:
    """CI systems take an empty report for a missing one."""
    root = ElementTree.fromstring(render("junit", outcome()))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("1", "0")
    assert len([*root.iter("testcase")]) == 1


def test_rdjson_columns_count_bytes_and_a_fix_is_one_suggestion() -> None:
    """As reviewdog's schema has it."""
    found = json.loads(render("rdjson", outcome(*FINDINGS)))
    assert found["source"] == {"name": "dropaudit"}
    one = found["diagnostics"][1]
    before = NET.splitlines()[3].split("F.dropout")[0]
    assert one["location"] == {
        "path": "src/net.py",
        "range": {
            "start": {"line": 4, "column": len(before.encode()) + 1},
            "end": {"line": 4, "column": len(before.encode()) + 13},
        },
    }
    assert [d["severity"] for d in found["diagnostics"]] == ["INFO", "ERROR", "WARNING"]
    assert one["suggestions"][0]["text"] == ", z"
    assert one["code"] == {"value": "DRP201"}


def test_github_says_when_it_will_not_show_all() -> None:
    """Ten annotations of a kind are shown; the log has all and says so."""
    text = render("github", outcome(*[ONE_LINE] * 11, *[LINES] * 10))
    assert text.splitlines()[-1] == (
        "dropaudit: GitHub shows 10 of 11 annotations of kind error for a step; "
        "all are in this log."
    )
    assert text.count("::warning ") == 10


def test_github_properties_are_escaped() -> None:
    """A colon, comma or new line in a path does not end the property."""
    assert "evil\x1b[31m%2C%3A%25\\udcff%0A.py" in render("github", outcome(HOSTILE))


@pytest.mark.parametrize(
    "findings",
    [(), FINDINGS, (HOSTILE,), (*FINDINGS, *FINDINGS)],
    ids=["none", "all", "evil", "twice"],
)
def test_sarif_is_valid(findings: tuple[Finding, ...]) -> None:
    """Against the schema that OASIS publishes."""
    jsonschema.Draft4Validator(SCHEMA).validate(json.loads(render("sarif", outcome(*findings))))


def test_the_schema_can_refuse() -> None:
    """A result without a message does not pass."""
    document = json.loads(render("sarif", outcome(*FINDINGS)))
    del document["runs"][0]["results"][0]["message"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate(document)


def test_sarif_results_are_what_code_scanning_reads() -> None:
    """Relative URIs, all four fields of a region, levels, rules by index, fixes."""
    run = json.loads(render("sarif", outcome(*FINDINGS)))["runs"][0]
    cell, one, lines = run["results"]
    place = one["locations"][0]["physicalLocation"]
    assert place == {
        "artifactLocation": {"uri": "src/net.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 4, "startColumn": 20, "endLine": 4, "endColumn": 32},
    }
    assert [r["level"] for r in run["results"]] == ["note", "error", "warning"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    assert cell["message"]["text"] == "cell 1, line 2: thrown away"
    assert cell["locations"][0]["logicalLocations"][0]["name"] == "cell 1"
    (replacement,) = one["fixes"][0]["artifactChanges"][0]["replacements"]
    assert replacement["insertedContent"] == {"text": ", z"}
    assert "fixes" in lines and "fixes" not in cell


def test_sarif_rules_carry_their_pages() -> None:
    """Help as text and markdown, descriptions that GitHub does not cut off."""
    where = Location("src/net.py", 4, 1, 4, 2)
    known = Finding("DRP101", "unscaled-mask", Severity.ERROR, where, "m")
    (rule,) = json.loads(render("sarif", outcome(known)))["runs"][0]["tool"]["driver"]["rules"]
    assert "## Why is this bad" in rule["help"]["markdown"]
    assert rule["help"]["text"]
    assert 0 < len(rule["shortDescription"]["text"]) <= 1024
    assert 0 < len(rule["fullDescription"]["text"]) <= 1024


def test_sarif_keeps_the_limits_of_github() -> None:
    """25,000 results, the gravest; what is left out is said."""
    run = json.loads(render("sarif", outcome(*[IN_CELL] * 20_000, *[ONE_LINE] * 10_000)))["runs"][0]
    levels = [r["level"] for r in run["results"]]
    assert (levels.count("error"), levels.count("note")) == (10_000, 15_000)
    (notification,) = run["invocations"][0]["toolExecutionNotifications"]
    assert notification["message"]["text"] == (
        "30000 findings: GitHub shows 5000 of a run and takes 25000, so 5000 are left out."
    )


def test_paths_start_at_the_repository(tmp_path: Path) -> None:
    """A scan started below the root of the repository gives the paths that services know."""
    (tmp_path / ".git").mkdir()
    root = tmp_path / "python"
    run = json.loads(render("sarif", outcome(ONE_LINE, root=root)))["runs"][0]
    artifact = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact["uri"] == "python/src/net.py"
    assert run["originalUriBaseIds"]["%SRCROOT%"]["uri"] == f"{tmp_path.as_uri()}/"
    (entry,) = json.loads(render("gitlab", outcome(ONE_LINE, root=root)))
    assert entry["location"]["path"] == "python/src/net.py"


@pytest.mark.parametrize("module", ["libcst", "torch", "click", "rich"])
def test_reporting_imports_nothing_heavy(module: str) -> None:
    """In a fresh process, every format rendered."""
    program = f"""
import sys
from dropaudit.reporting import Outcome, names, render
from tests.reporting.samples import FINDINGS, outcome
for name in names():
    render(name, outcome(*FINDINGS))
sys.exit({module!r} in sys.modules)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
