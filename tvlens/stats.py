"""Intervals and nulls: how sure a number is, and what chance alone would give."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    statistic: Callable = np.mean,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over the first axis of `values`.

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
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("no values to bootstrap")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {values.size} values are NaN")
    if len(values) == 1 or (values == values[0]).all():
        point = float(statistic(values, axis=0))
        return point, point
    result = stats.bootstrap(
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
