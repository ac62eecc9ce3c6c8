import pytest
import torch
from planted import PlantedModel, TokenDependentModel, untrained_model

from tvlens import TvlensError, bayes
from tvlens.bayes.checks.representation_check import MEASURES


def test_representation_recovers_a_convex_combination(retrieval_model, dice):
    result = bayes.representation(retrieval_model, dice, resamples=50, null=10)
    assert result["explained share"][-1] > 0.995 and result["correlation"][-1] > 0.995
    assert result["total variation"][-1] < 0.02
    assert result["interaction"][-1] < 0.005 and result["within-cell share"][-1] < 0.02
    # The posterior varies within a task after few observations, and the weights follow it.
    assert result["within-cell share"][0] > 0.05
    assert (result["correlation"] > 0.95).all()
    assert (result.null["total variation"][-1] > 0.4).all()
    assert (result.null["correlation"].abs() < 0.4).all()
    assert (result.null["explained share"] < 0.7).all()
    planted = retrieval_model.task - retrieval_model.task.mean(0)
    assert torch.cosine_similarity(result.task_vectors, planted).min() > 0.999
    for measure in ("explained share", "correlation"):
        assert (result.interval[measure][:, 0] <= result[measure] + 1e-9).all()


def test_representation_by_token_recovers_token_dependent_task_vectors(dice):
    options = dict(observations=[8, 40], resamples=50, null=10)
    result = bayes.representation(TokenDependentModel(dice), dice, **options)
    assert result["interaction"][-1] > 0.1
    assert result["correlation"][-1] < 0.8 and result["total variation"][-1] > 0.2
    assert (result["correlation by token"] > 0.95).all()
    assert result["total variation by token"][-1] < 0.03
    assert result["explained share by token"][-1] > 0.98
    assert (result.null["total variation by token"][-1] > 0.3).all()
    assert (result.null["explained share by token"][-1] < 0.8).all()


def test_representation_of_random_states_stays_within_its_null(dice):
    model = PlantedModel(dice, noise=True)
    options = dict(observations=[8, 40], per_cell=24, resamples=50, null=40)
    result = bayes.representation(model, dice, **options)
    for measure in MEASURES[2:]:
        null = result.null[measure][-1]
        z = (float(result[measure][-1]) - float(null.mean())) / float(null.std())
        assert abs(z) < 4, measure
    assert result["within-cell share"][-1] > 0.9


def test_representation_refuses_an_unknown_measure(dice):
    options = dict(observations=[4], per_cell=2, resamples=5, null=2)
    result = bayes.representation(untrained_model(dice), dice, **options)
    with pytest.raises(TvlensError, match="unknown measure 'P9'"):
        result["P9"]
