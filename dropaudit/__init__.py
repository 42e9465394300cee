"""Find dropout misuse in PyTorch source code and in live models."""

from dropaudit.findings import Edit, Finding, Fix, Location, Severity

__all__ = ["Edit", "Finding", "Fix", "Location", "Severity"]
__version__ = "0.1.0"
