"""Confidence intervals, bootstrap resampling and p-values.

Example:
    >>> low, high = tv.stats.share_interval([1, 1, 1, 0])
    >>> round(low, 2), round(high, 2)
    (0.3, 0.95)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import scipy
from jaxtyping import Float

from .errors import TvlensError

Seed = int | Sequence[int] | np.random.Generator
PercentileMethod = Literal["linear", "nearest"]


def check_level(level: float) -> None:
    """Raise TvlensError unless a confidence level lies between 0 and 1."""
    if not 0 < level < 1:
        raise TvlensError(f"level={level}: a confidence level lies between 0 and 1, such as 0.95")


def share_interval(
    outcomes: Sequence[float] | np.ndarray, *, level: float = 0.95
) -> tuple[float, float]:
    """Wilson interval of a share of independent items, such as the accuracy on a test part.

    It has a width even where all items agree. For 0/1 outcomes of 16 items or more a 95% interval
    covers the true share at least 92% of the time at the shares that the tests enumerate, and 95%
    of the time on average over shares.

    Args:
        outcomes: one value per item: 0 or 1, or the mean of an item's repeats, in between. The
            items are what varies independently, so that repeats narrow nothing: as the mean of an
            item's repeats varies no more than a single outcome, the interval then is too wide
            rather than too narrow.
        level: confidence level, between 0 and 1.

    Returns:
        (low, high), within 0 and 1; between whole numbers of right items, which repeats allow,
        the ends are interpolated.

    Raises:
        ValueError: no outcomes, or one that is NaN or not between 0 and 1.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, "Interval Estimation for a Binomial
    Proportion".
    """
    check_level(level)
    outcomes = np.asarray(outcomes, dtype=float)
    if outcomes.ndim != 1 or not outcomes.size:
        raise ValueError(f"outcomes are one value per item, not of shape {list(outcomes.shape)}")
    if not ((outcomes >= 0) & (outcomes <= 1)).all():
        raise ValueError("an outcome is NaN or not between 0 and 1")
    right, count = round(float(outcomes.sum()), 9), len(outcomes)
    below, above = (
        scipy.stats.binomtest(k, count).proportion_ci(level, "wilson")
        for k in (math.floor(right), math.ceil(right))
    )
    between = right - math.floor(right)
    low, high = (a + between * (b - a) for a, b in zip(below, above, strict=True))
    return min(max(float(low), 0.0), 1.0), min(max(float(high), 0.0), 1.0)


def mean_interval(
    values: Float[np.ndarray, "*more n"], *, level: float = 0.95
) -> Float[np.ndarray, "*more 2"]:
    """Student's t interval of the mean over the last axis: low and high ends.

    Exact for normal values at any n of 2 or more. For skewed ones it covers less with few values:
    of exponential values .88 at n = 5, .90 at n = 10 and .92 at n = 20, at a level of .95, where
    percentile bootstrap intervals cover .84 of normal values at n = 5. For one
    value both ends are NaN.
    """
    check_level(level)
    values = np.asarray(values, dtype=float)
    count = values.shape[-1]
    mean = values.mean(-1)
    if count < 2:
        return np.full((*mean.shape, 2), np.nan)
    half = scipy.stats.t.ppf((1 + level) / 2, count - 1) * values.std(-1, ddof=1) / math.sqrt(count)
    return np.stack([mean - half, mean + half], axis=-1)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over the first axis of `values`.

    For shares of right items use `share_interval`, and for means of few values `mean_interval`:
    resampling few values covers too little, and has no width where they agree.

    Args:
        values: observations, one per example; NaN is an error.
        statistic: a vectorised function with an `axis` argument.
        level: confidence level, between 0 and 1.
        resamples: number of bootstrap samples.
        seed: the same seed gives the same interval.

    Returns:
        (low, high); both equal the statistic where every value is the same.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
    """
    check_level(level)
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("no values to bootstrap")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} values are NaN")
    if len(values) == 1 or (values == values[0]).all():
        point = float(statistic(values, axis=0))
        return point, point
    result = scipy.stats.bootstrap(
        (values,),
        statistic,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    return float(interval.low), float(interval.high)


def bootstrap_counts(
    n: int, resamples: int, *, seed: Seed, strata: np.ndarray | None = None
) -> Float[np.ndarray, "draw n"]:
    """Draw bootstrap samples; count how often each of n items occurs in every sample.

    A statistic of weighted sums is then one matrix product for all samples.

    Args:
        resamples: number of bootstrap samples.
        seed: a seed, or a generator that continues.
        strata: label of each item; items are drawn with replacement within their stratum.
    """
    rng = np.random.default_rng(seed)
    strata = np.zeros(n, dtype=int) if strata is None else strata
    counts = np.empty((resamples, n))
    for label in np.unique(strata):
        (members,) = np.nonzero(strata == label)
        size = len(members)
        draws = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
        occurrences = np.bincount(draws.ravel(), minlength=resamples * size)
        counts[:, members] = occurrences.reshape(resamples, size)
    return counts


def percentiles(
    values: Any, *, tail: float = 0.025, axis: int = -1, method: PercentileMethod = "linear"
) -> Any:
    """Compute the ends of the central interval of values, with a share `tail` beyond each end.

    Args:
        values: an array or a tensor.
        method: "linear" interpolation between two values, or the "nearest" of them, for values
            that may be infinite.

    Returns:
        The two ends stacked in front, of the type of the values.
    """
    levels = [tail, 1 - tail]
    if isinstance(values, np.ndarray):
        return np.quantile(values, levels, axis=axis, method=method)
    import torch

    return torch.quantile(
        values, torch.tensor(levels, dtype=values.dtype), dim=axis, interpolation=method
    )


def permutation_p_value(
    null: Any,
    observed: float,
    *,
    alternative: Literal["greater", "less"] = "greater",
    tolerance: float = 0.0,
) -> float:
    """Compute a one-sided p-value from draws under the null: (1 + hits) / (1 + draws).

    Args:
        null: [draw], the statistic under the null, such as with permuted labels.
        observed: the statistic of the data.
        alternative: whether hits are draws >= observed ("greater") or <= observed ("less").
        tolerance: draws this close to the observed value count as ties, whatever the rounding.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, chapter 4.
    """
    is_less = alternative == "less"
    hits = null <= observed + tolerance if is_less else null >= observed - tolerance
    return (1 + int(hits.sum())) / (1 + len(null))


def effect_size(null: Any, observed: float) -> float:
    """Standard deviations of the null between its mean and the observed value."""
    return float((observed - null.mean()) / null.std())


def sign_flip_p_value(
    differences: Float[np.ndarray, "*more n"], *, permutations: int = 10_000, seed: int = 0
) -> Float[np.ndarray, "*more"]:
    """Two-sided sign-flip permutation test of mean 0; exact up to 13 differences.

    The smallest possible p-value of n differences is 2 / 2^n.

    Args:
        permutations: if all 2^n sign flips are more than this, as many random ones are drawn.
        seed: seed of random sign flips.
    """
    size = differences.shape[-1]
    if 2**size <= permutations:
        flips, correction = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1), 0
    else:
        flips = np.random.default_rng(seed).choice([-1, 1], (permutations, size))
        correction = 1
    null = np.abs(differences @ flips.astype(float).T)
    observed = np.abs(differences.sum(-1, keepdims=True))
    hits = (null >= observed * (1 - 1e-12)).sum(-1)
    p_values: np.ndarray = (hits + correction) / (len(flips) + correction)
    return p_values
