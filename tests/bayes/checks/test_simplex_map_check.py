import pytest
import torch
from planted import untrained_model

from tvlens import TvlensError, bayes


def test_a_readout_linear_in_probabilities_predicts_the_arithmetic_mixture(retrieval_model, dice):
    result = bayes.simplex_map(retrieval_model, dice, resolution=4, sequences=16)
    assert len(result.weights) == 15 and (result.weights.sum(1) - 1).abs().max() < 1e-12
    assert result.to_arithmetic.mean() < 1e-4 < 0.004 < result.to_geometric.mean()
    assert 0 < result.preference_interval[0] < result.preference < result.preference_interval[1]
    corners = result.weights.amax(1) == 1
    assert corners.sum() == 3 and result.between[corners].max() < 1e-12


def test_a_readout_linear_in_logits_predicts_the_geometric_mixture(logit_model, dice):
    for by_token in (False, True):
        result = bayes.simplex_map(logit_model, dice, resolution=4, sequences=16, by_token=by_token)
        assert result.to_geometric.mean() < 1e-4 < 0.004 < result.to_arithmetic.mean()
        torch.testing.assert_close(result.to_arithmetic, result.between, rtol=0.1, atol=1e-3)
        assert result.preference_interval[1] < 0


def test_a_simplex_map_needs_three_major_tasks():
    family = bayes.Dice(tasks=4, faces=4)
    with pytest.raises(TvlensError, match=r"needs three major tasks; .* has 4"):
        bayes.simplex_map(untrained_model(family), family)
    with pytest.raises(TvlensError, match="resolution is a whole number of at least 2"):
        bayes.simplex_map(untrained_model(bayes.Dice()), bayes.Dice(), resolution=1)
