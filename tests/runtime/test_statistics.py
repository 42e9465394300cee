"""The statistics of an audit, against scipy and against simulated programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special, stats

from dropaudit.runtime.statistics import (
    ANYWHERE,
    PRIOR,
    chance_of_none,
    chance_of_repeat,
    log_e,
    log_likelihood,
    mean_bound,
    rounded,
    scale_slack,
    site_alpha,
    student_factor,
    unit_roundoff,
)

STREAMS = 100_000
RATES = [1e-4, 0.01, 0.1, 0.5, 0.9, 0.999]


@pytest.mark.parametrize("p", RATES)
@pytest.mark.parametrize("draws", [1, 10, 1000, 10**6, 10**9])
def test_the_evidence_agrees_with_scipy(p: float, draws: int) -> None:
    """The ratio of a mixture of beta-binomials and a binomial, by scipy's beta function."""
    for rate in (0.0, 0.5 * p, p, min(1.0, p * 1.01), 1.0):
        drops = round(rate * draws)
        a, b = PRIOR * p, PRIOR * (1 - p)
        near = special.betaln(a + drops, b + draws - drops) - special.betaln(a, b)
        anywhere = special.betaln(1 + drops, 1 + draws - drops)
        mixture = special.logsumexp([near, anywhere], b=[1 - ANYWHERE, ANYWHERE])
        null = special.xlogy(drops, p) + special.xlog1py(draws - drops, -p)
        assert log_e(drops, draws, p) == pytest.approx(mixture - null, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_the_evidence_is_a_martingale(p: float) -> None:
    """Under the null its expectation is 1, by summing over all outcomes of 300 draws."""
    chances = stats.binom.logpmf(np.arange(301), 300, p)
    evidence = [log_e(drops, 300, p) for drops in range(301)]
    assert special.logsumexp(chances + evidence) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_false_alarms_stay_within_alpha(p: float) -> None:
    """100,000 healthy streams, each looked at after every one of 600 draws."""
    alpha = 0.01
    alarmed = first_alarms(p, p, alpha, draws=600)
    assert 0 < np.isfinite(alarmed).sum() <= alpha * STREAMS


def test_a_test_without_correction_would_alarm_far_too_often() -> None:
    """The twin: the same simulation catches a test at level alpha that is repeated."""
    rng, alpha, p = np.random.default_rng(0), 0.01, 0.1
    drops, alarmed = np.zeros(STREAMS), np.zeros(STREAMS, bool)
    for n in range(1, 601):
        drops += rng.random(STREAMS) < p
        if n > 50:
            alarmed |= abs(drops - n * p) > normal_quantile(alpha) * math.sqrt(n * p * (1 - p))
    assert alarmed.mean() > 3 * alpha


@pytest.mark.parametrize(
    ("declared", "actual", "most"), [(0.1, 0.11, 45_000), (0.1, 0.109, 57_000)]
)
def test_a_rate_off_by_a_point_is_found_as_soon_as_promised(
    declared: float, actual: float, most: int
) -> None:
    """The median number of draws at 1e-9, within a tenth."""
    rng, needed = np.random.default_rng(1), []
    for _ in range(400):
        drops = np.cumsum(rng.binomial(200, actual, size=1000))
        looks = (200 * n for n, s in enumerate(drops, 1) if log_e(int(s), 200 * n, declared) > 20.7)
        needed.append(next(looks, 200_000))
    assert np.median(needed) <= 1.1 * most


def test_a_swapped_rate_is_found_within_22_draws() -> None:
    """Keeping with the probability of dropping, at 1e-9: median, within a tenth."""
    needed = first_alarms(0.1, 0.9, 1e-9, draws=60)
    assert np.median(needed) <= 1.1 * 22


def first_alarms(declared: float, actual: float, alpha: float, draws: int) -> np.ndarray:
    """For each of many streams the number of draws at its first alarm, infinite without one."""
    rng, limit = np.random.default_rng(2), -math.log(alpha)
    drops, first = np.zeros(STREAMS, np.int64), np.full(STREAMS, np.inf)
    for n in range(1, draws + 1):
        drops += rng.random(STREAMS) < actual
        evidence = np.array([log_e(s, n, declared) for s in range(drops.min(), drops.max() + 1)])
        over = evidence[drops - drops.min()] >= limit
        first[over & np.isinf(first)] = n
    return first


def test_a_kernel_that_rounds_p_raises_no_alarm() -> None:
    """Flash attention drops 26 of 256 at p = 0.1; a point null would alarm in a long run."""
    actual, draws = 26 / 256, 10**8
    drops = round(actual * draws)
    assert log_e(drops, draws, 0.1, half_width=1 / 512) < 0
    assert log_e(drops, draws, 0.1) > math.log(1e9)


@pytest.mark.parametrize("edge", [0.098, 0.102])
def test_an_interval_is_silent_at_its_edges_and_speaks_beyond(edge: float) -> None:
    """The edges belong to the null; half a point further out does not."""
    beyond = edge + (0.005 if edge > 0.1 else -0.005)
    assert log_e(round(edge * 10**7), 10**7, 0.1, half_width=0.002) < 0
    assert log_e(round(beyond * 10**7), 10**7, 0.1, half_width=0.002) > math.log(1e9)


def test_an_interval_gives_the_least_evidence_of_all_its_rates() -> None:
    """Its infimum, found by trying them: the evidence against a composite null."""
    tried = [log_likelihood(1200, 10_000, p) for p in np.linspace(0.08, 0.12, 401)]
    a, b = PRIOR * 0.1, PRIOR * 0.9
    near = special.betaln(a + 1200, b + 8800) - special.betaln(a, b)
    parts = [near, special.betaln(1201, 8801)]
    mixture = special.logsumexp(parts, b=[1 - ANYWHERE, ANYWHERE])
    assert log_e(1200, 10_000, 0.1, half_width=0.02) == pytest.approx(mixture - max(tried))


def test_rates_of_zero_and_one_allow_no_exception() -> None:
    """One drop at p = 0, or one kept element at p = 1, is proof; none of them is nothing."""
    assert log_e(0, 1000, 0.0) <= 0 and log_e(1000, 1000, 1.0) <= 0
    assert log_e(1, 1000, 0.0) == log_e(999, 1000, 1.0) == math.inf


def test_no_draws_are_no_evidence() -> None:
    """Whatever was declared."""
    assert [log_e(0, 0, p) for p in (0.0, 1e-300, 0.1, 1.0)] == [0.0] * 4


@pytest.mark.parametrize("p", [1e-300, 1e-12, 1 - 1e-12])
def test_extreme_rates_are_computed(p: float) -> None:
    """No overflow, and no alarm while nothing contradicts them."""
    assert math.isfinite(log_e(3, 10, p))
    assert log_e(round(p * 10**6), 10**6, p) <= 0.1


@pytest.mark.parametrize(
    ("drops", "draws", "p"), [(2, 1, 0.1), (-1, 1, 0.1), (0, 1, 1.5), (0, 1, math.nan)]
)
def test_impossible_counts_are_refused(drops: int, draws: int, p: float) -> None:
    """A mistake in what was counted is no evidence about dropout."""
    with pytest.raises(ValueError, match=r"cannot be|no drop probability"):
        log_e(drops, draws, p)


def test_the_shares_of_alpha_sum_to_alpha() -> None:
    """Over any number of sites and the tests at each."""
    shares = sum(3 * site_alpha(1e-6, site, tests=3) for site in range(1, 100_000))
    assert 0.9999e-6 < shares < 1e-6


def test_the_chance_of_a_repeat_is_that_of_two_equal_masks() -> None:
    """Counted over all pairs of masks of three draws."""
    masks = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    chance = sum(0.3 ** (2 * sum(m)) * 0.7 ** (6 - 2 * sum(m)) for m in masks)
    assert chance_of_repeat(0.3, 3) == pytest.approx(chance)
    assert chance_of_repeat(0.0, 100) == chance_of_repeat(1.0, 100) == 1
    assert chance_of_none(0.3, 3) == pytest.approx(0.343)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_a_mean_leaves_its_bound_less_often_than_promised(p: float) -> None:
    """100,000 means of 100 scaled draws, skewed as they are, with the jump of one draw."""
    draws, alpha = 100, 0.01
    kept = np.random.default_rng(3).binomial(draws, 1 - p, size=STREAMS)
    means = kept / draws / (1 - p)
    bound = mean_bound(math.sqrt(p / (1 - p) / draws), alpha, jump=1 / (1 - p) / draws)
    assert (abs(means - 1) > bound).mean() <= alpha


def test_a_bound_lies_outside_the_normal_one() -> None:
    """It promises more than the normal approximation, for every alpha."""
    for alpha in (0.1, 1e-3, 1e-6, 1e-12):
        assert normal_quantile(alpha) < mean_bound(1.0, alpha) < 1.6 * normal_quantile(alpha)


@pytest.mark.parametrize("draws", [2, 3, 6, 10, 40, 1000])
@pytest.mark.parametrize("alpha", [1e-2, 1e-6, 1e-9])
def test_a_bound_from_few_values_lies_outside_that_of_student(draws: int, alpha: float) -> None:
    """With the error estimated, a normal bound would be far too narrow."""
    exact = stats.t.isf(alpha / 2, draws - 1)
    assert mean_bound(1.0, alpha) * student_factor(draws, alpha) > exact


def test_one_value_bounds_nothing() -> None:
    """It shows no variation at all."""
    assert student_factor(1, 1e-6) == student_factor(0, 1e-6) == math.inf


def normal_quantile(alpha: float) -> float:
    """Two-sided, in standard deviations."""
    return float(stats.norm.isf(alpha / 2))


def test_a_bound_needs_sensible_figures() -> None:
    """A negative error is a mistake."""
    with pytest.raises(ValueError, match="no bound"):
        mean_bound(-1.0, 0.01)


@pytest.mark.parametrize(("dtype", "numpy"), [("float16", np.float16), ("float32", np.float32)])
@pytest.mark.parametrize("value", [1 / 0.9, 1 / 0.7, 1.0, 1 / 0.001])
def test_rounding_is_that_of_numpy(dtype: str, numpy: type[np.floating], value: float) -> None:
    """To nearest, ties to even."""
    assert rounded(value, dtype) == float(numpy(value))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("p", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_a_right_scale_is_within_its_slack(p: float, dtype: str) -> None:
    """Scale and product both rounded, for a thousand inputs; a scale that is 2 % off is not."""
    q, slack = 1 - p, scale_slack(p, dtype)
    for x in np.random.default_rng(4).uniform(0.1, 10, 1000):
        exact = rounded(float(x), dtype)
        for y in (exact * rounded(1 / q, dtype), exact / rounded(q, dtype), exact / q):
            assert abs(rounded(y, dtype) / exact * q - 1) <= slack
    assert slack < 0.02 and slack >= unit_roundoff(dtype)


def test_everything_is_within_the_slack_of_a_dropout_that_keeps_nothing() -> None:
    """At p = 1 there is no scale."""
    assert scale_slack(1.0, "float32") == math.inf
