"""Weights against posteriors where the posterior is uncertain: who follows it, and who does not."""

import pytest
import torch
from planted import LabelModel, PlantedModel, TokenDependentModel, TokenModel, untrained_model

from tvlens import TvlensError, bayes
from tvlens.bayes.checks.posterior_weights_check import WEIGHT_MEASURES, WEIGHT_NULLS

OPTIONS = dict(sequences=400, resamples=200)
FAMILIES = {
    "dice": (bayes.Dice(faces=5, seed=0), 40),
    "chain": (bayes.Markov(states=4, seed=0), 40),
    "regression": (bayes.LinearRegression(dim=3, noise=2.5, seed=0), 32),
}
MEASURES_BY_TOKEN = [m for m in WEIGHT_MEASURES if m.endswith("token")]


@pytest.fixture(scope="module", params=FAMILIES)
def ideal(request):
    """Results of every ideal model of one family."""
    family, length = FAMILIES[request.param]
    kinds = ("retrieval", "learner", "label", "readout")
    return {kind: bayes.posterior_weights(kind, family, length=length, **OPTIONS) for kind in kinds}


def test_only_retrieval_follows_an_uncertain_posterior(ideal):
    retrieval = ideal["retrieval"]
    t = retrieval.uncertain_position
    assert retrieval.entropy[t] > 0.1 and retrieval.observations[t] >= 3
    for suffix in ("", " by token"):
        assert retrieval[f"correlation{suffix}"][t] > 0.99
        assert retrieval[f"total variation{suffix}"][t] < 0.02
        assert retrieval[f"explained share{suffix}"][t] > 0.98
        for kind in ("label", "learner"):
            assert ideal[kind][f"correlation{suffix}"][t] < 0.92, kind
            assert ideal[kind][f"total variation{suffix}"][t] > 0.1, kind
            value, (low, _) = retrieval.difference(f"correlation{suffix}", ideal[kind], t)
            assert value > low > 0.05, kind
    assert ideal["label"]["correlation"][t] < 0.8
    assert ideal["learner"]["explained share"][t] < 0.8
    assert ideal["readout"]["total variation by token"][t] > 0.05


def test_the_label_is_told_from_the_posterior_only_where_that_is_uncertain(ideal):
    label = ideal["label"]
    t = label.uncertain_position
    assert label["correlation"][-1] > 0.99 and label["total variation"][-1] < 0.02
    # The null of any result is what a state that knows the label scores.
    null = ideal["retrieval"].null
    for measure in ("correlation", "total variation"):
        torch.testing.assert_close(null[measure, "label"][t], label[measure][t], rtol=0, atol=0.1)
    value, (low, high) = ideal["retrieval"].difference("correlation", "label", t)
    assert low < value < high and low > 0.1
    assert ideal["retrieval"].null["explained share", "label"][t] < 0.8


def test_readers_of_the_last_observation_or_of_nothing_score_zero(ideal):
    retrieval = ideal["retrieval"]
    t = retrieval.uncertain_position
    assert retrieval["explained share"][:1].isnan().all()
    for measure in ("correlation", "correlation by token"):
        assert abs(float(retrieval.null[measure, "last observation"][t])) < 1e-6
        assert abs(float(retrieval.null[measure, "other sequences"][t])) < 0.2
        assert retrieval[measure][:1].isnan().all()  # the first observation determines alpha
    assert retrieval.null["total variation", "last observation"][t] > 0.1


def test_intervals_contain_their_values(ideal):
    for measure in MEASURES_BY_TOKEN:
        result = ideal["learner"]
        low, high = result.interval[measure][3:].T
        assert ((low <= result[measure][3:]) & (result[measure][3:] <= high)).all()


def test_a_planted_retrieval_model_holds_and_its_shams_miss(dice, retrieval_model):
    results = {
        "retrieval": bayes.posterior_weights(retrieval_model, dice, **OPTIONS),
        "label": bayes.posterior_weights(LabelModel(dice), dice, **OPTIONS),
        "noise": bayes.posterior_weights(PlantedModel(dice, noise=True), dice, **OPTIONS),
        "token": bayes.posterior_weights(TokenModel(dice), dice, **OPTIONS),
    }
    t = results["retrieval"].uncertain_position
    correlation = {name: float(r["correlation"][t]) for name, r in results.items()}
    assert correlation["retrieval"] > 0.99 and correlation["label"] < 0.85
    assert abs(correlation["noise"]) < 0.2 and abs(correlation["token"]) < 0.2
    explained = {name: float(r["explained share"][t]) for name, r in results.items()}
    assert explained["retrieval"] > 0.98 and explained["noise"] < 0.3


def test_vectors_by_token_are_needed_where_the_answer_depends_on_the_token(dice):
    result = bayes.posterior_weights(TokenDependentModel(dice), dice, **OPTIONS)
    t = result.uncertain_position
    assert result["correlation by token"][t] > 0.99 > 0.9 > result["correlation"][t]
    assert result["total variation by token"][t] < 0.02
    assert result["explained share by token"][t] > 0.98


def test_brackets_have_shared_vectors():
    family = bayes.Dyck(tasks=3, symbols=4, pairs=3, rate=0.4, seed=1)
    result = bayes.posterior_weights("retrieval", family, length=40, **OPTIONS)
    t = result.uncertain_position
    assert result["correlation by token"][t] > 0.95


def test_posterior_weights_are_tabulated_and_plotted(dice, retrieval_model, tmp_path):
    options = dict(sequences=100, resamples=20)
    result = bayes.posterior_weights(retrieval_model, dice, **options)
    table = result.to_dataframe()
    assert len(table) == 8 * 48 and set(WEIGHT_NULLS) < set(table.columns)
    reference = bayes.posterior_weights("learner", dice, length=48, **options)
    figures = result.figure(references={"learner": reference})
    assert "<figure" in figures._repr_html_() and "<figure" in result._repr_html_()
    result.save(tmp_path / "result.safetensors")
    again = bayes.PosteriorWeights.load(tmp_path / "result.safetensors")
    assert torch.equal(again["correlation"].nan_to_num(), result["correlation"].nan_to_num())


def test_bad_input_raises_one_line_errors(dice):
    model = untrained_model(dice)
    with pytest.raises(TvlensError, match=r"23 sequences cannot fit 12 effects .* at least 24"):
        bayes.posterior_weights(model, dice, sequences=23)
    certain = bayes.Dice.from_probabilities(
        [[0.98, 0.01, 0.005, 0.005], [0.01, 0.98, 0.005, 0.005]]
    )
    with pytest.raises(TvlensError, match="no uncertainty at any position after the first two"):
        bayes.posterior_weights("retrieval", certain, length=30)
    with pytest.raises(TvlensError, match="no uncertainty at any position"):
        bayes.posterior_weights("retrieval", dice, length=2)
    options = dict(sequences=60, resamples=10)
    result = bayes.posterior_weights(model, dice, **options)
    with pytest.raises(TvlensError, match="unknown measure 'P9'"):
        result["P9"]
    with pytest.raises(TvlensError, match="unknown null 'lable': did you mean 'label'"):
        result.difference("correlation", "lable", 3)
    other = bayes.posterior_weights(model, dice, seed=1, **options)
    with pytest.raises(TvlensError, match="needs two results on the same sequences"):
        result.difference("correlation", other, 3)
