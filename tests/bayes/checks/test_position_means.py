import torch

from tvlens import Subspace, bayes
from tvlens.bayes.checks.position_means import (
    fit_position_means,
    interleave_posterior,
    read_all_states,
)


def test_means_hold_the_token_effects_and_leave_the_task_part(retrieval_model, dice):
    effects = bayes.task_effects(retrieval_model, dice)
    fit, data = (dice.sample(n, 48, seed=n) for n in (400, 50))
    means = fit_position_means(retrieval_model, dice, fit, layer=-1, effects=effects)
    residual = read_all_states(retrieval_model, data, layer=-1) - means.at(data)
    task_part = bayes.retrieval(dice, data).posterior @ effects.task.double()
    torch.testing.assert_close(residual, task_part, rtol=0, atol=0.05)
    token_axes = Subspace.span(retrieval_model.token)
    assert token_axes.project(residual).norm(dim=-1).max() < 0.05


def test_token_unseen_at_a_position_has_the_mean_effect(retrieval_model, dice):
    effects = bayes.task_effects(retrieval_model, dice)
    fit = dice.sample(200, 12, seed=0)
    seen = fit[(fit.tokens[:, 3] != 2).nonzero()[:, 0]]
    means = fit_position_means(retrieval_model, dice, seen, layer=-1, effects=effects)
    by_token = torch.stack([means.at(torch.full((1, 12), token))[0, 3] for token in range(4)])
    torch.testing.assert_close(by_token[2], by_token[[0, 1, 3]].mean(0), rtol=0, atol=1e-6)


def test_posterior_of_a_regression_changes_with_each_target():
    family = bayes.LinearRegression(tasks=2, dim=2, seed=0)
    posterior = bayes.retrieval(family, family.sample(3, 4, seed=1)).posterior
    by_position = interleave_posterior(posterior, family.prior)
    torch.testing.assert_close(by_position[:, 0], family.prior.expand(3, -1))
    torch.testing.assert_close(by_position[:, 1::2], posterior[:, :3])
    torch.testing.assert_close(by_position[:, 2::2], posterior[:, :3])
