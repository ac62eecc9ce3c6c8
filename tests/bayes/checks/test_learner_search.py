from dataclasses import replace

import pytest
import torch
from planted import untrained_model

from tvlens import Subspace, TvlensError, bayes


def test_search_finds_the_planted_learner_subspace(learner_model, dice):
    effects = bayes.task_effects(learner_model, dice)
    options = dict(rank=1, restarts=3, sequences=48, null=10)
    result = bayes.learner_subspace(learner_model, dice, effects=effects, **options)
    assert result.ratio_to_null > 3
    assert result.mean["ood"] > 10 * result.mean["major"]
    assert result.objective[-1] > result.objective[0]
    assert (result.objective[1:] >= result.objective[:-1]).all()
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
    assert perturbed.objective[-1] == pytest.approx(float(result.objective[-1]), abs=1e-5)
    assert perturbed.subspace.angles(result.subspace).max() < 1e-3
    torch.testing.assert_close(perturbed.null, result.null, rtol=1e-3, atol=1e-4)


def test_search_warns_before_convergence(learner_model, dice):
    options = dict(rank=1, steps=2, restarts=1, sequences=8, null=2)
    with pytest.warns(UserWarning, match="has not converged: after 2 steps the gradient is"):
        bayes.learner_subspace(learner_model, dice, **options)


def test_learner_subspace_is_saved_and_plotted(tmp_path):
    family = bayes.Markov(states=4, minor=5, seed=3)
    model = untrained_model(family)
    for layer in (0, 1):
        result = bayes.learner_subspace(model, family, layer=layer, rank=2, sequences=12, null=2)
        assert result.splits == ("major", "minor", "ood") and result.layer == layer
    result.save(tmp_path / "result.safetensors")
    loaded = bayes.LearnerSubspace.load(tmp_path / "result.safetensors")
    assert torch.equal(loaded.basis, result.basis)
    assert loaded.ratio_to_null == result.ratio_to_null
    assert "<figure" in result._repr_html_()


def test_search_refuses_a_rank_beyond_the_remaining_directions(dice):
    with pytest.raises(TvlensError, match="30 directions do not fit into the 27"):
        bayes.learner_subspace(untrained_model(dice), dice, rank=30)
