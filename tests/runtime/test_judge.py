"""The verdict on traces written by hand: one cause, one code, and silence over healthy twins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from dropaudit.catalogue import Observation, Rule, rules
from dropaudit.findings import Finding, Location, Severity
from dropaudit.runtime.evidence import Evidence
from dropaudit.runtime.judge import judge
from dropaudit.runtime.trace import (
    Backward,
    Divided,
    Evaluation,
    Forward,
    Freshness,
    Idle,
    Settings,
    Shared,
    Site,
    Switched,
    Trace,
    Unobserved,
)
from dropaudit.runtime.world import Across

HERE = Location("net.py", 12, 9, 12, 30)
DRAWS = 245_760
"""60 calls of 4,096 elements."""


def forward(drop: float = 0.1, scale: float = 1 / 0.9, **more: Any) -> Forward:
    """Sixty calls that drop a share and multiply the rest."""
    values: dict[str, Any] = {
        "calls": 60, "acted": 60, "asked": 60, "told_on": 60, "first_step": 1,
        "elements": DRAWS, "draws": DRAWS, "drops": round(drop * DRAWS),
        "scale": scale, "scale_low": scale, "scale_high": scale, "spread": 0.0,
        "mean": (1 - drop) * scale, "mean_error": 7e-4,
    }  # fmt: skip
    return Forward(**{**values, **more})


QUIET = Forward(calls=10, asked=10, told_off=10)
"""Ten calls in eval mode that returned their input."""
AGREES = Backward(calls=60, elements=DRAWS, dropped=DRAWS // 10, scale=1 / 0.9, worst=1e-7)
FRESH = Freshness(compared=59)


def site(**more: Any) -> Site:
    """A healthy dropout of 10 %, but for what is given."""
    values: dict[str, Any] = {
        "module": "encoder.drop", "class_name": "Dropout", "kind": "elementwise",
        "function": "nn.Dropout", "where": HERE, "p": 0.1, "p_least": 0.1, "p_most": 0.1,
        "tolerance": 5e-7, "training": forward(), "eval": QUIET, "backward": AGREES,
        "freshness": FRESH,
    }  # fmt: skip
    return Site(**{**values, **more})


def trace(*sites: Site, **more: Any) -> Trace:
    """Sixty audited steps."""
    values: dict[str, Any] = {
        "steps": 60, "audited_steps": 60, "forwards": 70, "models": ("Net",), "sites": sites
    }  # fmt: skip
    return Trace(**{**values, **more})


def codes(judged: Trace) -> list[str]:
    return [finding.code for finding in judge(judged)]


CLASSIC = forward(scale=1.0)
SCALED_IN_EVAL = Forward(
    calls=10, acted=10, asked=10, elements=40_960, draws=40_960, drops=0, scale=0.9, mean=0.9,
    mean_error=1e-9,
)  # fmt: skip
LIVE = forward(calls=10, acted=10, asked=10, elements=40_960, draws=40_960, drops=4_096)
STATE = Forward(calls=60, acted=60, asked=60)
"""Attention: the random state moved."""
ALPHA_SCALE = (0.9 * (1 + 0.1 * 1.7580993408473766**2)) ** -0.5
IDLE = Idle("drop", "Dropout", 0.1, "Block", HERE, steps=60, owner_ran=60)
PHASE = Evaluation(
    model="Net", where=HERE, step=60, forwards=20, dropping=("drop",), sites=1,
    root_training=True, trained=True, trailing=True, inside_step=False, statistics_update=False,
)  # fmt: skip
OFF = Switched(
    model="Net", where=HERE, root_training=False, dropouts=3, in_eval=3, examples=("a.drop",),
    first_step=31, steps=30, trained_before=True,
)  # fmt: skip
SPLIT = Divided(
    module="", class_name="Net", where=HERE, training=False, override="", descendants=5,
    differing=5, dropouts=2, example="encoder.drop",
)  # fmt: skip
MASK: dict[str, Any] = {"kind": "mask", "function": "rand", "is_module": False}
FUNCTION: dict[str, Any] = {"function": "F.dropout", "is_module": False}
PATH: dict[str, Any] = {"kind": "path", "function": "DropPath", "class_name": "DropPath"}
ATTENTION: dict[str, Any] = {
    "kind": "attention", "function": "F.scaled_dot_product_attention", "is_module": False,
    "training": STATE, "eval": Forward(),
    "backward": Backward(calls=60, products=960, worst_product=1e-4),
}  # fmt: skip
REPEATED = Freshness(compared=59, repeats=59, joint=4096, first_step=2)


@dataclass(frozen=True)
class Case:
    """A defect, its code, and the nearest thing that is none."""

    code: str
    faulty: Trace
    healthy: Trace


def at_site(code: str, faulty: dict[str, Any], healthy: dict[str, Any]) -> Case:
    return Case(code, trace(site(**faulty)), trace(site(**healthy)))


def beside(code: str, name: str, faulty: Any, healthy: Any) -> Case:
    """A record beside a healthy site."""
    return Case(code, trace(site(), **{name: (faulty,)}), trace(site(), **{name: (healthy,)}))


CASES = {
    "never scaled": at_site(
        "DRP101", {"training": CLASSIC}, {"training": CLASSIC, "eval": SCALED_IN_EVAL}
    ),
    "never scaled, mask by hand": at_site(
        "DRP101", {**MASK, "training": CLASSIC}, {**MASK, "training": CLASSIC, "probed_eval": 0.9}
    ),
    "never scaled, p not declared": at_site(
        "DRP101",
        {**MASK, "p": None, "p_least": None, "p_most": None, "training": CLASSIC},
        {**MASK, "p": None, "p_least": None, "p_most": None},
    ),
    "scaled the wrong way": at_site("DRP102", {"training": forward(scale=1 / 0.1)}, {}),
    "scaled by two percent too much": at_site(
        "DRP102",
        {"training": forward(scale=1.02 / 0.9), "dtype": "bfloat16"},
        {"training": forward(scale=1.109375), "dtype": "bfloat16"},
    ),
    "scaled twice": at_site("DRP102", {"eval": SCALED_IN_EVAL}, {}),
    "alpha dropout with another scale": at_site(
        "DRP102",
        {"kind": "alpha", "training": forward(scale=1 / 0.9)},
        {"kind": "alpha", "training": forward(scale=ALPHA_SCALE)},
    ),
    "keeps what it should drop": at_site("DRP104", {"training": forward(0.9)}, {}),
    "keeps what it should drop, mask by hand": at_site(
        "DRP104",
        {**MASK, "p": 0.9, "p_least": 0.9, "p_most": 0.9, "training": forward(0.9)},
        {**MASK, "p": 0.9, "p_least": 0.9, "p_most": 0.9, "training": forward(0.9, 10.0)},
    ),
    "keeps what it should drop, consistently": at_site(
        "DRP104", {"training": forward(0.9, scale=10.0)}, {}
    ),
    "mask on the wrong axis": at_site(
        "DRP107",
        {**PATH, "training": forward(0.0, drops=0, mixed=950, units=960, draws=960)},
        {**PATH, "training": forward(0.1, drops=96, mixed=0, units=960, draws=960)},
    ),
    "mask from the host": at_site("DRP108", {"host_mask": 60}, {}),
    "dropped twice": at_site(
        "DRP109", {"repeated_on_result": 60}, {**PATH, "repeated_on_result": 60}
    ),
    "one point too much": at_site(
        "DRP110", {"training": forward(0.11, scale=1 / 0.9)}, {"training": forward(0.1007)}
    ),
    "one point too much, consistently": at_site(
        "DRP110",
        {"training": forward(0.11, 1 / 0.89, elements=4096, draws=4096, drops=450)},
        {"training": forward(0.11, elements=4096, draws=4096, drops=450)},
    ),
    "another rate and another scale": at_site("DRP110", {"training": forward(0.3, 1.0)}, {}),
    "a rate beyond what the kernel rounds": at_site(
        "DRP110",
        {"quantum": 1 / 512, "training": forward(0.12)},
        {"quantum": 1 / 512, "training": forward(26 / 256)},
    ),
    "a rate beyond what a draw in bfloat16 rounds": at_site(
        "DRP110",
        {**MASK, "dtype": "bfloat16", "training": forward(0.115)},
        {**MASK, "dtype": "bfloat16", "training": forward(0.104)},
    ),
    "a rate outside its schedule": at_site(
        "DRP110",
        {"p": 0.1, "p_most": 0.2, "training": forward(0.3, 1 / 0.85)},
        {"p": 0.1, "p_most": 0.2, "training": forward(0.15, 1 / 0.85)},
    ),
    "noise with another mean, as it is counted": at_site(
        "DRP111",
        {"kind": "noise", "freshness": replace(REPEATED, joint=1),
         "training": forward(0.0, 0.9, draws=60, drops=0, spread=0.37, mean_error=9e-4)},
        {"kind": "noise", "freshness": replace(REPEATED, joint=1),
         "training": forward(0.0, 1.0, draws=60, drops=0, spread=0.37, mean_error=9e-4)},
    ),
    "noise with another mean": at_site(
        "DRP111",
        {"kind": "noise", "training": forward(0.0, 0.9, drops=0, spread=0.3, mean_error=1e-3)},
        {"kind": "noise", "training": forward(0.0, 1.0, drops=0, spread=0.3, mean_error=1e-3)},
    ),
    "blocks that are not scaled": at_site(
        "DRP111",
        {"kind": "block", "training": forward(0.3, 1.0)},
        {"kind": "block", "training": forward(0.3, 1 / 0.7)},
    ),
    "evaluation that scales up": at_site("DRP111", {"probed_eval": 1 / 0.9}, {"probed_eval": 1.0}),
    "a function that is on in eval": at_site(
        "DRP201", {**FUNCTION, "eval": LIVE}, {**FUNCTION, "eval": LIVE, "switched": True}
    ),
    "a module's function that is on in eval": at_site(
        "DRP201", {"inside": "function", "eval": LIVE}, {"inside": "function"}
    ),
    "fused multi-head attention that is on in eval": at_site(
        "DRP201",
        {**ATTENTION, "function": "F.multi_head_attention_forward", "eval": STATE},
        ATTENTION,
    ),
    "attention that is on in eval": at_site("DRP202", {**ATTENTION, "eval": STATE}, ATTENTION),
    "built in forward": at_site(
        "DRP203",
        {"built_in_forward": True, "registered": False, "eval": Forward()},
        {"built_in_forward": True, "registered": False},
    ),
    "held in a list": at_site(
        "DRP204", {"registered": False, "eval": Forward()}, {"registered": False}
    ),
    "a flag assigned": beside("DRP207", "divided", SPLIT, replace(SPLIT, dropouts=0)),
    "a flag assigned before training": beside(
        "DRP207",
        "switched",
        replace(OFF, root_training=True, root_alone=True),
        replace(OFF, root_training=True),
    ),
    "an override that stops": beside(
        "DRP208",
        "divided",
        replace(SPLIT, override="train"),
        replace(SPLIT, override="train", dropouts=0),
    ),
    "evaluated in training mode": beside(
        "DRP209", "evaluations", PHASE, replace(PHASE, inside_step=True)
    ),
    "evaluated while batch statistics are updated": beside(
        "DRP209", "evaluations", PHASE, replace(PHASE, statistics_update=True)
    ),
    "evaluated in eval mode": beside(
        "DRP209", "evaluations", PHASE, replace(PHASE, root_training=False)
    ),
    "inference in training mode": beside(
        "DRP209",
        "evaluations",
        replace(PHASE, trained=False),
        replace(PHASE, trained=False, forwards=1),
    ),
    "trained in eval mode": beside("DRP210", "switched", OFF, replace(OFF, in_eval=1)),
    "one of two models in eval mode": beside(
        "DRP211", "switched", replace(OFF, partners=("Decoder",)), replace(OFF, in_eval=0)
    ),
    "p overwritten in forward": at_site("DRP214", {"p_changed_inside": True}, {}),
    "a mask by hand that is on in eval": at_site("DRP216", {**MASK, "eval": LIVE}, MASK),
    "a module's mask that is on in eval": at_site(
        "DRP216", {"inside": "mask", "eval": LIVE}, {"inside": "mask", "complemented": True}
    ),
    "alpha dropout that is off": at_site(
        "DRP217",
        {
            **FUNCTION,
            "function": "F.alpha_dropout",
            "kind": "alpha",
            "training": Forward(calls=60, asked=60, told_off=60),
        },
        {
            **FUNCTION,
            "function": "F.alpha_dropout",
            "kind": "alpha",
            "training": forward(scale=ALPHA_SCALE),
        },
    ),
    "a function that is told not to drop": at_site(
        "DRP218", {**FUNCTION, "training": Forward(calls=60, asked=60, told_off=60)}, FUNCTION
    ),
    "a module that never drops": at_site(
        "DRP218",
        {"training": forward(0.0, 1.0, acted=0, drops=0)},
        {"training": forward(0.0, 1.0, acted=0, draws=100, elements=100, drops=0)},
    ),
    "attention that draws nothing": at_site(
        "DRP218", {**ATTENTION, "training": replace(STATE, acted=0)}, ATTENTION
    ),
    "another mask in backward": at_site(
        "DRP301",
        {"backward": replace(AGREES, faulty=60, first_fault=1, broken=44_000, revived=22_000,
                             lost=22_000)},
        {"backward": replace(AGREES, faulty=1, broken=2)},
    ),
    "another mask in backward of attention": at_site(
        "DRP301",
        {**ATTENTION, "backward": Backward(calls=60, faulty=60, products=960,
                                           broken_products=900, worst_product=0.4)},
        ATTENTION,
    ),
    "no mask in backward": at_site(
        "DRP302",
        {"backward": replace(AGREES, faulty=60, broken=24_000, revived=24_000)},
        {},
    ),
    "no scale in backward": at_site(
        "DRP302", {"backward": replace(AGREES, faulty=60, broken=220_000, scale=1.0)}, {}
    ),
    "another mask when recomputed": at_site(
        "DRP303",
        {"backward": replace(AGREES, faulty=60, broken=44_000, revived=22_000, lost=22_000,
                             recomputed=True)},
        {"backward": replace(AGREES, recomputed=False)},
    ),
    "seeded in forward": at_site(
        "DRP304", {"freshness": replace(REPEATED, reseeded=59)}, {"freshness": FRESH}
    ),
    "a frozen mask": at_site(
        "DRP306", {"freshness": REPEATED}, {"freshness": replace(REPEATED, repeats=2, joint=8)}
    ),
    "a mask shared by two sites": Case(
        "DRP306",
        trace(site(), site(module="decoder.drop"), shared=(Shared(0, 1, 60, 4096, 60, 1),)),
        trace(site(), site(module="decoder.drop"), shared=(Shared(0, 1, 1, 3, 60, 1),)),
    ),
    "a mask shared by ranks": beside(
        "DRP305",
        "across",
        Across(0, 0, 1, "DDP", "distinct", 4, 0, 400, 1, None),
        Across(0, 0, 1, "DDP", "distinct", 1, 3, 4, 2, 1),  # four draws, by chance
    ),
    "ranks that must share a mask, and do not": beside(
        "DRP305",
        "across",
        Across(0, 0, 1, "tp", "identical", 0, 4, 0, None, 1),
        Across(0, 0, 1, "tp", "identical", 4, 0, 400, 1, None),
    ),
    "an input overwritten": at_site(
        "DRP308",
        {"corrupted": 60, "backward": replace(AGREES, faulty=60, broken=24_000, lost=24_000)},
        {},
    ),
    "never called": beside("DRP402", "idle", IDLE, replace(IDLE, lends_p=True)),
    "not seen at all": Case("DRP002", trace(), trace(site())),
    "seen without a rate": Case(
        "DRP002", trace(site(training=Forward(calls=60), eval=Forward())), trace(site())
    ),
    "too few elements": at_site(
        "DRP000",
        {"training": forward(elements=60, draws=60, drops=6)},
        {"training": forward(elements=64, draws=64, drops=6)},
    ),
    "too few gradients": at_site(
        "DRP000",
        {"backward": Backward(calls=60, elements=20)},
        {"backward": Backward(), "no_gradient": 60},
    ),
    "gradients that cannot be followed": at_site(
        "DRP000", {"backward": Backward(), "unlinked": 60}, {"backward": Backward()}
    ),
    "a site that no hook can see": Case(
        "DRP000",
        trace(unobserved=(Unobserved("net", "nn.Dropout", "it is scripted", "do not", HERE),)),
        trace(site()),
    ),
}  # fmt: skip
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@EVERY_CASE
def test_a_defect_has_its_code_and_no_other(case: Case) -> None:
    """Exactly one finding, whichever rules look at the same figures."""
    assert codes(case.faulty) == [case.code]


@EVERY_CASE
def test_the_healthy_twin_is_silent(case: Case) -> None:
    """Not one finding, warnings included."""
    assert codes(case.healthy) == []


@EVERY_CASE
def test_a_verdict_survives_saving(case: Case) -> None:
    """A trace that was written and read is judged alike, to the last figure."""
    assert judge(Trace.from_json(case.faulty.to_json())) == judge(case.faulty)


@EVERY_CASE
def test_a_finding_says_where_and_how_much(case: Case) -> None:
    """A message of one or two sentences, the help of its rule, figures with names.

    The message of DRP000 says itself what to do.
    """
    (finding,) = judge(case.faulty)
    rule = next(rule for rule in rules() if rule.code == finding.code)
    assert finding.name == rule.name
    assert finding.help == ("" if rule.code == "DRP000" else rule.help)
    assert not finding.message.endswith(".")
    assert "None" not in finding.message and "nan" not in finding.message
    assert finding.figures or finding.code == "DRP214"
    assert all(isinstance(value, float) for _, value in finding.figures)


def test_every_rule_with_a_check_is_shown() -> None:
    """A check that no case reaches would go untested."""
    assert {case.code for case in CASES.values()} == {r.code for r in rules() if r.trace_checks}


@EVERY_CASE
def test_a_longer_run_gives_one_finding_too(case: Case) -> None:
    """Findings are merged by site: what recurs has a count, not a finding each time."""
    longer = replace(case.faulty, steps=6000, audited_steps=6000)
    assert codes(longer) == [case.code]


def test_what_was_not_checked_is_a_warning() -> None:
    """DRP000 and DRP002 never fail an audit by default."""
    for case in CASES.values():
        if case.code in ("DRP000", "DRP002"):
            assert [f.severity for f in judge(case.faulty)] == [Severity.WARNING]


def test_a_rule_that_crashes_is_reported_and_the_others_are_heard() -> None:
    """As DRP000, a warning that names the rule and the error."""
    broken = Rule("DRP999", "broken", "A rule.\n\n## Use instead\n\nNothing.\n")
    sound = Rule("DRP998", "sound", "A rule.\n\n## Use instead\n\nNothing.\n")

    @broken.in_trace
    def crashes(trace: Trace) -> Any:
        raise ZeroDivisionError("no draws")

    @sound.in_trace
    def speaks(trace: Trace) -> Any:
        yield Observation(HERE, "something")

    found = judge(trace(), [broken, sound])
    assert {(f.code, f.severity) for f in found} == {
        ("DRP000", Severity.WARNING),
        ("DRP998", Severity.ERROR),
    }
    assert "DRP999 broken could not judge this audit: ZeroDivisionError: no draws" in str(found)


def test_findings_come_in_order_of_place_and_code() -> None:
    """However the sites are numbered."""
    late = site(where=replace(HERE, line=40), training=forward(0.3))
    early = site(p_changed_inside=True, training=CLASSIC)
    assert codes(trace(late, early)) == ["DRP101", "DRP214", "DRP110"]
    assert codes(trace(early, late)) == ["DRP101", "DRP214", "DRP110"]


def test_two_sites_on_one_line_are_told_apart_by_their_modules() -> None:
    """The layers of a stack run the same line."""
    both = [site(module=f"layers.{n}.drop", training=CLASSIC) for n in (0, 1)]
    found = judge(trace(*both))
    assert [f.where.module for f in found] == ["layers.0.drop", "layers.1.drop"]


@pytest.mark.parametrize("module", ["-", "?"])
def test_a_site_outside_the_model_has_no_path(module: str) -> None:
    """The line is all that is known."""
    (finding,) = judge(trace(site(module=module, training=CLASSIC)))
    assert finding.where.module is None


def test_no_scaling_on_purpose_is_only_a_remark() -> None:
    """`scale_by_keep=False` says so itself."""
    (finding,) = judge(trace(site(**PATH, training=CLASSIC, unscaled_on_purpose=True)))
    assert (finding.code, finding.severity) == ("DRP101", Severity.INFO)


def test_a_frozen_mask_does_not_make_its_rate_wrong() -> None:
    """What one mask happens to hold counts once, not in each of sixty steps."""
    lucky = site(freshness=REPEATED, training=forward(0.1 + 0.0047))
    assert codes(trace(lucky)) == ["DRP306"]


def test_a_dead_dropout_does_not_repeat_its_mask() -> None:
    """All masks of a dropout that never drops are equal, for one reason."""
    dead = site(freshness=REPEATED, training=forward(0.0, 1.0, acted=0, drops=0))
    assert codes(trace(dead)) == ["DRP218"]


def test_masks_seeded_alike_are_no_shared_mask_as_well() -> None:
    """Two sites seeded in forward draw one mask: the seed is the cause."""
    seeded = replace(REPEATED, reseeded=59)
    sites = (site(freshness=seeded), site(module="b", freshness=seeded))
    assert codes(trace(*sites, shared=(Shared(0, 1, 60, 4096, 60, 1),))) == ["DRP304", "DRP304"]


def test_a_prenet_drops_in_evaluation_on_purpose() -> None:
    """So do Monte-Carlo dropouts that say what they are."""
    for name in ("Prenet", "MCDropout", "MonteCarloHead"):
        assert codes(trace(site(**FUNCTION, class_name=name, eval=LIVE))) == []
    assert codes(trace(site(**FUNCTION, class_name="Net", eval=LIVE))) == ["DRP201"]


def test_a_scale_that_follows_its_mask_is_right() -> None:
    """Divided by the share that was kept: it varies from call to call, around 1/q."""
    own = forward(scale=1.1113, scale_low=1.09, scale_high=1.13)
    assert codes(trace(site(training=own))) == []


def test_dropout_that_was_switched_off_by_itself_is_off_on_purpose() -> None:
    """A fine-tuning without dropout: no training in eval mode."""
    pinned = site(module="a.drop", switched=True)
    assert codes(trace(pinned, switched=(OFF,))) == []


def test_a_larger_alpha_speaks_sooner() -> None:
    """The bound is the audit's own, shared by its sites."""
    doubtful = site(training=forward(0.103))
    assert codes(trace(doubtful)) == []
    assert codes(trace(doubtful, settings=Settings(alpha=0.05))) == ["DRP110"]
    first, tenth = (Evidence(trace(*[doubtful] * 10), n).alpha for n in (0, 9))
    assert first == pytest.approx(100 * tenth)


def test_dropout_that_is_never_called_is_said_once() -> None:
    """Not called, hence not observed: one cause."""
    assert codes(trace(idle=(IDLE,))) == ["DRP402"]


def test_an_empty_trace_is_not_a_pass() -> None:
    """Nothing was seen, and that is what is said."""
    found: tuple[Finding, ...] = judge(Trace())
    assert [f.code for f in found] == ["DRP002"]
    assert "no call of a model" in found[0].message
