import pytest
import torch
from planted import untrained_model

from tvlens import Subspace, bayes
from tvlens.bayes.checks.ablation_check import compute_mean_state
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
    mean = compute_mean_state(model, family.sample(6, length, seed=0), layer=layer).float()

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
