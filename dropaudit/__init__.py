"""Find dropout misuse in PyTorch source code and in live models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropaudit.findings import Edit, Finding, Fix, Location, Severity

if TYPE_CHECKING:
    from dropaudit.runtime.auditor import audit
    from dropaudit.runtime.comparison import compare_modes
    from dropaudit.runtime.conformance import check_dropout
    from dropaudit.runtime.declared import site
    from dropaudit.runtime.failure import (
        DropoutAuditError,
        DropoutAuditWarning,
        MissingRanksError,
    )
    from dropaudit.runtime.judge import judge
    from dropaudit.runtime.report import Report
    from dropaudit.runtime.trace import Trace

__all__ = [
    "DropoutAuditError",
    "DropoutAuditWarning",
    "Edit",
    "Finding",
    "Fix",
    "Location",
    "MissingRanksError",
    "Report",
    "Severity",
    "Trace",
    "audit",
    "check_dropout",
    "compare_modes",
    "judge",
    "site",
]
__version__ = "0.1.0"

# Where the names of the runtime half come from when somebody asks for one, and not before:
# `import dropaudit` costs next to nothing, and the scanner never meets torch.
_LATER = {
    "DropoutAuditError": "dropaudit.runtime.failure",
    "DropoutAuditWarning": "dropaudit.runtime.failure",
    "MissingRanksError": "dropaudit.runtime.failure",
    "Report": "dropaudit.runtime.report",
    "Trace": "dropaudit.runtime.trace",
    "audit": "dropaudit.runtime.auditor",
    "check_dropout": "dropaudit.runtime.conformance",
    "compare_modes": "dropaudit.runtime.comparison",
    "judge": "dropaudit.runtime.judge",
    "site": "dropaudit.runtime.declared",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import sys
    from importlib import import_module

    try:
        module = import_module(_LATER[name])
    except ImportError as error:
        if sys.modules.get("torch") is not None:  # torch is there, something else is not
            raise
        sentence = f"dropaudit.{name} needs PyTorch: pip install 'dropaudit[torch]'"
        raise ModuleNotFoundError(sentence, name="torch") from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
