"""One trace of all ranks, on rank 0, when an audit ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropaudit.runtime.joining import join
from dropaudit.runtime.trace import Trace

if TYPE_CHECKING:
    from dropaudit.runtime.mail import Mail
    from dropaudit.runtime.ranks import Ranks

PATIENCE = 60.0
"""Seconds that rank 0 waits for the others once it is done."""
_GRACE = 5.0
_FAILED = 10.0


class Gathering:
    """The ranks of one audit: they announce themselves, and report to rank 0 at the end.

    Args:
        patience: seconds that rank 0 waits for the others.
        certain: whether every rank is known to be audited: else those that never announced
            themselves are waited for only briefly.
    """

    def __init__(self, patience: float = PATIENCE, *, certain: bool = False) -> None:
        self.patience = patience
        self._certain = certain
        self._mail: Mail | None = None
        self._announced = False

    def begin(self, ranks: Ranks) -> None:
        """The audit begins, or there may be other ranks since."""
        if self._mail is None:
            from dropaudit.runtime.mail import Mail

            self._mail = Mail()
        if ranks.many and not self._announced:
            self._announced = True
            self._mail.announce(ranks.rank)

    def end(self, trace: Trace, *, failed: bool = False) -> Trace | None:
        """The trace of all ranks on rank 0; None on the others, whose trace is on its way.

        Args:
            trace: what this rank measured.
            failed: whether the program has failed: others then fail soon, or hang.
        """
        assert self._mail is not None
        if trace.rank:
            self._mail.send(trace.rank, trace.to_json())
            return None
        patience = min(self.patience, _FAILED) if failed else self.patience
        grace = None if self._certain else min(_GRACE, patience)
        with self._mail.patient():
            texts = self._mail.receive(set(range(1, trace.world)), patience, grace)
        unsaid = ""
        if self._mail.stopped:
            unsaid = "this run was told to end (SIGTERM), as torchrun does when a rank has died"
        silent = set(range(1, trace.world)) - texts.keys()
        unaudited = set() if self._certain else silent - self._mail.announced(silent)
        traces = [trace, *map(Trace.from_json, texts.values())]
        return join(traces, patience, unsaid, sorted(unaudited))
