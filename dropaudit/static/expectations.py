"""Whether a program waits for the trouble that a line makes."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.source import Source

_TEST_CLASS = re.compile(r"^_?Tests?([A-Z_]|$)|TestCase$|Tests?$")
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


def in_test(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` stands in a test function or a test case, whatever the file is called."""
    for around in source.ancestors(node):
        if isinstance(around, cst.FunctionDef) and around.name.value.startswith("test"):
            return True
        if isinstance(around, cst.ClassDef) and _TEST_CLASS.search(around.name.value):
            return not source.facts(around).is_module
    return False
