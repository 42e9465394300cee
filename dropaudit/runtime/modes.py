"""What the figures of a site say of evaluation: whether it drops there, and which code that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dropaudit.catalogue import Observation
from dropaudit.runtime.evidence import BY_STATE, Evidence
from dropaudit.runtime.purpose import on_purpose
from dropaudit.runtime.trace import Switched, Trace


def acts_in_eval(seen: Evidence) -> bool:
    """Whether something was dropped in eval mode (a classic factor q is no drop)."""
    site, forward = seen.site, seen.site.eval
    if site.complemented or not forward.acted or site.always_on or on_purpose(site.class_name):
        return False
    if site.kind in BY_STATE or not forward.elements:
        return True
    return forward.drops > 0 or (site.kind == "noise" and (forward.spread or 0.0) > 1e-2)


def mode_code(seen: Evidence) -> str | None:
    """Which code explains that dropout is on in evaluation, or cannot be switched off."""
    site = seen.site
    on = site.training.acted > 0 or site.eval.acted > 0
    obeys = site.switched or (site.follows and site.eval.calls > 0 and not site.eval.acted)
    if site.built_in_forward:
        return "DRP203" if on and not obeys else None
    if not site.registered:
        return "DRP204" if on and not obeys else None
    if site.switched or not acts_in_eval(seen):
        return None
    if site.kind == "attention":
        return "DRP201" if "multi_head" in site.function else "DRP202"
    if site.kind == "mask" or site.inside == "mask":
        return "DRP216"
    return "DRP216" if site.is_module and site.inside == "" else "DRP201"


def eval_figures(seen: Evidence) -> str:
    """For example "it dropped 400 of 4,096 elements in 2 of 2 calls"."""
    forward = seen.site.eval
    calls = f"in {forward.acted:,} of {forward.calls:,} calls"
    if forward.drops:
        return f"it dropped {forward.drops:,} of {forward.draws:,} draws {calls}"
    return f"it drew random numbers {calls}"


def eval_counts(seen: Evidence) -> dict[str, float]:
    """The same, by name."""
    forward = seen.site.eval
    counts = {"calls": forward.calls, "acted": forward.acted}
    if forward.draws:
        counts |= {"drops": forward.drops, "draws": forward.draws}
    return {name: float(value) for name, value in counts.items()}


def steps_in_eval(trace: Trace, code: str) -> Iterator[Switched]:
    """Optimizer steps with every dropout module of a model in eval mode that `code` explains.

    Dropout that was switched off by itself, module by module, is off on purpose.
    """
    stopped = any(each.training and each.override for each in trace.divided)
    pinned = {site.module for site in trace.sites if site.switched}
    for seen in trace.switched:
        if not seen.dropouts or seen.in_eval < seen.dropouts:
            continue
        if seen.root_training:
            # Only the flag of the outermost module was switched back, by hand or by its override.
            found = "DRP207" if seen.root_alone and not stopped else None
        elif pinned & set(seen.examples):
            found = None
        else:
            found = "DRP211" if seen.partners else "DRP210"
        if found == code:
            yield seen


def divided_modes(trace: Trace, *, overridden: bool, why: str) -> Iterator[Observation]:
    """Modules with dropout below them in the other mode; `why` may name `{override}`.

    Args:
        overridden: whether to report those whose class overrides `train` or `eval`, or the others.
    """
    for seen in trace.divided:
        if not seen.dropouts or bool(seen.override) is not overridden:
            continue
        own, theirs = ("training", "eval") if seen.training else ("eval", "training")
        yield Observation(
            replace(seen.where, module=seen.module),
            f"`{seen.class_name}` ran in {own} mode while {seen.differing:,} of the "
            f"{seen.descendants:,} modules below it were in {theirs} mode, {seen.dropouts:,} "
            f"dropout modules among them (such as `{seen.example}`): "
            + why.format(override=seen.override),
            (
                ("differing", float(seen.differing)),
                ("descendants", float(seen.descendants)),
                ("dropouts", float(seen.dropouts)),
                ("calls", float(seen.calls)),
            ),
        )
