"""The statistics of an audit: bounds on the chance of a false alarm, however long one looks.

The keep rate of a site is tested with an e-process: the likelihood of what was seen under a
mixture of drop probabilities, most of them near the declared one and some of them anywhere, over
its likelihood under the declared one.
Under the null its expectation is 1 at every moment, so that by Ville's inequality it ever reaches
`1 / alpha` with a chance of at most alpha: it may be looked at after each step, forever.
"""

from __future__ import annotations

import math

PRIOR = 200
"""Draws that the near part of the mixture, Beta(200 p, 200 q), is worth: it finds small errors."""
ANYWHERE = 0.1
"""Weight of the rest, which is uniform: it finds gross errors, such as p for q, sooner."""


def log_e(drops: int, draws: int, p: float, half_width: float = 0.0) -> float:
    """Natural logarithm of the evidence that a rate of `drops` in `draws` is not `p`.

    With `half_width` the null is every rate in `p - half_width` to `p + half_width`, for kernels
    that round p: the result is the least evidence against any of them. `math.inf` if the null
    rules out what was seen. Raises `ValueError` for counts or rates that cannot be.

    >>> round(log_e(100, 1000, p=0.1), 2)
    -1.0
    >>> log_e(200, 1000, p=0.1) > math.log(1e9)
    True
    """
    if not 0 <= drops <= draws:
        raise ValueError(f"{drops} drops in {draws} draws cannot be")
    if not 0 <= p <= 1 or not 0 <= half_width < math.inf:
        raise ValueError(f"no drop probability: {p} within {half_width}")
    if draws == 0:
        return 0.0
    low, high = max(0.0, p - half_width), min(1.0, p + half_width)
    likeliest = min(max(drops / draws, low), high)
    under_null = log_likelihood(drops, draws, likeliest)
    if under_null == -math.inf:
        return math.inf
    center = (low + high) / 2
    near = _log_mixture(drops, draws, PRIOR * center, PRIOR * (1 - center))
    anywhere = _log_mixture(drops, draws, 1, 1)
    parts = (math.log(1 - ANYWHERE) + near, math.log(ANYWHERE) + anywhere)
    return max(parts) + math.log1p(math.exp(min(parts) - max(parts))) - under_null


def log_likelihood(drops: int, draws: int, p: float) -> float:
    """Natural logarithm of the chance of one sequence with `drops` drops, `-inf` if it has none.

    >>> log_likelihood(0, 5, p=0.0), log_likelihood(1, 5, p=0.0)
    (0.0, -inf)
    """
    total = 0.0
    for count, rate in ((drops, math.log(p) if p > 0 else -math.inf), (draws - drops, _log1m(p))):
        total += count * rate if count else 0.0
    return total


def site_alpha(alpha: float, site: int, tests: int) -> float:
    """The share of `alpha` for one of `tests` tests at the `site`-th site, from 1.

    The shares of all sites, however many, sum to alpha.

    >>> sum(site_alpha(0.01, site, tests=2) * 2 for site in range(1, 1000)) < 0.01
    True
    """
    return alpha * 6 / (math.pi * site) ** 2 / tests


def chance_of_repeat(p: float, joint: int) -> float:
    """The chance that two independent masks agree in `joint` draws: `(p^2 + q^2)^joint`.

    >>> chance_of_repeat(0.5, 10) == 2**-10
    True
    """
    return float((p * p + (1 - p) * (1 - p)) ** joint)


def chance_of_none(p: float, draws: int) -> float:
    """The chance that a healthy dropout drops nothing in `draws` draws: `q^draws`.

    >>> round(chance_of_none(0.1, 10), 3)
    0.349
    """
    return float((1 - p) ** draws)


def mean_bound(error: float, alpha: float, jump: float = 0.0) -> float:
    """How far a mean may be off before it is no chance: exceeded with a chance below `alpha`.

    `error` is the standard error of the mean, `jump` the most that one draw can move it. This is
    Bernstein's inequality, which holds far out in the tail, where the normal approximation does
    not; with many draws it is about 1.1 times the normal quantile. Units of the mean.

    >>> 4.9 < mean_bound(1.0, 1e-6) < 5.4
    True
    >>> mean_bound(0.0, 1e-6)
    0.0
    """
    if error < 0 or jump < 0 or not 0 < alpha < 1:
        raise ValueError(f"no bound for error {error}, jump {jump}, alpha {alpha}")
    evidence = math.log(2 / alpha)
    return math.sqrt(2 * evidence) * error + jump * evidence / 3 * 2


def student_factor(draws: int, alpha: float) -> float:
    """By how much a bound on a mean grows because its error was estimated from `draws` values.

    The quantile of Student's distribution over the normal one: about 1 for many values, and
    without limit for one.

    >>> student_factor(6, 1e-6) > 5, student_factor(100_000, 1e-6) < 1.001
    (True, True)
    """
    freedom, squared = max(draws - 1, 0), 2 * math.log(2 / alpha)
    if freedom * 700 < squared:
        return math.inf
    return math.sqrt(freedom * math.expm1(squared / freedom) / squared)


_BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


def unit_roundoff(dtype: str) -> float:
    """The largest relative error of rounding to `dtype`; of float32 where it is not known.

    >>> unit_roundoff("bfloat16") == 2**-8
    True
    """
    return float(2.0 ** -_BITS.get(dtype, 24))


def rounded(value: float, dtype: str) -> float:
    """A positive `value` rounded to the nearest number that `dtype` can hold (no subnormals).

    >>> rounded(1 / 0.9, "bfloat16")
    1.109375
    """
    mantissa, exponent = math.frexp(value)
    bits = _BITS.get(dtype, 24)
    return math.ldexp(round(math.ldexp(mantissa, bits)), exponent - bits)


_ALPHA_PRIME = -1.7580993408473766
"""The value that alpha dropout sets elements to: minus the scale times the alpha of SELU."""


def alpha_scale(p: float) -> float:
    """The factor of alpha dropout, which keeps the variance of what is left at one.

    >>> round(alpha_scale(0.1), 6)
    0.921285
    """
    return float(((1 - p) * (1 + p * _ALPHA_PRIME**2)) ** -0.5)


def scale_slack(p: float, dtype: str) -> float:
    """How far from 1 `scale * q` may be for a right scale: what rounding explains, no more.

    An implementation may round `1/q`, or `q`, to `dtype` before it multiplies or divides, and the
    product is rounded once more; 1e-4 is added for sums in single precision.

    >>> round(abs(1.109375 * 0.9 - 1), 5), round(scale_slack(0.1, "bfloat16"), 5)
    (0.00156, 0.00575)
    """
    q = 1 - p
    if q <= 0:
        return math.inf
    by_factor = abs(rounded(1 / q, dtype) * q - 1)
    by_divisor = abs(q / rounded(q, dtype) - 1)
    return max(by_factor, by_divisor) + unit_roundoff(dtype) + 1e-4


def _log_mixture(drops: int, draws: int, a: float, b: float) -> float:
    """Likelihood under rates distributed as Beta(a, b): a point where a or b is zero."""
    if a <= 0 or b <= 0:
        return log_likelihood(drops, draws, 0.0 if a <= 0 else 1.0)
    return _log_beta(a + drops, b + draws - drops) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log1m(p: float) -> float:
    return math.log1p(-p) if p < 1 else -math.inf
