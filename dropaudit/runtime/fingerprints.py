"""Parts of masks that are kept, so that ranks can compare theirs once the audit ends."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from dropaudit.runtime.outbox import Outbox
from dropaudit.runtime.sitelog import Call
from dropaudit.runtime.world import Fingerprint

DRAWS = 512
_WORD = 16
_STATE_TELLS = ("elementwise", "feature", "alpha", "attention", "recurrent")
"""Kinds that draw from the default generator: a user's own may have one for each rank."""


class Fingerprints:
    """The fingerprints of one rank, by site: of the first steps, then of ever fewer.

    All ranks must choose the same steps without a word: the choice depends on the step alone.
    """

    def __init__(self, outbox: Outbox, every: int = 1) -> None:
        self.active = False
        """Whether there are other ranks."""
        self._outbox = outbox
        self._every = every
        self._by_site: dict[int, list[Fingerprint]] = defaultdict(list)

    def take(self, calls: Sequence[Call], verdict: Tensor) -> None:
        """Keep part of the masks of calls, as `verdicts` gives them, shape (calls, draws)."""
        rows = [row for row, call in enumerate(calls) if self._due(call.step)]
        if not rows or not self.active:
            return
        words = packed(verdict[rows])
        chosen = [calls[row] for row in rows]
        marks = [(call.log.index, call.step, _shape(call), _digest(call)) for call in chosen]
        self._outbox.add(words, partial(self._receive, marks))

    def state(self, call: Call) -> None:
        """Keep the random state of a call whose mask does not show."""
        if self.active and self._due(call.step):
            mark = Fingerprint(call.step, _shape(call), state=_digest(call))
            self._by_site[call.log.index].append(mark)

    def of(self, index: int) -> tuple[Fingerprint, ...]:
        """What was kept of a site, step by step."""
        return tuple(sorted(self._by_site.get(index, ()), key=lambda each: each.step))

    def _due(self, step: int) -> bool:
        number = (step - 1) // self._every
        return number < 4 or (number >= 8 and number & (number - 1) == 0)

    def _receive(self, marks: list[tuple[int, int, str, str]], numbers: list[float]) -> None:
        width = len(numbers) // len(marks)
        for n, (index, step, shape, state) in enumerate(marks):
            digits = [f"{int(word):04x}" for word in numbers[n * width : (n + 1) * width]]
            kept, told = "".join(digits[: width // 2]), "".join(digits[width // 2 :])
            self._by_site[index].append(Fingerprint(step, shape, kept, told, state))


def packed(verdict: Tensor) -> Tensor:
    """Verdicts of at most `DRAWS` draws a row, spread evenly, as words of 16 bits.

    Returns:
        Shape (calls, 2, words): which draws were kept, and which told anything.

    >>> packed(torch.tensor([[1, -1, 0, 1]], dtype=torch.int8)).tolist()
    [[[36864.0], [53248.0]]]
    """
    part = verdict[:, :: max(verdict.shape[1] // DRAWS, 1)][:, :DRAWS]
    flags = torch.stack([part > 0, part != 0], dim=1).to(torch.float32)
    flags = pad(flags, (0, -flags.shape[2] % _WORD))
    flags = flags.view(len(verdict), 2, -1, _WORD)
    weights = 2.0 ** torch.arange(_WORD - 1, -1, -1, device=flags.device)
    words: Tensor = (flags * weights).sum(3)
    return words


def _shape(call: Call) -> str:
    along = "" if call.units is None else f" by {','.join(map(str, call.units))}"
    return "x".join(map(str, call.shape)) + along


def _digest(call: Call) -> str:
    if call.state is None or call.own_generator or call.log.kind not in _STATE_TELLS:
        return ""
    if call.log.groups:  # ranks draw for a DTensor from one state, each at an offset of its own
        return ""
    return hashlib.sha256(bytes(call.state.numpy())).hexdigest()[:16]
