"""The closing lines of the formats that people read, worded as ruff words them."""

from __future__ import annotations

from collections import Counter

from dropaudit.findings import Finding, Severity
from dropaudit.reporting import Outcome
from dropaudit.reporting.terminal import printable


def footer(outcome: Outcome) -> str:
    """How many findings there are, how many were fixed, how many more could be."""
    text = _fixes(outcome) if outcome.show_fixes and outcome.fixed else ""
    if not outcome.findings and not outcome.fixed:
        return text + "All checks passed!\n"
    found = counted((*outcome.findings, *outcome.fixed))
    if outcome.fixed:
        fixed, left = len(outcome.fixed), len(outcome.findings)
        text += f"Found {found} ({fixed} fixed, {left} remaining).\n"
    else:
        text += f"Found {found}.\n"
    return text + _fixable(outcome)


def counted(findings: tuple[Finding, ...]) -> str:
    """`3 errors`, `1 note`, `3 errors and 1 note`: notes are what alone leaves the exit code 0."""
    notes = sum(f.severity is Severity.INFO for f in findings)
    errors = len(findings) - notes
    parts = [_many(errors, "error")] if errors else []
    parts += [_many(notes, "note")] if notes else []
    return " and ".join(parts)


def _fixable(outcome: Outcome) -> str:
    ready = sum(map(outcome.fixable, outcome.findings))
    hidden = sum(f.fix is not None for f in outcome.findings) - ready
    more = (
        f"{hidden} hidden {'fix' if hidden == 1 else 'fixes'} can be enabled with the "
        f"`--unsafe-fixes` option"
    )
    if ready and hidden:
        return f"[*] {ready} fixable with the `--fix` option ({more}).\n"
    if ready:
        return f"[*] {ready} fixable with the `--fix` option.\n"
    return f"No fixes available ({more}).\n" if hidden else ""


def _fixes(outcome: Outcome) -> str:
    by_path: dict[str, Counter[tuple[str, str]]] = {}
    for finding in outcome.fixed:
        by_path.setdefault(finding.where.path, Counter())[finding.code, finding.name] += 1
    rows = [f"\nFixed {counted(outcome.fixed)}:"]
    for path, counts in sorted(by_path.items()):
        rows.append(f"- {printable(path)}:")
        width = len(str(max(counts.values())))
        for (code, name), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            rows.append(f"    {count:>{width}} × {code} ({name})")  # noqa: RUF001 (as ruff prints)
    return "\n".join(rows) + "\n\n"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
