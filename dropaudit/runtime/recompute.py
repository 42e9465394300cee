"""What was found of calls that were run again for the gradient: plain numbers, part of a trace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recompute:
    """Calls of a site that ran inside a backward pass, and the calls that they repeat.

    Activation checkpointing throws away what a forward pass computed and computes it again. The
    second run is no call of its own: it is counted here and nowhere else.
    """

    calls: int = 0
    """Runs inside a backward pass."""
    compared: int = 0
    """Those whose mask was compared with that of the first run; where no mask shows (attention,
    recurrent layers), the random state that they began from."""
    redrawn: int = 0
    """Those that differed."""
    elements: int = 0
    """Informative elements of the runs that differed."""
    differing: int = 0
    """Elements kept in one run and dropped in the other."""
    stopped: int = 0
    """Those that ended before their mask was made, once the checkpoint had what it needed, and that
    began from the same random state as the first run."""
    unpaired: int = 0
    """Those whose first run was not found among what the audit saw."""
    first_step: int | None = None
    """The step of the first run that differed."""
    began: str | None = None
    """Random state at the beginning of the first run that was drawn anew, if it could be read."""
    began_again: str | None = None
    """The same of its second run."""
