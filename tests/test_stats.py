import numpy as np
import pytest

from tvlens.stats import bootstrap_interval


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.random(60) < 0.7, resamples=400, seed=seed)
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval_and_constants_have_no_width():
    values = np.random.default_rng(1).random(30)
    assert bootstrap_interval(values, seed=4) == bootstrap_interval(values, seed=4)
    assert bootstrap_interval([1, 1, 1]) == (1.0, 1.0)


def test_nothing_and_nan_are_errors():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        bootstrap_interval([1.0, float("nan")])
