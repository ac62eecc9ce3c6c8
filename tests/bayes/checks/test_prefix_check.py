import pytest
import torch

from tvlens import TvlensError
from tvlens.bayes import Dice, Dyck
from tvlens.bayes.checks.prefix_check import prefix_dependence

SIZES = dict(length=24, sequences=1000, resamples=50, null=5)


@pytest.fixture(scope="module")
def family():
    return Dyck(tasks=2, symbols=2, pairs=6, seed=1)


def test_states_of_task_and_token_do_not_depend_on_the_prefix(family):
    result = prefix_dependence("label", family, **SIZES)
    assert float(result.within_share.max()) < 1e-12
    # A probe predicts the most frequent value.
    assert (result.accuracy[:, 0] - result.null.mean(1)).abs().max() < 0.05


def test_counts_of_brackets_are_found_within_cells(family):
    result = prefix_dependence("learner", family, **SIZES)
    assert float(result.within_share[-1, 1]) > 0.3
    assert float(result.prefix_share[-1, 1]) > 0.8 * float(result.within_share[-1, 0])
    assert bool((result.accuracy[:, 1] > result.null.amax(1)).all())
    # The mean path lies in the middle.
    passed = result.residual[~result.residual.isnan()]
    assert passed.argmin() not in (0, len(passed) - 1)


def test_intervals_contain_the_values(family):
    result = prefix_dependence("learner", family, **SIZES)
    for value, low, high in (result.within_share[-1], result.accuracy[0], result.accuracy[1]):
        assert low <= value <= high
    assert list(result.to_dataframe().position) == list(range(24))


def test_equal_seeds_give_equal_results(family):
    one, other = (prefix_dependence("readout", family, **SIZES) for _ in range(2))
    assert torch.equal(one.null, other.null) and torch.equal(one.within_share, other.within_share)


def test_families_without_paths_are_refused():
    with pytest.raises(TvlensError, match="prefixes are those of Dyck paths"):
        prefix_dependence("label", Dice(tasks=2), **SIZES)
