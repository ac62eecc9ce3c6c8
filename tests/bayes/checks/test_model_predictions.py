import pytest
import torch
from planted import SMALL_CHECKS, untrained_model

from tvlens import TvlensError, bayes
from tvlens.bayes.checks.model_predictions import next_observation_cost, predict
from tvlens.training import Transformer, TransformerConfig, compute_loss, to_transformer_lens


def test_predict_aligns_regression_with_the_targets_of_training():
    family = bayes.LinearRegression(seed=0)
    config = TransformerConfig(context=17, inputs=6, layers=2, d_model=32, heads=2)
    transformer = Transformer(config, seed=1)
    data = family.sample(8, 9, seed=2)
    model = to_transformer_lens(config, transformer.state_dict())
    prediction = predict(model, family, data)
    assert prediction.shape == (8, 8)
    inputs, targets = data.inputs.float(), data.targets.float()
    with torch.no_grad():
        total = compute_loss(transformer, (inputs, targets)) * 9
        first = compute_loss(transformer, (inputs[:, :1], targets[:, :1]))
    cost = next_observation_cost(family, prediction, data).mean()
    squared_error = cost * 2 * family.noise**2
    assert float(squared_error) == pytest.approx(float(total - first) / 8, rel=1e-4)


@pytest.mark.parametrize("check", [*SMALL_CHECKS, "learner_subspace"])
def test_checks_refuse_a_model_of_another_vocabulary(check, dice):
    run_check = getattr(bayes, check)
    with pytest.raises(TvlensError, match=r"vocabulary of 4 tokens and .* of 6"):
        run_check(untrained_model(dice), bayes.Dice())
    with pytest.raises(TvlensError, match="needs vectors of width 7"):
        run_check(untrained_model(dice), bayes.LinearRegression())


def test_checks_refuse_sequences_beyond_the_context(dice):
    model = untrained_model(dice)
    with pytest.raises(TvlensError, match=r"fill 40 positions; .* context of 17"):
        bayes.behaviour(model, dice, length=40)
    with pytest.raises(TvlensError, match="fill 40 positions"):
        bayes.injection(model, dice, observations=40)
