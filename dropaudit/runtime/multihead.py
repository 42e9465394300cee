"""A look into multi-head attention, of which a function mode sees only the outside."""

from __future__ import annotations

import threading
from typing import Any

import torch.nn.functional as F

from dropaudit.runtime.threads import THREAD


class Shim:
    """While a multi-head attention runs, the names that it calls lead to its audit.

    The names belong to all threads: others find what they would have found.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._before: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        with self._lock:
            if not self._running:
                self._before = attention, dropout = F.scaled_dot_product_attention, F.dropout
                F.scaled_dot_product_attention = _for_thread(0, attention)
                F.dropout = _for_thread(1, dropout)
            self._running += 1

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                F.scaled_dot_product_attention, F.dropout = self._before


SHIM = Shim()


def _for_thread(which: int, others: Any) -> Any:
    def choose(*args: Any, **kwargs: Any) -> Any:
        own = THREAD.multi_head
        return others(*args, **kwargs) if own is None else own[which](*args, **kwargs)

    return choose
