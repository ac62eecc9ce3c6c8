import itertools

import numpy as np
import pytest
import torch

from tvlens import TvlensError, bayes
from tvlens.bayes import solve_phase_boundary
from tvlens.bayes.phase_boundary import find_crossing

LENGTH = 5


def make_family(minor, mass):
    return bayes.Dice(tasks=2, faces=2, minor=minor, minor_mass=mass, seed=1)


@pytest.fixture(scope="module")
def result():
    sizes = dict(lengths=[2, LENGTH], sequences=2000)
    return solve_phase_boundary(make_family, minors=[4, 1], masses=[0.1, 0.4], **sizes)


@pytest.mark.parametrize(("minor", "mass"), [(1, 0.1), (4, 0.4)])
def test_the_mean_advantage_is_that_of_all_sequences(result, minor, mass):
    family = make_family(minor, mass)
    tokens = torch.tensor(list(itertools.product(range(2), repeat=LENGTH)))
    retrieval, extrapolation = (
        reference(family, tokens).log_evidence[:, -1]
        for reference in (bayes.retrieval, bayes.extrapolation)
    )
    truth = bayes.learner(family, tokens).log_evidence[:, -1].exp()
    for split, probability in (("train", retrieval.exp()), ("ood", truth)):
        assert float(probability.sum()) == pytest.approx(1)
        exact = float((probability * (retrieval - extrapolation)).sum())
        low, high = result.interval[split, minor, mass, LENGTH]
        width = high - low
        assert low - width / 2 < exact < high + width / 2
        assert abs(result.mean[split, minor, mass, LENGTH] - exact) < width


def test_a_crossing_is_interpolated_between_numbers_of_tasks():
    x = np.array([0.0, 1.0, 3.0])
    values = np.array([[2.0, 1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, -1.0, -2.0]])
    assert find_crossing(x, values).tolist() == [2.0, np.inf, -np.inf, 0.5]


def test_a_larger_tolerance_gives_way_to_extrapolation_sooner():
    sizes = dict(minors=[1, 8, 64], lengths=[32], sequences=200)
    result = solve_phase_boundary(lambda k, p: bayes.Dice(minor=k, minor_mass=p), **sizes)
    place = dict(mass=0.1, length=32)
    boundaries = [result.boundary(tolerance, **place)[0] for tolerance in (0.0, 0.002, 0.004, 1.0)]
    assert boundaries == sorted(boundaries, reverse=True)
    assert boundaries[-1] == -np.inf
    value, (low, high) = result.boundary(0.002, **place)
    assert low <= value <= high


def test_results_are_tables_with_one_row_per_place(result):
    table = result.to_dataframe()
    assert len(table) == 2 * 2 * 2 * 2
    assert list(table.columns[:4]) == ["split", "minors", "mass", "length"]
    assert result.minors == (1, 4) and "M1 leads by" in repr(result)


def test_bad_sizes_are_refused():
    with pytest.raises(TvlensError, match="at least one number of minor tasks"):
        solve_phase_boundary(make_family, minors=[], lengths=[4])
    with pytest.raises(TvlensError, match="minors is a whole number of at least 1"):
        solve_phase_boundary(make_family, minors=[0], lengths=[4])
