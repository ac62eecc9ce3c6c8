import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from tvlens import Subspace, TvlensError
from tvlens.geometry import Orthogonality
from tvlens.geometry.orthogonality import sample_smallest_angles


@pytest.mark.parametrize(("d", "r", "s"), [(5, 2, 3), (12, 2, 5), (12, 5, 2), (40, 4, 4)])
def test_null_equals_angles_of_random_subspaces(d, r, s):
    """The reference is scipy's angles between spans of Gaussian matrices."""
    rng = np.random.default_rng(0)
    plain = [
        scipy.linalg.subspace_angles(rng.standard_normal((d, r)), rng.standard_normal((d, s)))[-1]
        for _ in range(1500)
    ]
    fast = sample_smallest_angles(d, r, s, draws=6000, seed=1)
    assert scipy.stats.ks_2samp(plain, fast).pvalue > 0.01


@pytest.mark.parametrize(("d", "r"), [(2, 1), (7, 1), (7, 3), (1000, 20)])
def test_null_of_a_line_is_beta_distributed(d, r):
    """cos^2 of the angle between a random line and r dimensions is Beta(r/2, (d-r)/2)."""
    null = sample_smallest_angles(d, r, 1, draws=5000, seed=0)
    beta = scipy.stats.beta(r / 2, (d - r) / 2)
    assert scipy.stats.kstest(np.cos(null) ** 2, beta.cdf).pvalue > 0.01


def test_p_values_of_random_subspaces_are_uniform():
    results = [
        Subspace.random(30, 3, seed=2 * s).orthogonality(
            Subspace.random(30, 2, seed=2 * s + 1), null=300, seed=s
        )
        for s in range(300)
    ]
    for side in ("p_value", "p_value_far"):
        values = [getattr(r, side) for r in results]
        assert scipy.stats.kstest(values, "uniform").pvalue > 0.01
    assert np.mean([r.effect_size for r in results]) == pytest.approx(0, abs=0.2)


def test_p_values_detect_planted_overlap_and_orthogonality():
    a = Subspace.random(128, 2, seed=0)
    near = Subspace.span(a.basis.T + 0.05 * torch.randn(2, 128))
    overlap = a.orthogonality(near, null=500)
    assert overlap.p_value == 1 / 501 and overlap.p_value_far == 1 and overlap.effect_size < -5
    apart = a.orthogonality(Subspace(a.complement().basis[:, :3]), null=500)
    assert apart.smallest_angle == pytest.approx(math.pi / 2, abs=1e-5)
    assert apart.p_value_far == 1 / 501 and apart.p_value == 1 and apart.effect_size > 1


def test_random_subspaces_of_high_dimension_are_not_significant():
    """More than 80 degrees is the expectation for random subspaces."""
    result = Subspace.random(2000, 2, seed=5).orthogonality(Subspace.random(2000, 2, seed=6))
    assert result.smallest_angle > math.radians(80) and abs(result.effect_size) < 3
    assert 0.02 < result.p_value < 0.98 and 0.02 < result.p_value_far < 0.98


def test_orthogonality_is_reproducible_tabulated_and_saved(tmp_path):
    a, b = Subspace.random(20, 2, seed=1), Subspace.random(20, 3, seed=2)
    result = a.orthogonality(b, null=200, seed=4)
    assert torch.equal(result.angles, a.angles(b))
    assert result.smallest_angle == float(result.angles.min())
    assert torch.equal(a.orthogonality(b, null=200, seed=4).null, result.null)
    assert not torch.equal(a.orthogonality(b, null=200, seed=5).null, result.null)
    assert result.p_value + result.p_value_far == pytest.approx(1 + 1 / 201)
    assert result.effect_size == pytest.approx(
        float((result.angles[0] - result.null.mean()) / result.null.std()), abs=1e-4
    )
    frame = result.to_dataframe()
    assert frame.angle.tolist() == result.angles.tolist()
    assert frame.p_value[0] == result.p_value and frame.p_value.isna()[1]
    assert "data-tvlens" in result._repr_html_() and "ranks 2 and 3 of 20" in repr(result)
    result.save(tmp_path / "o.safetensors")
    loaded = Orthogonality.load(tmp_path / "o.safetensors")
    assert loaded.ranks == (2, 3) and torch.equal(loaded.null, result.null)


def test_orthogonality_refuses_overlapping_ranks_and_small_nulls():
    a = Subspace.random(6, 4, seed=1)
    with pytest.raises(TvlensError, match="always share a direction"):
        a.orthogonality(Subspace.random(6, 3))
    a.orthogonality(Subspace.random(6, 2))
    with pytest.raises(TvlensError, match="null is 1"):
        a.orthogonality(Subspace.random(6, 2), null=1)
