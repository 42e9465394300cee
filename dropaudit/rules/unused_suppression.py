"""
A suppression comment that suppresses nothing.

## What it does

Reports `# noqa: DRP201`, `# dropaudit: ignore[DRP201]` and `# dropaudit: file-ignore[DRP201]` where
no such finding is left to silence, and codes in them that are no rule. A bare `# noqa` may serve
other tools and is never reported; codes of other tools are left alone.

## Why is this bad

The comment says that something is wrong here and accepted. When the code was mended long ago it
misleads the reader, and it will silence the next mistake on the same line.

## Example

```python
x = F.dropout(x, self.p, self.training)  # dropaudit: ignore[DRP201]
```

## Use instead

Remove the comment, or the code in it that is not needed.

```python
x = F.dropout(x, self.p, self.training)
```

## Fix safety

The fix is safe: it removes the comment, or the unused codes of a comment that has others.

## Not seen

Codes of rules that are not selected, and files that could not be checked (DRP000).
"""

from __future__ import annotations

from dropaudit.catalogue import Rule
from dropaudit.findings import Severity

rule = Rule(
    "DRP001",
    "unused-suppression",
    __doc__,
    severity=Severity.WARNING,
)
