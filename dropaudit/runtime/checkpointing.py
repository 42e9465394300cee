"""Signs that what runs now will be run again in the backward pass, or is such a second run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from dropaudit.runtime.threads import THREAD

_HOOKS = "_top_saved_tensors_default_hooks"
_TELLS = hasattr(torch._C._autograd, _HOOKS)
"""Whether this version of torch tells how tensors are saved."""
_saved_tensor_hooks: Callable[[bool], Any] = getattr(torch._C._autograd, _HOOKS, lambda _: None)
_PHILOX = 16
_SEED = 8


def in_backward() -> bool:
    """Whether this thread runs a backward pass: what runs in it was usually run before."""
    task: int = torch._C._current_graph_task_id()
    return task != -1


def is_checkpointed() -> bool:
    """Whether a checkpoint of torch is being recorded, that keeps random state or not."""
    hooks = _saved_tensor_hooks(True)
    return hooks is not None and getattr(hooks[0], "__module__", "") == "torch.utils.checkpoint"


def is_discarded() -> bool:
    """Whether the graph that is recorded now is only there to give back what was saved."""
    hooks = _saved_tensor_hooks(True)
    name: str = "" if hooks is None else getattr(hooks[0], "__qualname__", "")
    return name.startswith("_recomputation_hook.")


def may_run_again() -> bool:
    """Whether what runs now may be run again in the backward pass: it saves its tensors in some
    unusual way, or runs within an autograd function. Any call may, where torch does not tell."""
    return THREAD.applying > 0 or not _TELLS or _saved_tensor_hooks(True) is not None


def name_of_state(state: Tensor | None) -> str | None:
    """A random state as a reader can tell it from others: its seed, and how far it is.

    Args:
        state: what a generator's `get_state()` gives, on the host. A counter-based one (CUDA)
            holds its seed and its offset; any other begins with its seed.

    >>> name_of_state(torch.Generator().manual_seed(7).get_state())[:7]
    'seed 7,'
    """
    if state is None:
        return None
    data = ctypes.string_at(state.data_ptr(), state.nbytes)  # works without numpy
    seed = int.from_bytes(data[:_SEED], "little")
    if len(data) == _PHILOX:
        return f"seed {seed}, offset {int.from_bytes(data[_SEED:], 'little')}"
    return f"seed {seed}, state {blake2b(data, digest_size=8).hexdigest()}"
