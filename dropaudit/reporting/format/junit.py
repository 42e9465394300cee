"""A JUnit report: one test suite a file, one failed test a finding."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import PurePath
from xml.etree import ElementTree as xml

from dropaudit.findings import Finding
from dropaudit.reporting import Outcome
from dropaudit.reporting.places import message

# What XML 1.0 cannot hold, not even as a reference.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(outcome: Outcome) -> str:
    """The report; without findings it holds one test that passed."""
    count = str(len(outcome.findings) or 1)
    failures = str(len(outcome.findings))
    counts = {"tests": count, "skipped": "0", "failures": failures, "errors": "0"}
    root = xml.Element("testsuites", {"name": "dropaudit", **counts})
    if not outcome.findings:
        suite = xml.SubElement(root, "testsuite", {"name": "dropaudit", **counts})
        xml.SubElement(suite, "testcase", name="No findings", classname="dropaudit")
    for path, group in groupby(outcome.findings, key=lambda f: f.where.path):
        _suite(root, str(outcome.root / path), list(group))
    xml.indent(root, "    ")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + xml.tostring(root, encoding="unicode") + "\n"


def _suite(root: xml.Element, path: str, findings: list[Finding]) -> None:
    many = str(len(findings))
    suite = xml.SubElement(
        root,
        "testsuite",
        name=_legal(path),
        tests=many,
        skipped="0",
        errors="0",
        failures=many,
        package="org.dropaudit",
    )
    for finding in findings:
        where = finding.where
        case = xml.SubElement(
            suite,
            "testcase",
            name=f"org.dropaudit.{finding.code}",
            classname=_legal(str(PurePath(path).with_suffix(""))),
            file=_legal(path),
            line=str(where.line),
            column=str(where.column),
        )
        properties = xml.SubElement(case, "properties")
        xml.SubElement(properties, "property", name="severity", value=finding.severity.value)
        failure = xml.SubElement(case, "failure", message=_legal(message(finding)))
        cell = "" if where.cell is None else f"cell {where.cell}, "
        text = f"{cell}line {where.line}, col {where.column}, {finding.message}"
        failure.text = _legal(f"{text}\nhelp: {finding.help}" if finding.help else text)


def _legal(text: str) -> str:
    r"""`text` with what XML cannot hold written as an escape.

    >>> _legal("a\x1bb\ud800")
    'a\\x1bb\\ud800'
    """
    return _ILLEGAL.sub(lambda match: ascii(match[0])[1:-1], text)
