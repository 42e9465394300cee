"""What an audit could not see, and why: silence would look like a pass."""

from __future__ import annotations

from weakref import ref

import torch
from torch import Tensor, nn

from dropaudit.runtime.places import location
from dropaudit.runtime.sitelog import SiteLog
from dropaudit.runtime.sites import is_compiled, is_torch_dropout, rate
from dropaudit.runtime.trace import Unobserved
from dropaudit.runtime.tree import Tree


class BlindSpots:
    """Sites that ran without being seen."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._records: dict[tuple[str, str], Unobserved] = {}
        self._compiled: list[tuple[str, ref[nn.Module], tuple[str, int]]] = []
        self._looked_at: set[int] = set()

    def enter(self, root: nn.Module, where: tuple[str, int]) -> None:
        """A model is called: note what of it runs without Python."""
        serial = self._tree.serial(root)
        if serial in self._looked_at:
            return
        self._looked_at.add(serial)
        for name, module in root.named_modules():
            if is_compiled(module):
                self._compiled += [
                    (f"{name}.{below}".strip("."), ref(each), where)
                    for below, each in module.named_modules()
                    if is_torch_dropout(each) and rate(each)
                ]
            if isinstance(module, torch.jit.ScriptModule) and "Dropout" in module.original_name:
                self.note(
                    name,
                    f"{module.original_name} in a scripted module",
                    "TorchScript runs it without calling Python",
                    "audit the module before it is scripted",
                    where,
                )

    def cannot_read(self, log: SiteLog, module: str, x: Tensor) -> None:
        """The values of an input are hidden."""
        self.note(
            module,
            f"{log.function} on a {type(x).__name__} ({x.dtype}, {x.device.type})",
            "its values cannot be read from outside",
            "audit it with plain tensors, outside of vmap, fake and quantized tensors",
            (log.file, log.line),
        )

    def is_not_elementwise(self, log: SiteLog, module: str) -> None:
        """A site turned out to be more than a mask."""
        self.note(
            module,
            log.function,
            "its output is not its input times a mask: it adds to it, or reshapes it",
            "check it with dropaudit.check_dropout, which runs it again to tell",
            (log.file, log.line),
        )

    def note(
        self, module: str, what: str, reason: str, advice: str, where: tuple[str, int]
    ) -> None:
        """Note one more."""
        old = self._records.get((module, what))
        calls = 1 if old is None else old.calls + 1
        self._records[module, what] = Unobserved(
            module, what, reason, advice, location(*where, module=module), calls
        )

    def records(self, seen: set[int]) -> tuple[Unobserved, ...]:
        """What was not seen; `seen` are the serials of modules that were, compiled or not."""
        for name, weak, where in self._compiled:
            module = weak()
            if module is None or self._tree.serial(module) in seen:
                continue
            self.note(
                name,
                f"{type(module).__name__}(p={rate(module)}) in a compiled module",
                "torch.compile made it part of a graph that runs without Python",
                "audit the model before it is compiled",
                where,
            )
        self._compiled.clear()
        return tuple(self._records.values())
