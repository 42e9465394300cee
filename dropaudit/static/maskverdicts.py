"""What the scale of a mask amounts to, and whether it may be scaled somewhere else."""

from __future__ import annotations

import re

import libcst as cst

from dropaudit.static.chance import Coin
from dropaudit.static.maskuses import DropoutUse, Masks
from dropaudit.static.scalars import close
from dropaudit.static.source import Source

_DROP_PROBABILITY = re.compile(r"(self\.)?drop(out|_path)?(_(p|prob|probability|rate|ratio))?")
_KEEP_RATE = re.compile(r"keep|surviv|retain|^q$", re.IGNORECASE)


def verdict(coins: list[Coin]) -> str:
    """What the scales seen at one use amount to.

    `right`, `unscaled`, `drop` (divided by the drop probability), `twice` (divided by the keep
    probability two times), `keep` and `dropped` (multiplied by either), or empty.
    """
    seen = [c for c in coins if 1e-6 < c.keep < 1 - 1e-6]
    ready = any(c.ready for c in seen)
    if not seen or (ready and len(seen) == 1):
        return ""
    if not ready and any(close(c.keep * c.scale, 1) for c in seen):
        return "right"
    last = seen[-1]
    if all(close(abs(c.scale), 1) for c in seen):
        return "unscaled"
    keep, scale = last.keep, last.scale
    for name, value in (
        ("twice", 1 / keep**2),
        ("drop", 1 / (1 - keep)),
        ("keep", keep),
        ("dropped", 1 - keep),
    ):
        if close(scale, value):
            return name
    return ""


def means_keep(source: Source, found: DropoutUse) -> bool:
    """Whether the mask keeps with what its probability is called to be.

    Then a scale that contradicts the mask is the wrong one of the two; else the mask is: the
    probability of `rand < p` where the scale `1 / (1 - p)` says that `p` drops.
    """
    text = found.use.keep_text.strip("()")
    computed = re.match(r"1(\.0*)?\s*-\s*(.*)", text)
    if computed:
        return not _KEEP_RATE.search(computed[2])
    return bool(_KEEP_RATE.search(text)) or not text


def keeps_with_drop_rate(source: Source, found: DropoutUse) -> bool:
    """Whether the mask keeps with a probability that is named for dropping, and not computed."""
    name = found.use.keep_name
    if not found.named or not _DROP_PROBABILITY.fullmatch(name):
        return False
    if not name.startswith("self."):
        return True
    facts = source.class_of(found.use.node)
    values = facts.values(name[5:]) if facts is not None else []
    return bool(values) and all(isinstance(v, (cst.Name, cst.Float)) for v in values)


def scaled_elsewhere(source: Source, found: DropoutUse) -> bool:
    """Whether the function, its class or its callers hold a scale that may belong to the mask."""
    keep = found.use.coins[0].keep
    if found.masks.words or _has_factor(found.masks, keep):
        return True
    facts = source.class_of(found.masks.function)
    if facts is not None:
        for one in facts.lineage:
            for method in one.methods.values():
                if method is not found.masks.function and _has_factor(
                    source.masks.read(method), keep
                ):
                    return True
    return any(_scales_result(source, call) for call in source.callers(found.masks.function))


def _has_factor(masks: Masks, keep: float) -> bool:
    return masks.words or any(close(f, keep) or close(f, 1 / keep) for f, _ in masks.factors)


def _scales_result(source: Source, call: cst.Call) -> bool:
    """Whether the caller multiplies or divides by something that may be a scale."""
    function = source.function_of(call)
    if function is None:
        return False
    masks = source.masks.read(function)
    return masks.words or any(
        not close(f, 1) and not re.fullmatch(r".*[*/] *\d+(\.\d*)?", source.text(n))
        for f, n in masks.factors
    )
