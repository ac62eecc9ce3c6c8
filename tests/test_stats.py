import numpy as np
import pytest
from scipy import stats

from tvlens import TvlensError
from tvlens.stats import bootstrap_interval, mean_interval, share_interval


@pytest.mark.parametrize("n", [16, 58])
@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_share_interval_has_nominal_coverage(p, n):
    """Summed over the binomial distribution, not simulated. A percentile bootstrap covers
    p = .02 with 16 items in .27 of all cases."""
    coverage, widths = 0.0, []
    for k in range(n + 1):
        low, high = share_interval([1] * k + [0] * (n - k))
        coverage += stats.binom.pmf(k, n, p) * (low <= p <= high)
        widths.append(high - low)
    assert 0.92 <= coverage <= 0.98
    assert min(widths) > 3 / n / 2, "an interval has a width even where all items agree"


def test_share_interval_equals_scipy():
    for k in range(13):
        wanted = stats.binomtest(k, 12).proportion_ci(0.9, "wilson")
        assert share_interval([1] * k + [0] * (12 - k), level=0.9) == pytest.approx(tuple(wanted))


def test_share_interval_of_repeated_items_has_nominal_coverage():
    """Items differ in their probability of a right answer; each is repeated five times."""
    rng = np.random.default_rng(0)
    share = rng.beta(0.5, 4.5, size=(500, 20))
    rows = rng.binomial(5, share) / 5
    ends = np.array([share_interval(row) for row in rows])
    assert np.mean((ends[:, 0] <= 0.1) & (ends[:, 1] >= 0.1)) > 0.95
    assert share_interval([0.5, 0.5, 0.0, 1.0]) == share_interval([1, 1, 0, 0])


def test_share_interval_refuses_values_outside_0_and_1():
    for outcomes in ([], np.zeros((1, 2)), [float("nan")], [2.0], [-0.1]):
        with pytest.raises(ValueError, match="outcome"):
            share_interval(outcomes)


def test_mean_interval_has_documented_coverage():
    """Exact for normal values; the numbers of the docstring for exponential ones. 40,000 draws:
    a standard error of .0016 at most."""
    rng = np.random.default_rng(0)
    for n, skewed in ((5, 0.88), (10, 0.90), (20, 0.92)):
        samples = {0.0: rng.standard_normal((40_000, n)), 1.0: rng.exponential(size=(40_000, n))}
        for (mean, values), wanted in zip(samples.items(), (0.95, skewed), strict=True):
            low, high = mean_interval(values).T
            assert np.mean((low <= mean) & (mean <= high)) == pytest.approx(wanted, abs=0.008)


def test_mean_interval_equals_scipy_and_is_nan_for_one_value():
    values = np.random.default_rng(1).standard_normal((3, 6))
    wanted = stats.ttest_1samp(values, 0, axis=-1).confidence_interval(0.9)
    assert mean_interval(values, level=0.9) == pytest.approx(np.stack(wanted, axis=-1))
    single = mean_interval(values[:, :1])
    assert np.isnan(single).all() and single.shape == (3, 2)


def test_bootstrap_interval_has_nominal_coverage():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.random(60) < 0.7, resamples=400, seed=seed)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_interval_is_reproducible():
    values = np.random.default_rng(1).random(30)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval([1, 1, 1]) == (1.0, 1.0)


def test_bootstrap_interval_refuses_no_values_and_nan():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        bootstrap_interval([1.0, float("nan")])


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, float("nan")])
def test_intervals_refuse_levels_outside_0_and_1(level):
    values = np.array([0.0, 1.0, 1.0])
    for interval in (share_interval, mean_interval, bootstrap_interval):
        with pytest.raises(TvlensError, match="a confidence level lies between 0 and 1"):
            interval(values, level=level)
