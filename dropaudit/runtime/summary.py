"""The last words of a test run under audit. A plugin of pytest that does not import pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


class Summary:
    """What all tests together have shown. `asked` has it printed even if that is nothing."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked
        self.tests: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what came with the report of a test."""
        seen = getattr(report, "dropaudit", None)
        if seen is not None:
            self.tests[report.nodeid] = seen

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print it, if there is anything to say."""
        if not self.tests and not self.asked:
            return
        terminalreporter.section("dropout audit")
        for line in self.lines():
            terminalreporter.line(line)

    def lines(self) -> Iterator[str]:
        """Counts, then each code with the places where it was found."""
        from dropaudit.runtime.table import many

        sites = {site for seen in self.tests.values() for site in seen["sites"]}
        if not sites:
            yield "No dropout was observed: nothing was checked."
        else:
            active = sum(bool(seen["sites"]) for seen in self.tests.values())
            yield f"{many(len(sites), 'site')} of dropout seen in {many(active, 'test')}"
        codes: dict[str, dict[str, list[str]]] = {}
        for nodeid, seen in self.tests.items():
            for code, name, severity, where in seen["findings"]:
                places = codes.setdefault(f"{code} {name} ({severity})", {})
                places.setdefault(where, []).append(nodeid)
        if sites and not codes:
            yield "nothing was found"
        for code, places in sorted(codes.items()):
            tests = {test for nodeids in places.values() for test in nodeids}
            yield f"{code}: {many(len(places), 'place')}, {many(len(tests), 'test')}"
            for where, nodeids in sorted(places.items()):
                more = f" and {len(nodeids) - 1} more" if len(nodeids) > 1 else ""
                yield f"    {where}  {nodeids[0]}{more}"
