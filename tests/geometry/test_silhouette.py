import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances, silhouette_score

from tvlens import TvlensError
from tvlens.geometry import SilhouetteTest, silhouette_test
from tvlens.geometry.silhouette import mean_silhouettes


@settings(max_examples=60, deadline=None)
@given(n=st.integers(4, 30), k=st.integers(2, 4), seed=st.integers(0, 10**6))
def test_mean_silhouettes_equal_scikit_learn(n, k, seed):
    k = min(k, n - 1)
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 3, (n, 2)).astype(float)  # many coincide
    first = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    labels = rng.permuted(np.tile(first, (5, 1)), axis=1)
    ours = mean_silhouettes(pairwise_distances(points), labels)
    np.testing.assert_allclose(ours, [silhouette_score(points, l) for l in labels], atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_silhouette_detects_clusters_by_task_only(metric):
    """Points of six tasks in two modalities, clustered by task."""
    rng = np.random.default_rng(0)
    task, modality = np.tile(np.repeat(np.arange(6), 8), 2), np.repeat([0, 1], 48)
    points = rng.standard_normal((6, 20))[task] + 0.3 * rng.standard_normal((96, 20))
    points, task, modality = map(torch.tensor, (points, task, modality))
    by_task = silhouette_test(points, task, metric=metric, null=200)
    by_modality = silhouette_test(points, modality, metric=metric, null=200)
    wanted = silhouette_score(points.numpy(), task.numpy(), metric=metric)
    assert by_task.silhouette == pytest.approx(wanted)
    assert by_task.silhouette > 0.4 and by_task.p_value == 1 / 201 and by_task.effect_size > 10
    assert by_modality.silhouette < 0.05 and by_modality.p_value > 0.02


def test_p_values_of_random_labels_are_uniform():
    rng = np.random.default_rng(0)
    labels = torch.arange(30) % 3
    p = [
        silhouette_test(
            torch.tensor(rng.standard_normal((30, 4))), labels, null=200, seed=s
        ).p_value
        for s in range(200)
    ]
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_p_value_of_two_pairs_equals_enumeration():
    """Four points in two tight pairs: one of three pairings has this silhouette."""
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    result = silhouette_test(points, torch.tensor([0, 0, 1, 1]), null=3000)
    assert result.p_value == pytest.approx(1 / 3, abs=0.03)


def test_silhouette_test_is_reproducible_saved_and_plotted(tmp_path):
    points = torch.randn(20, 3)
    labels = 10 + 5 * (torch.arange(20) % 2)
    result = silhouette_test(points, labels, null=50, seed=1)
    assert torch.equal(silhouette_test(points, labels, null=50, seed=1).null, result.null)
    assert not torch.equal(silhouette_test(points, labels, null=50, seed=2).null, result.null)
    result.save(tmp_path / "s.safetensors")
    loaded = SilhouetteTest.load(tmp_path / "s.safetensors")
    assert loaded.silhouette == result.silhouette and loaded.p_value == result.p_value
    frame = result.to_dataframe()
    assert frame.silhouette[0] == result.silhouette and frame.p_value[0] == result.p_value
    assert "data-tvlens" in result._repr_html_() and "silhouette" in repr(result)


def test_bad_input_raises_one_line_errors(unchecked):
    points, labels = torch.randn(6, 2), torch.arange(6) % 2
    cases = [
        (points, labels[1:], {}, r"labels has shape \[5\]; \[6\] is needed"),
        (points, 0 * labels, {}, "1 different labels for 6 points"),
        (points, torch.arange(6), {}, "6 different labels for 6 points"),
        (points * torch.nan, labels, {}, "NaN"),
        (points, labels, dict(metric="nearness"), "metric 'nearness'"),
        (points, labels, dict(null=1), "null is 1"),
        (torch.ones(6, 2), labels, {}, "all permutations of the labels"),
    ]
    for where, by, options, message in cases:
        with pytest.raises(TvlensError, match=message):
            silhouette_test(where, by, **options)
