"""One JSON object a line, with the keys of the `json` format."""

from __future__ import annotations

import json

from dropaudit.reporting import Outcome
from dropaudit.reporting.format.json import plain


def render(outcome: Outcome) -> str:
    """A line for each finding; nothing when there are none."""
    return "".join(f"{json.dumps(plain(f, outcome))}\n" for f in outcome.findings)
