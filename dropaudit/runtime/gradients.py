"""What the figures of a site say of its gradients: whether they fit the forward pass."""

from __future__ import annotations

from dropaudit.runtime.evidence import Evidence

_NOISE = 1e-3
"""Share of elements that may break the identity by odd rounding, if no mask differs."""


def backward_code(seen: Evidence) -> str | None:
    """Which code explains gradients that do not fit the forward pass."""
    site, backward = seen.site, seen.site.backward
    if site.corrupted:
        return None
    if site.recompute.redrawn:
        return "DRP303"
    moved = backward.revived + backward.lost
    if not backward.faulty or not (
        backward.broken_products or moved or backward.broken > _NOISE * backward.elements
    ):
        return None
    again = site.recompute
    if (backward.recomputed or again.calls) and not again.compared + again.stopped:
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


def recompute_figures(seen: Evidence) -> str:
    """For example "780 of 2,048 elements that were kept in one run were dropped in the other, in 5
    of 5 runs, first in step 1; the first began from seed 0, state 5f, the second from seed 0, ..."
    """
    recompute, parts = seen.site.recompute, []
    when = f"in {recompute.redrawn:,} of {recompute.compared:,} runs"
    when += f", first in step {recompute.first_step}"
    if not recompute.redrawn:
        parts.append(backward_figures(seen))
    elif recompute.elements:
        share = recompute.differing / recompute.elements
        parts.append(
            f"{recompute.differing:,} of {recompute.elements:,} elements ({share:.0%}) that one "
            f"run kept were dropped by the other, {when}"
        )
    else:
        parts.append(f"it began from another random state {when}")
    began, again = recompute.began, recompute.began_again
    if began is not None and began == again:
        parts.append(f"though both began from one random state ({began})")
    elif began is not None and again is not None:
        parts.append(f"the first run began from {began}, the second from {again}")
    return "; ".join(parts)


def recompute_counts(seen: Evidence) -> dict[str, float | None]:
    """The same, by name."""
    recompute = seen.site.recompute
    if not recompute.redrawn:
        return backward_counts(seen)
    share = recompute.differing / recompute.elements if recompute.elements else None
    return {
        "redrawn": recompute.redrawn,
        "compared": recompute.compared,
        "differing": recompute.differing,
        "elements": recompute.elements,
        "share": share,
    }


def backward_counts(seen: Evidence) -> dict[str, float | None]:
    """The same, by name."""
    site, backward = seen.site, seen.site.backward
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
