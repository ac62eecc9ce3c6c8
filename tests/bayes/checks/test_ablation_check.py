import pytest
import torch
from planted import untrained_model

from tvlens import Subspace, TvlensError, bayes
from tvlens.bayes.checks.ablation_check import mean_states, orthogonal_rest
from tvlens.bayes.checks.model_predictions import max_length, next_observation_cost, predict


@pytest.mark.parametrize("name", ["Dice", "LinearRegression"])
@pytest.mark.parametrize("layer", [0, 1])
def test_cost_increase_equals_that_of_a_hooked_model(name, layer):
    family = getattr(bayes, name)(seed=3)
    model = untrained_model(family)
    subspace = Subspace.random(32, 3, seed=1)
    result = bayes.ablation(model, family, subspace=subspace, layer=layer, sequences=6, null=2)
    length = max_length(model, family)
    data = family.sample(6, length, split="ood", seed=3)
    effects = bayes.task_effects(model, family, layer=layer)
    mean = mean_states(model, family, 6, layer=layer, effects=effects, seed=0).at(data).float()

    def mean_cost(hooks):
        prediction = predict(model, family, data, hooks=hooks)
        return next_observation_cost(family, prediction, data).mean(1)

    increase = mean_cost([subspace.hook(model, layer, mean=mean)]) - mean_cost([])
    torch.testing.assert_close(result.cost_increase[1], increase, rtol=1e-4, atol=1e-6)


def test_ablating_the_task_span_increases_the_cost_of_major_tasks(retrieval_model, dice):
    result = bayes.ablation(retrieval_model, dice, sequences=64, null=10)
    assert result.rank == 2
    assert result.mean["major"] > 5 * result.null.abs().max()
    assert result.p_value["major"] == pytest.approx(1 / 11)


def test_null_subspaces_have_the_variance_of_the_ablated_one():
    family = bayes.Dice(seed=3)
    subspace = Subspace.random(32, 3, seed=1)
    result = bayes.ablation(
        untrained_model(family), family, subspace=subspace, sequences=24, null=4
    )
    expected = result.variance[:, None].expand_as(result.null_variance)
    torch.testing.assert_close(result.null_variance, expected, rtol=0.01, atol=0)
    assert result.null.std(1).min() > 0


def test_orthogonal_rest_leaves_out_what_is_removed():
    inside = Subspace.span(torch.eye(6)[:4])
    rest = orthogonal_rest(Subspace.span(torch.eye(6)[3:5]), inside)
    assert rest.rank == 3 and inside.contains(rest.basis.T).all()
    assert rest.share(torch.eye(6)[3]) < 1e-12
    with pytest.raises(TvlensError, match="nothing is left of 4 dimensions"):
        orthogonal_rest(inside, inside)
