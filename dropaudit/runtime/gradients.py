"""What the figures of a site say of its gradients: whether they fit the forward pass."""

from __future__ import annotations

from dropaudit.runtime.evidence import Evidence

_NOISE = 1e-3
"""Share of elements that may break the identity by odd rounding, if no mask differs."""


def backward_code(seen: Evidence) -> str | None:
    """Which code explains gradients that do not fit the forward pass."""
    site, backward = seen.site, seen.site.backward
    if not backward.faulty or site.corrupted:
        return None
    if backward.moved:
        return "DRP303"
    moved = backward.revived + backward.lost
    if not (backward.broken_products or moved or backward.broken > _NOISE * backward.elements):
        return None
    if backward.recomputed:
        return "DRP303"
    if backward.lost or (backward.broken_products and not backward.broken):
        return "DRP301"
    return "DRP302"


def left_out(seen: Evidence) -> str:
    """What a backward pass with the code 302 leaves out: "the mask" or "the scale"."""
    return "the mask" if seen.site.backward.revived else "the scale"


def backward_figures(seen: Evidence) -> str:
    """For example "400 of 4,096 elements break x * dx = y * dy, in 60 of 60 backward passes"."""
    backward = seen.site.backward
    when = f"in {backward.faulty:,} of {backward.calls:,} backward passes"
    when += "" if backward.first_fault is None else f", first in step {backward.first_fault}"
    if backward.moved:
        return (
            f"it began from another random state {backward.moved:,} times, first in step "
            f"{backward.first_fault}"
        )
    if backward.broken_products and not backward.broken:
        return (
            f"{backward.broken_products:,} of {backward.products:,} inner products of the "
            f"gradients break their identity, by up to {backward.worst_product:.2g}, {when}"
        )
    parts = [f"{backward.broken:,} of {backward.elements:,} elements break x * dx = y * dy"]
    if backward.revived or backward.lost:
        parts.append(
            f"gradients flow through {backward.revived:,} that were dropped and not through "
            f"{backward.lost:,} that were kept"
        )
    elif backward.scale is not None and seen.site.training.scale is not None:
        parts.append(
            f"activations were multiplied by {seen.site.training.scale:.6g}, gradients by "
            f"{backward.scale:.6g}"
        )
    return f"{', '.join(parts)}, {when}"


def backward_counts(seen: Evidence) -> dict[str, float | None]:
    """The same, by name."""
    site, backward = seen.site, seen.site.backward
    if backward.moved:
        return {"moved": backward.moved, "calls": backward.calls, "faulty": backward.faulty}
    if backward.broken_products and not backward.broken:
        return {
            "broken_products": backward.broken_products,
            "products": backward.products,
            "worst": backward.worst_product,
            "calls": backward.calls,
            "faulty": backward.faulty,
        }
    return {
        "broken": backward.broken,
        "elements": backward.elements,
        "revived": backward.revived,
        "lost": backward.lost,
        "worst": backward.worst,
        "bound": site.tolerance,
        "backward_scale": backward.scale,
        "forward_scale": site.training.scale,
        "calls": backward.calls,
        "faulty": backward.faulty,
    }
