"""SARIF 2.1.0 as GitHub code scanning takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dropaudit import __version__
from dropaudit.catalogue import Page, pages
from dropaudit.findings import Finding, Location, Severity
from dropaudit.reporting import Outcome
from dropaudit.reporting.places import digest, message, ordinals, region, relative, repository

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
_ORDER = tuple(_LEVELS)
_LONGEST = 1024  # characters of a description
_TAKEN, _SHOWN = 25_000, 5_000  # results of a run that GitHub takes, and shows


def render(outcome: Outcome) -> str:
    """One run; the gravest findings where there are more than GitHub takes."""
    start = repository(outcome)
    marked = list(zip(outcome.findings, ordinals(outcome), strict=True))
    if len(marked) > _TAKEN:
        marked = sorted(marked, key=lambda pair: _ORDER.index(pair[0].severity))[:_TAKEN]
        marked.sort(key=lambda pair: pair[0].sort_key)
    rules = _pages([finding for finding, _ in marked])
    index = {code: at for at, code in enumerate(rules)}
    run = {
        "tool": {
            "driver": {
                "name": "dropaudit",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(page) for page in rules.values()],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"%SRCROOT%": {"uri": start.as_uri().rstrip("/") + "/"}},
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": _notifications(len(outcome.findings)),
            }
        ],
        "results": [
            _result(finding, *mark, index[finding.code], outcome, start) for finding, mark in marked
        ],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _pages(findings: list[Finding]) -> dict[str, Page]:
    """The pages of the codes that are found, by code; a bare one where a code has no rule file."""
    known = pages()
    by_code = {f.code: f for f in findings}
    return {
        code: known.get(code) or Page(code, f.name, f.severity, f"{f.name.replace('-', ' ')}.")
        for code, f in sorted(by_code.items())
    }


def _rule(page: Page) -> dict[str, Any]:
    title, _, _ = page.doc.strip().partition("\n")
    return {
        "id": page.code,
        "name": page.name,
        "shortDescription": {"text": _shortened(page.summary)},
        "fullDescription": {"text": _shortened(_what_it_does(page) or page.summary)},
        "help": {"text": page.doc.strip() or title, "markdown": page.doc.strip() or title},
        "defaultConfiguration": {"level": _LEVELS[page.severity]},
        "properties": {
            "tags": ["dropout", "pytorch"],
            "problem.severity": {"info": "recommendation"}.get(page.severity, page.severity.value),
        },
    }


def _what_it_does(page: Page) -> str:
    _, _, rest = page.doc.partition("\n## What it does\n")
    return " ".join(rest.strip().split("\n\n")[0].split())


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _result(
    finding: Finding, text: str, ordinal: int, rule: int, outcome: Outcome, start: Path
) -> dict[str, Any]:
    artifact = _artifact(finding.where.path, outcome, start)
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": artifact, "region": _region(region(finding))}
    }
    if finding.where.cell is not None:
        name = f"cell {finding.where.cell}"
        location["logicalLocations"] = [{"name": name, "fullyQualifiedName": str(finding.where)}]
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": _LEVELS[finding.severity],
        "message": {"text": message(finding)},
        "locations": [location],
        "partialFingerprints": {"primaryLocationLineHash": f"{digest(text)}:{ordinal}"},
    }
    fix = _fix(finding, artifact, outcome)
    if fix is not None:
        result["fixes"] = [fix]
    return result


def _artifact(path: str, outcome: Outcome, start: Path) -> dict[str, str]:
    inside = relative(path, outcome, start)
    if inside is None:
        return {"uri": (outcome.root / path).resolve().as_uri()}
    return {"uri": quote(inside, errors="surrogateescape"), "uriBaseId": "%SRCROOT%"}


def _region(where: Location) -> dict[str, int]:
    return {
        "startLine": where.line,
        "startColumn": where.column,
        "endLine": where.end_line,
        "endColumn": where.end_column,
    }


def _fix(finding: Finding, artifact: dict[str, str], outcome: Outcome) -> dict[str, Any] | None:
    """The edits; none for a notebook, whose lines are not those of its file."""
    if finding.fix is None or finding.where.cell is not None:
        return None
    replacements = []
    for edit in finding.fix.edits:
        start = outcome.place(finding.where.path, edit.start)
        stop = outcome.place(finding.where.path, edit.stop)
        if start is None or stop is None:
            return None
        where = Location(start.path, start.line, start.column, stop.line, stop.column)
        inserted = {"insertedContent": {"text": edit.text}} if edit.text else {}
        replacements.append({"deletedRegion": _region(where), **inserted})
    return {
        "description": {"text": finding.fix.title},
        "artifactChanges": [{"artifactLocation": artifact, "replacements": replacements}],
    }


def _notifications(found: int) -> list[dict[str, Any]]:
    """What GitHub will not show, said in the run."""
    if found <= _SHOWN:
        return []
    left_out = f" and takes {_TAKEN}, so {found - _TAKEN} are left out" if found > _TAKEN else ""
    text = f"{found} findings: GitHub shows {_SHOWN} of a run{left_out}."
    return [{"level": "warning", "message": {"text": text}}]
