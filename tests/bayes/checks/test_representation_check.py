import pytest
import torch
from planted import PlantedModel, TokenDependentModel, untrained_model

from tvlens import TvlensError, bayes
from tvlens.bayes.checks.input_regression import regress_on_inputs
from tvlens.bayes.checks.representation_check import MEASURES
from tvlens.bayes.checks.states import StateSource


def test_representation_recovers_a_convex_combination(retrieval_model, dice):
    result = bayes.representation(retrieval_model, dice, resamples=50, null=10)
    assert result["explained share"][-1] > 0.995
    assert result["interaction"][-1] < 0.005 and result["within-cell share"][-1] < 0.02
    # The posterior varies within a task after few observations.
    assert result["within-cell share"][0] > 0.05
    assert (result.null["explained share"] < 0.7).all()
    planted = retrieval_model.task - retrieval_model.task.mean(0)
    assert torch.cosine_similarity(result.task_vectors, planted).min() > 0.999
    low = result.interval["explained share"][:, 0]
    assert (low <= result["explained share"] + 1e-9).all()


def test_representation_by_token_recovers_token_dependent_task_vectors(dice):
    options = dict(observations=[8, 40], resamples=50, null=10)
    result = bayes.representation(TokenDependentModel(dice), dice, **options)
    assert result["interaction"][-1] > 0.1
    assert result["explained share by token"][-1] > 0.98
    assert (result.null["explained share by token"][-1] < 0.8).all()


def test_representation_of_random_states_stays_within_its_null(dice):
    model = PlantedModel(dice, noise=True)
    options = dict(observations=[8, 40], per_cell=24, resamples=50, null=40)
    result = bayes.representation(model, dice, **options)
    for measure in ("explained share", "explained share by token"):
        null = result.null[measure][-1]
        z = (float(result[measure][-1]) - float(null.mean())) / float(null.std())
        assert abs(z) < 4, measure
    assert result["within-cell share"][-1] > 0.9


@pytest.mark.parametrize("kind", ["retrieval", "label", "learner"])
def test_ideal_states_of_task_and_token_have_no_interaction(kind, dice):
    options = dict(observations=[4, 48], per_cell=16, resamples=50, null=5, length=48)
    result = bayes.representation(kind, dice, **options)
    assert result["interaction"][-1] < 0.01 < 0.2 < float(result.null["interaction"][-1].mean())
    assert (result["within-cell share"][0] < 0.01) == (kind == "label")


def test_the_readout_alone_is_not_additive_where_it_depends_on_the_token():
    """Its share is that of independent tables of logits, (K-1)(V-1)/(KV-1) = .53 on average."""
    family = bayes.Markov(tasks=3, states=4, seed=0)
    options = dict(observations=[40], per_cell=8, resamples=50, null=5, length=40)
    result = bayes.representation("readout", family, **options)
    assert 0.3 < result["interaction"][-1] < 0.8
    assert result["explained share by token"][-1] > 0.98


def test_inputs_of_a_regression_come_in_pairs_and_are_regressed_on():
    family = bayes.LinearRegression(dim=3, seed=0)
    probed = bayes.probes(family, observations=4, per_cell=1)
    assert float(probed.data.inputs[:, -1].mean(0).abs().max()) < 1e-12
    options = dict(observations=[16], per_cell=8, resamples=50, null=5, length=17)
    for kind in ("retrieval", "readout"):
        result = bayes.representation(kind, family, **options)
        assert result.measures == MEASURES
        for measure in ("ANCOVA residual", "MLP residual"):
            assert result[measure][-1] < 0.02 < 0.05 < float(result.null[measure][-1].mean())
    # The predicted mean is a product of task and input: no sum of two effects.
    assert result["interaction"][-1] > 0.3
    few = dict(options, per_cell=2) | {"observations": [4]}
    wide = bayes.LinearRegression(dim=8, seed=0)
    with pytest.raises(TvlensError, match=r"48 sequences cannot fit 27 effects .* at least 54"):
        bayes.representation("retrieval", wide, **few)


def test_a_network_explains_what_is_not_linear_in_the_input():
    family = bayes.LinearRegression(dim=2, seed=0)

    class Bent(StateSource):
        width = 4

        def read(self, data):
            raise AssertionError("only the last position is read")

        def read_last(self, data):
            x = data.inputs[:, -1]
            return torch.cat([x, 2 * (x * (1.0 + data.task[:, None])).abs()], 1)

    linear, network = regress_on_inputs(Bent(family, "bent", 0, 9), 4, 600, draws=3, seed=0)
    shares = [float(r.columns[:, 0].sum() / r.columns[:, 1].sum()) for r in (linear, network)]
    assert shares[0] > 0.3 > 0.15 > shares[1] and min(linear.null) > shares[0]


def test_representation_refuses_an_unknown_measure(dice):
    options = dict(observations=[4], per_cell=2, resamples=5, null=2)
    result = bayes.representation(untrained_model(dice), dice, **options)
    with pytest.raises(TvlensError, match="unknown measure 'P9'"):
        result["P9"]
