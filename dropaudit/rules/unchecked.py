"""
A file, or a part of one, that could not be checked.

## What it does

Says that a file could not be read, decoded, parsed or finished, and why. It cannot be switched off
together with other rules: silence means that a file was checked. Exactly `--ignore DRP000` does.

## Why is this bad

A linter that skips a file in silence looks like a linter that found nothing.

## Example

```python
def forward(self, x):
    return F.dropout(x, self.p
```

## Use instead

Mend the file, or exclude it with `exclude` in `[tool.dropaudit]`.

```toml
[tool.dropaudit]
extend-exclude = ["third_party/python2"]
```

## Fix safety

There is no fix.

## Not seen

Files that hold none of the words that rules look for are not parsed, so nothing is said about
their syntax.
"""

from __future__ import annotations

from dropaudit.catalogue import Rule

rule = Rule(
    "DRP000",
    "unchecked",
    __doc__,
)
