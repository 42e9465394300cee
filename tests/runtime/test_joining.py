"""The traces of many ranks as one, written by hand: what is added up, and what is counted once."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from dropaudit.runtime.acrossranks import Pair, compare, compare_all
from dropaudit.runtime.evidence import Evidence
from dropaudit.runtime.joining import join
from dropaudit.runtime.judge import judge
from dropaudit.runtime.policies import Policies
from dropaudit.runtime.trace import Forward, Site, Trace
from dropaudit.runtime.world import Fingerprint, Group
from tests.runtime.test_judge import site

BITS = 256


def mask(seed: str, p: float = 0.1, told: float = 0.5) -> tuple[str, str]:
    """What is kept, and what an input shows of it; hexadecimal."""
    numbers = random.Random(seed)
    kept = sum((numbers.random() >= p) << n for n in range(BITS))
    seen = sum((random.random() < told) << n for n in range(BITS))
    return f"{kept & seen:0{BITS // 4}x}", f"{seen:0{BITS // 4}x}"


def rank_of(
    rank: int, seeds: str, *, p: float = 0.1, drawn: float = 0.1, world: int = 2, **more: object
) -> Trace:
    """One rank's trace: masks drawn by a seed, and the rate that it saw."""
    numbers = random.Random(seeds)
    draws = 4096
    drops = sum(numbers.random() < drawn for _ in range(draws))
    marks = tuple(Fingerprint(step, "64x64", *mask(f"{seeds}/{step}", drawn)) for step in (1, 2, 3))
    scale = 1 / (1 - p)
    seen = Forward(
        *(4, 4, 4, 4, 0, 1, draws, draws, drops, scale, scale, scale, 0.0),
        *((1 - drops / draws) * scale, 0.005),
    )
    one = site(p=p, p_least=p, p_most=p, training=seen, fingerprints=marks)
    return Trace(rank=rank, world=world, steps=4, sites=(replace(one, **more),))  # type: ignore[arg-type]


def codes(*traces: Trace) -> list[str]:
    return [finding.code for finding in judge(join(traces))]


def test_draws_of_masks_that_differ_are_pooled() -> None:
    """And those of ranks that share a mask are counted once."""
    (pooled,) = join([rank_of(0, "a"), rank_of(1, "b")]).sites
    (once,) = join([rank_of(0, "a"), rank_of(1, "a")]).sites
    assert (pooled.training.draws, once.training.draws) == (8192, 4096)
    assert pooled.training.calls == once.training.calls == 8


def test_many_healthy_ranks_give_no_alarm() -> None:
    """Over 500 programs of four ranks, pooled, shared in pairs, or all alike."""
    for seed in range(500):
        kind = (1, 2, 4)[seed % 3]
        traces = [rank_of(n, f"{seed}/{n // kind}", world=4) for n in range(4)]
        groups = (Group("all", (0, 1, 2, 3), "ignore"),)
        assert codes(*(replace(trace, groups=groups) for trace in traces)) == []


def test_pooling_sees_what_no_rank_sees_alone() -> None:
    """A rate that is off by 2.5 points, on 16 ranks; one sample of it if they share a mask."""
    alone = rank_of(0, "0", drawn=0.125, world=1)
    assert judge(alone) == ()
    apart = [rank_of(n, str(n), drawn=0.125, world=16) for n in range(16)]
    alike = [replace(rank_of(n, "0", drawn=0.125, world=16)) for n in range(16)]
    groups = (Group("all", tuple(range(16)), "ignore"),)
    assert codes(*apart) == ["DRP110"]
    assert codes(*(replace(trace, groups=groups) for trace in alike)) == []


def test_the_choice_of_ranks_has_its_price() -> None:
    """In nats of evidence: none for one rank, little for all, more for some."""
    costs = []
    for seeds in (("a", "b", "c", "d"), ("a", "a", "a", "a"), ("a", "a", "b", "b")):
        joined = join([rank_of(n, seed, world=4) for n, seed in enumerate(seeds)])
        costs.append(joined.sites[0].choice)
        one = Evidence(joined, 0)
        bare = Evidence(replace(joined, sites=(replace(joined.sites[0], choice=0.0),)), 0)
        assert one.rate_evidence == pytest.approx(bare.rate_evidence - one.site.choice)
    assert costs == pytest.approx([1.0986, 1.0986, 3.178], abs=1e-3)


