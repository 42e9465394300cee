"""Find dropout misuse in PyTorch source code."""

from dropaudit.findings import Edit, Finding, Location, Severity

__all__ = ["Edit", "Finding", "Location", "Severity"]
__version__ = "0.1.0"
