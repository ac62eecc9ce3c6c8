"""Agreement of distributions against numpy, planted truths and nulls."""

import numpy as np
import pytest
import torch

from tvlens import TvlensError
from tvlens.bayes import Agreement, agreement


def drawn(shape, seed, concentration=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.full(shape[-1], concentration), size=shape[:-1]))


def test_numbers_are_numpys():
    x, y = drawn((2, 30, 3), 0), drawn((30, 3), 1)
    found = agreement(x, y)
    for layer in range(2):
        one = np.corrcoef(x[layer].flatten(), y.flatten())[0, 1]
        assert float(found.correlation[layer]) == pytest.approx(one)
        distance = (x[layer] - y).abs().sum(-1).mean() / 2
        assert float(found.distance[layer]) == pytest.approx(float(distance))
    assert found.uniform_distance == pytest.approx(float((y - 1 / 3).abs().sum(-1).mean() / 2))
    assert found.at_layer(1).correlation == found.correlation[1]


def test_what_follows_is_seen_and_what_does_not_is_not():
    y = drawn((120, 3), 2)
    near = 0.8 * y + 0.2 * drawn((120, 3), 3)
    far = drawn((120, 3), 4)
    found = agreement(torch.stack([near, far]), y)
    low, high = found.correlation_interval[0].tolist()
    assert 0.9 < low <= found.correlation[0] <= high <= 1
    assert found.distance_interval[0, 1] < 0.2 < found.null_distance[0].min()
    ends = torch.quantile(found.null_correlation[1], torch.tensor([0.005, 0.995]).double())
    assert ends[0] < found.correlation[1] < ends[1]
    assert found.correlation_interval[1, 0] < 0 < found.correlation_interval[1, 1]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = []
    for seed in range(60):
        y = drawn((40, 2), 2 * seed)
        x = 0.5 * y + 0.5 * drawn((40, 2), 2 * seed + 1)
        low, high = agreement(x, y, resamples=300, null=1, seed=seed).correlation_interval.tolist()
        covered.append(low <= 2**-0.5 <= high)  # equal variances, independent
    assert 0.85 <= np.mean(covered) <= 1


def test_clusters_are_resampled_whole():
    """Copies of the same prompts in one cluster make no interval narrower."""
    x, y = drawn((20, 3), 5), drawn((20, 3), 6)
    once = agreement(x, y)
    copies = agreement(x.repeat(9, 1), y.repeat(9, 1), clusters=torch.arange(20).repeat(9))
    torch.testing.assert_close(copies.correlation_interval, once.correlation_interval)
    torch.testing.assert_close(copies.distance_interval, once.distance_interval)
    alone = agreement(x.repeat(9, 1), y.repeat(9, 1))
    assert alone.distance_interval.diff() < 0.5 * once.distance_interval.diff()


def test_weights_that_never_vary_follow_nothing():
    y = drawn((20, 3), 5)
    found = agreement(torch.full_like(y, 1 / 3), y)
    assert found.correlation == 0
    assert float(found.distance) == pytest.approx(found.uniform_distance)


def test_saved_and_shown(tmp_path):
    found = agreement(drawn((2, 20, 3), 0), drawn((20, 3), 1))
    found.save(tmp_path / "a.safetensors")
    again = Agreement.load(tmp_path / "a.safetensors")
    assert torch.equal(again.null_distance, found.null_distance)
    assert again.uniform_distance == found.uniform_distance
    frame = found.to_dataframe()
    assert list(frame.layer) == [0, 1]
    assert frame.correlation.tolist() == found.correlation.tolist()
    assert len(found.at_layer(0).to_dataframe()) == 1
    assert all("<" in one._repr_html_() for one in (found, found.at_layer(0)))


def test_wrong_input_is_named():
    y = drawn((5, 3), 0)
    with pytest.raises(TvlensError, match=r"weights of \[4, 3\]"):
        agreement(y[:4], y)
    with pytest.raises(TvlensError, match="weights 0 is not a distribution"):
        agreement(2 * y, y)
    with pytest.raises(TvlensError, match="two clusters"):
        agreement(y, y, clusters=torch.zeros(5, dtype=torch.long))
