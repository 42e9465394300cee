"""Whether a program waits for the trouble that a line makes."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.source import Source

_EXPECTED = re.compile(r"(^|\.)(warns|raises|assert_?[wW]arns\w*|assert_?[rR]aises\w*|suppress)$")


def in_expected_trouble(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` stands in a `with pytest.raises(...)`, `pytest.warns` or one of unittest."""
    for around in source.ancestors(node):
        if isinstance(around, cst.With):
            for item in around.items:
                if isinstance(item.item, cst.Call):
                    func = item.item.func
                    if _EXPECTED.search(source.name_of(func) or source.text(func)):
                        return True
    return False