def test_the_ranks_that_share_a_mask_are_named() -> None:
    """Two pairs of four: one finding each."""
    traces = [rank_of(n, f"{n // 2}", world=4) for n in range(4)]
    messages = [finding.message for finding in judge(join(traces))]
    assert ["on ranks 0-1" in m for m in messages] == [True, False]
    assert ["on ranks 2-3" in m for m in messages] == [False, True]


def test_an_error_on_one_rank_is_not_averaged_away() -> None:
    """A site that is built differently stays apart, and says where it is."""
    other = rank_of(1, "b", p=0.3, drawn=0.1)
    (finding,) = judge(join([rank_of(0, "a"), other]))
    assert finding.code == "DRP110" and "on rank 1 dropped" in finding.message
    unscaled = rank_of(1, "b").sites[0].training
    unscaled = replace(unscaled, scale=1.0, scale_low=1.0, scale_high=1.0, mean=0.9)
    assert codes(rank_of(0, "a"), rank_of(1, "b", training=unscaled)) == ["DRP101"]


def test_stages_of_a_pipeline_have_sites_of_their_own() -> None:
    """A site that only some ranks have is theirs."""
    joined = join([rank_of(0, "a"), rank_of(1, "b", module="stage.drop")])
    assert [each.ranks for each in joined.sites] == [(0,), (1,)]
    assert judge(joined) == ()


def test_a_rank_that_is_missing_is_said() -> None:
    """As unchecked, with its number."""
    joined = join([rank_of(0, "a", world=3), rank_of(2, "b", world=3)], waited=7)
    assert joined.missing == (1,)
    (finding,) = judge(joined)
    assert finding.code == "DRP000" and finding.message.startswith("rank 1 was not checked")


def test_a_rank_without_an_audit_is_said_too() -> None:
    """Where the user audits one rank only, nobody is missing."""
    joined = join([rank_of(0, "a")], unaudited=[1])
    assert (joined.missing, joined.unaudited) == ((), (1,))
    assert "no audit ran on it" in judge(joined)[0].message


def test_ranks_that_could_not_be_compared_are_said() -> None:
    """Batches of different shapes, and no random state to go by."""
    marks = tuple(replace(m, shape="8x8") for m in rank_of(1, "b").sites[0].fingerprints)
    assert codes(rank_of(0, "a"), rank_of(1, "b", fingerprints=marks)) == ["DRP000"]
    with_state = [
        rank_of(n, "a", fingerprints=(Fingerprint(1, f"{n}x8", state="5eed"),)) for n in (0, 1)
    ]
    assert codes(*with_state) == ["DRP305"]


def test_zeros_of_the_inputs_do_not_hide_a_shared_mask() -> None:
    """Ranks see other data: masks are compared where both inputs show them."""
    one = [Fingerprint(1, "256", *mask("a"))]
    two = [Fingerprint(1, "256", *mask("a"))]
    assert one != two
    assert compare(one, two, by_state=False).equal == 1
    assert compare(one, [Fingerprint(1, "256", *mask("b"))], by_state=False).differing == 1
    assert compare(one, [Fingerprint(2, "256", *mask("a"))], by_state=False) == Pair()


def test_very_many_ranks_are_compared_with_their_neighbors() -> None:
    """The number of comparisons grows with that of the ranks, not with its square."""
    marks = {n: (Fingerprint(1, "256", *mask(str(n))),) for n in range(300)}
    assert len(compare_all(marks, by_state=False)) < 300 * 64


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("same", "must be one of"), ({"dp": "equal"}, "must be one of"), ({3: "ignore"}, "not by 3")],
)
def test_a_policy_that_makes_no_sense_is_refused(option: object, sentence: str) -> None:
    """Before anything is watched."""
    with pytest.raises((TypeError, ValueError), match=sentence):
        Policies.of(option)


def test_a_trace_of_one_process_is_read_as_ever() -> None:
    """Old traces have no ranks."""
    value = json.loads(Trace(sites=(site(),)).to_json())
    for name in ("rank", "world", "joined", "missing", "unaudited", "groups", "across"):
        del value[name]
    for name in ("fingerprints", "groups", "ranks", "choice"):
        del value["sites"][0][name]
    assert Trace.from_json(json.dumps(value)) == Trace(sites=(site(),))
    joined = join([rank_of(0, "a"), rank_of(1, "a")])
    assert Trace.from_json(joined.to_json()) == joined
    assert isinstance(joined.sites[0], Site)
