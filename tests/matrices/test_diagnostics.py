"""R^2, CKA, layer maps and distances."""

import numpy as np
import pytest
import tiny
import torch
from finetuned_models import make_batches, perturb
from helpers import normal

from tvlens import PairMoments, TaskMatrix, TvlensError
from tvlens.geometry import cka as cka_of_states
from tvlens.matrices import (
    cka,
    collect_moments,
    distance_from_identity,
    layer_map,
    r2,
    r2_by_dimension,
    weight_distance,
)


def sample_pairs(n=80, d=7, t=5, rank=None, seed=0, task=1):
    x = normal(n, d, seed=seed) @ normal(d, d, seed=7) + 2
    w = normal(d, t, seed=task) if rank is None else normal(d, rank) @ normal(rank, t)
    return x, x @ w + 1 + 0.5 * normal(n, t, seed=seed + 100)


def test_diagnostics_from_moments_match_those_of_states():
    x, y = sample_pairs()
    y[:, 3] = 2.0
    fresh_x, fresh_y = sample_pairs(40, seed=3)
    moments, fresh = PairMoments().update(x, y), PairMoments().update(fresh_x, fresh_y)
    matrix = TaskMatrix.from_moments(moments)
    assert cka(moments) == pytest.approx(cka_of_states(x, y))
    for states, target, m in ((x, y, moments), (fresh_x, fresh_y, fresh)):
        from sklearn.metrics import r2_score

        prediction = matrix.predict(states).numpy()
        by_dimension = r2_score(target.numpy(), prediction, multioutput="raw_values")
        np.testing.assert_allclose(r2_by_dimension(m, matrix), by_dimension, atol=1e-8)
        residual = ((target.numpy() - prediction) ** 2).sum()
        spread = (target - target.mean(0)).square().sum()
        assert r2(m, matrix) == pytest.approx(1 - residual / float(spread))


def test_predicted_r2_matches_r2_on_new_pairs():
    """The R^2 of the fitted pairs would be 1 with fewer pairs than dimensions."""
    d = 60
    w = normal(d, 20, seed=2)

    def sample_pairs_of_one_map(n, seed):
        x = normal(n, d, seed=seed)
        return x, x @ w + 8 * normal(n, 20, seed=seed + 1)

    for n in (50, 300):
        matrix = TaskMatrix.from_states(*sample_pairs_of_one_map(n, 5))
        new = r2(PairMoments().update(*sample_pairs_of_one_map(4000, 11)), matrix)
        assert matrix.meta["predicted_r2"] == pytest.approx(new, abs=0.12)


def test_distance_from_identity_of_scaled_identity():
    eye = TaskMatrix(torch.eye(4), torch.zeros(4))
    assert distance_from_identity(eye) == 0
    assert distance_from_identity(TaskMatrix(3 * torch.eye(4), torch.zeros(4))) == pytest.approx(2)
    with pytest.raises(TvlensError, match="no identity from 7 to 5"):
        distance_from_identity(TaskMatrix.from_states(*sample_pairs()))


def test_layer_map_is_best_near_the_diagonal():
    base, prompts = tiny.model("bert"), make_batches("bert", count=4, rows=30)
    tuned = perturb(base, by=0.002)
    moments = collect_moments(base, tuned, prompts, targets="all", progress=False)
    new = collect_moments(
        base, tuned, make_batches("bert", count=4, rows=30, seed=9), targets="all", progress=False
    )
    result, held_out = layer_map(moments), layer_map(moments, held_out=new)
    assert result.r2.shape == result.cka.shape == (3, 3)
    # After a small change each layer is predicted best from itself, and worse from later layers.
    assert result.r2.diagonal().min() > 0.9 and (result.r2.diagonal() >= result.r2.T).all()
    assert held_out.r2.diagonal().min() > 0.9
    sharded = layer_map(
        collect_moments(base, tuned, prompts, layers=[l], targets="all", progress=False)
        for l in range(3)
    )
    torch.testing.assert_close(sharded.r2, result.r2, atol=1e-6, rtol=1e-6)
    assert len(result.to_dataframe()) == 9 and "finetuned layer" in result._repr_html_()


def test_weight_distance_matches_parameter_differences():
    base = tiny.model("gpt2")
    tuned = perturb(base, by=0.01)
    result = weight_distance(base, tuned)
    squares = sum(
        float((a.double() - b.double()).square().sum().detach())
        for a, b in zip(base.parameters(), tuned.parameters(), strict=True)
    )
    assert result.norm == pytest.approx(squares**0.5)
    assert result.norm == pytest.approx(float(result.by_layer.norm()))  # nothing else was moved
    assert weight_distance(base, base).norm == 0 and not result.left_out
