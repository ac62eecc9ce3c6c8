from dataclasses import replace

import pytest
import torch
from planted import untrained_model

from tvlens import Subspace, TvlensError, bayes
from tvlens.bayes.checks.model_predictions import predict, predict_without_context


def test_search_finds_the_planted_learner_subspace(learner_model, dice):
    effects = bayes.task_effects(learner_model, dice)
    options = dict(max_rank=1, restarts=3, sequences=48, null=10)
    result = bayes.learner_subspace(learner_model, dice, effects=effects, **options)
    assert result.ratio_to_null > 3
    assert result.mean["ood"] > 10 * result.mean["major"]
    assert 2 * result.null_share["ood"] < result.share_interval["ood"][0] < result.share["ood"]
    assert result.known_ratio_interval[0] < result.known_ratio < result.known_ratio_interval[1]
    # New tasks use at most 6 of the 24 axes, the axis of their posterior weight most.
    task_mean = learner_model.task.sum(0)[None]
    axes = torch.cat([learner_model.learner, learner_model.new, task_mean])
    assert Subspace.span(axes).share(result.basis.T)[0] > 0.8
    assert Subspace.span(learner_model.new).share(result.basis.T)[0] > 0.6
    task_and_token = torch.cat([effects.task, effects.token]).double()
    assert result.subspace.share(task_and_token).max() < 1e-9

    # Rounding errors of another processor do not change the result.
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 1e-6 * torch.randn(effects.task.shape, generator=generator)
    rounded = replace(effects, task=effects.task * noise)
    perturbed = bayes.learner_subspace(learner_model, dice, effects=rounded, **options)
    torch.testing.assert_close(perturbed.share_by_rank, result.share_by_rank, rtol=1e-3, atol=0)
    assert perturbed.subspace.angles(result.subspace).max() < 1e-3
    torch.testing.assert_close(perturbed.null, result.null, rtol=1e-3, atol=1e-4)


def test_search_warns_before_convergence(learner_model, dice):
    options = dict(max_rank=1, steps=2, restarts=1, sequences=8, null=2)
    with pytest.warns(UserWarning, match="has not converged: after 2 steps the gradient is"):
        bayes.learner_subspace(learner_model, dice, **options)


@pytest.mark.filterwarnings("ignore:the subspace search has not converged")
@pytest.mark.parametrize("name", ["Dice", "LinearRegression"])
def test_learner_subspace_of_every_layer_is_saved_and_plotted(name, tmp_path):
    family = getattr(bayes, name)(minor=5, seed=3)
    model = untrained_model(family)
    options = dict(max_rank=2, restarts=1, steps=4, sequences=12, null=2)
    for layer in (0, 1):
        result = bayes.learner_subspace(model, family, layer=layer, **options)
        assert result.splits == ("major", "minor", "ood") and result.layer == layer
    result.save(tmp_path / "result.safetensors")
    loaded = bayes.LearnerSubspace.load(tmp_path / "result.safetensors")
    assert torch.equal(loaded.basis, result.basis)
    assert loaded.ratio_to_null == result.ratio_to_null
    assert "<figure" in result._repr_html_()


def test_search_refuses_a_rank_beyond_the_remaining_directions(dice):
    with pytest.raises(TvlensError, match="30 directions do not fit into the 27"):
        bayes.learner_subspace(untrained_model(dice), dice, max_rank=30)


def test_few_sequences_cannot_show_that_known_tasks_are_spared(learner_model, dice):
    """The test of equivalence needs data: an interval that reaches a tenth does not pass."""
    options = dict(max_rank=1, restarts=1, null=2)
    result = bayes.learner_subspace(learner_model, dice, sequences=48, **options)
    low, high = result.known_ratio_interval
    assert low < result.known_ratio < high and result.spares_known_tasks == (high < 0.1)
    increase = torch.tensor([[-1.0, 1.2, 0.1], [1.0, 2.0, 3.0]])
    few = replace(result, cost_increase=increase, context_gain=increase.abs().double())
    assert few.known_ratio == pytest.approx(0.05) and not few.spares_known_tasks
    none = replace(few, cost_increase=-increase)
    assert none.known_ratio == float("inf") and not none.spares_known_tasks


def test_predictions_without_context_read_the_current_token_only():
    for family in (bayes.Markov(seed=3), bayes.LinearRegression(seed=3)):
        model = untrained_model(family)
        data = family.sample(5, 9, seed=0)
        alone = predict_without_context(model, family, data)
        assert alone.shape == predict(model, family, data).shape
        if isinstance(family, bayes.Markov):
            one_token = predict(model, family, data.tokens[:, 4:5])
            torch.testing.assert_close(alone[:, 4], one_token[:, 0])
            torch.testing.assert_close(alone[:, 0], predict(model, family, data)[:, 0])
