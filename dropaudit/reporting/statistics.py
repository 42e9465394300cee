"""How often each rule spoke: what `--statistics` prints instead of the findings."""

from __future__ import annotations

import json
from collections import Counter
from typing import Literal

from dropaudit.reporting import Outcome


def statistics(outcome: Outcome, form: Literal["text", "json"] = "text") -> str:
    """A row for each rule: count, code, `[*]` if all, `[-]` if some can be fixed, name.

    >>> statistics(Outcome((), files_checked=3), "json")
    '[]\\n'
    """
    count = Counter((f.code, f.name) for f in outcome.findings)
    fixable = Counter((f.code, f.name) for f in outcome.findings if outcome.fixable(f))
    rules = sorted(count, key=lambda rule: (-count[rule], rule))
    if form == "json":
        rows = [
            {
                "code": code,
                "name": name,
                "count": count[code, name],
                "fixable": fixable[code, name] == count[code, name],
                "fixable_count": fixable[code, name],
            }
            for code, name in rules
        ]
        return json.dumps(rows, indent=2) + "\n"
    wide = len(str(max(count.values(), default=0)))
    any_fix = bool(fixable)
    text = ""
    for rule in rules:
        some = "-" if fixable[rule] else " "
        star = f"[{'*' if fixable[rule] == count[rule] else some}] " if any_fix else ""
        text += f"{count[rule]:>{wide}}\t{rule[0]}\t{star}{rule[1]}\n"
    return text
