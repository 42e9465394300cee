"""`# noqa` comments for findings, on the lines where they count: what `--add-noqa` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dropaudit.findings import Edit, Finding
from dropaudit.static.comments import Comments
from dropaudit.static.suppressions import noqa_codes

_NOT_SILENCED = ("DRP000", "DRP001")


def add(path: str, data: bytes, findings: Iterable[Finding]) -> tuple[bytes, int]:
    """The file with a comment on the line of each finding, and how many codes were added.

    A comment that has codes is extended; one that silences everything is not there, or the
    finding would not be.
    """
    if path.endswith(".ipynb"):
        from dropaudit.static.notebooks import Notebook

        notebook = Notebook(data)
        count = notebook.source.count(b"\n") + 1
        lines = {notebook.locate(line): line for line in range(count, 0, -1)}
        edits, added = _edits(notebook.source, findings, lambda f: lines.get(_place(f)))
        return notebook.edited(edits), added
    from dropaudit.static.fixer import edited

    edits, added = _edits(data, findings, lambda f: f.where.line)
    return edited(data, edits), added


def _place(finding: Finding) -> tuple[int, int]:
    return finding.where.cell or 1, finding.where.line


def _edits(
    source: bytes, findings: Iterable[Finding], line_of: Callable[[Finding], int | None]
) -> tuple[list[Edit], int]:
    comments = Comments(source)
    wanted: dict[int, list[str]] = {}
    for finding in findings:
        line = line_of(finding)
        if line is None or finding.code in _NOT_SILENCED:
            continue
        codes = wanted.setdefault(comments.statement_lines(line)[1], [])
        if finding.code not in codes:
            codes.append(finding.code)
    by_line = {comments.line(comment.start): comment for comment in comments}
    edits = []
    for line, codes in wanted.items():
        codes.sort()
        comment = by_line.get(line)
        span = noqa_codes(comment.text) if comment is not None else None
        if comment is not None and span is not None:
            at = comments.byte(comment.start + span[1])
            edits.append(Edit(at, at, f", {', '.join(codes)}"))
            continue
        start, stop, _ = comments.line_span(line)
        end = start + len(comments.text[start:stop].rstrip())
        edits.append(Edit(comments.byte(end), comments.byte(stop), f"  # noqa: {', '.join(codes)}"))
    return edits, sum(map(len, wanted.values()))
