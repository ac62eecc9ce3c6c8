"""Compare `agreement` with numpy, planted weights and its null."""

import numpy as np
import pytest
import torch

from tvlens import TvlensError
from tvlens.bayes import Agreement, agreement


def sample_distributions(shape, seed, concentration=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.full(shape[-1], concentration), size=shape[:-1]))


def test_agreement_equals_numpy():
    x, y = sample_distributions((2, 30, 3), 0), sample_distributions((30, 3), 1)
    result = agreement(x, y)
    for layer in range(2):
        one = np.corrcoef(x[layer].flatten(), y.flatten())[0, 1]
        assert float(result.correlation[layer]) == pytest.approx(one)
        distance = (x[layer] - y).abs().sum(-1).mean() / 2
        assert float(result.distance[layer]) == pytest.approx(float(distance))
    assert result.uniform_distance == pytest.approx(float((y - 1 / 3).abs().sum(-1).mean() / 2))
    assert result.at_layer(1).correlation == result.correlation[1]


def test_agreement_exceeds_its_null_for_dependent_weights_only():
    y = sample_distributions((120, 3), 2)
    near = 0.8 * y + 0.2 * sample_distributions((120, 3), 3)
    far = sample_distributions((120, 3), 4)
    result = agreement(torch.stack([near, far]), y)
    low, high = result.correlation_interval[0].tolist()
    assert 0.9 < low <= result.correlation[0] <= high <= 1
    assert result.distance_interval[0, 1] < 0.2 < result.null_distance[0].min()
    ends = torch.quantile(result.null_correlation[1], torch.tensor([0.005, 0.995]).double())
    assert ends[0] < result.correlation[1] < ends[1]
    assert result.correlation_interval[1, 0] < 0 < result.correlation_interval[1, 1]


def test_correlation_interval_has_its_nominal_coverage():
    covered = []
    for seed in range(60):
        y = sample_distributions((40, 2), 2 * seed)
        x = 0.5 * y + 0.5 * sample_distributions((40, 2), 2 * seed + 1)
        low, high = agreement(x, y, resamples=300, null=1, seed=seed).correlation_interval.tolist()
        covered.append(low <= 2**-0.5 <= high)  # equal variances, independent
    assert 0.85 <= np.mean(covered) <= 1


def test_interval_resamples_whole_clusters():
    """Copies of a prompt within its cluster do not narrow the interval."""
    x, y = sample_distributions((20, 3), 5), sample_distributions((20, 3), 6)
    once = agreement(x, y)
    copies = agreement(x.repeat(9, 1), y.repeat(9, 1), clusters=torch.arange(20).repeat(9))
    torch.testing.assert_close(copies.correlation_interval, once.correlation_interval)
    torch.testing.assert_close(copies.distance_interval, once.distance_interval)
    alone = agreement(x.repeat(9, 1), y.repeat(9, 1))
    assert alone.distance_interval.diff() < 0.5 * once.distance_interval.diff()


def test_constant_weights_have_zero_correlation():
    y = sample_distributions((20, 3), 5)
    result = agreement(torch.full_like(y, 1 / 3), y)
    assert result.correlation == 0
    assert float(result.distance) == pytest.approx(result.uniform_distance)


def test_agreement_is_saved_tabulated_and_plotted(tmp_path):
    result = agreement(sample_distributions((2, 20, 3), 0), sample_distributions((20, 3), 1))
    result.save(tmp_path / "a.safetensors")
    loaded = Agreement.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.null_distance, result.null_distance)
    assert loaded.uniform_distance == result.uniform_distance
    frame = result.to_dataframe()
    assert list(frame.layer) == [0, 1]
    assert frame.correlation.tolist() == result.correlation.tolist()
    assert len(result.at_layer(0).to_dataframe()) == 1
    assert all("<" in one._repr_html_() for one in (result, result.at_layer(0)))


def test_bad_input_raises_one_line_errors():
    y = sample_distributions((5, 3), 0)
    with pytest.raises(TvlensError, match=r"weights of \[4, 3\]"):
        agreement(y[:4], y)
    with pytest.raises(TvlensError, match="weights 0 is not a distribution"):
        agreement(2 * y, y)
    with pytest.raises(TvlensError, match="two clusters"):
        agreement(y, y, clusters=torch.zeros(5, dtype=torch.long))
