"""Which training step it is, and whether it is looked at."""

from __future__ import annotations

from dataclasses import dataclass

_STATE_STEPS = 4
_STATE_EVERY = 8


@dataclass
class Clock:
    """Counts steps. An optimizer ends one; without any, the next forward pass after a backward."""

    every: int
    step: int = 0
    """Index of the current step, from 0."""
    audited: int = 0
    """Audited steps that have ended."""
    open: bool = False
    """Whether something of an audited model ran in this step."""
    backward_since: bool = False
    """Whether a backward pass ran in this step."""
    saw_optimizer: bool = False

    @property
    def recording(self) -> bool:
        """Whether the current step is audited."""
        return self.step % self.every == 0

    @property
    def reads_state(self) -> bool:
        """Whether random states are read in this step: they cost more than all the rest."""
        return self.audited < _STATE_STEPS or self.audited % _STATE_EVERY == 0

    def next(self) -> bool:
        """Begin another step; whether the one that ended was audited."""
        ended = self.recording and self.open
        self.audited += ended
        self.open = self.backward_since = False
        self.step += 1
        return ended
