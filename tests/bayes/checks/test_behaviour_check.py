import pytest
from planted import PlantedModel, untrained_model

from tvlens import TvlensError, bayes


def test_behaviour_identifies_the_reference_of_planted_models(retrieval_model, learner_model, dice):
    retrieving = bayes.behaviour(retrieval_model, dice, sequences=64)
    assert retrieving.splits == ("major", "ood")
    kl = retrieving.mean
    assert kl["ood", "retrieval"] < 1e-5 < 0.01 < kl["ood", "extrapolation"]
    assert retrieving.blend_weight("ood") > 0.9 and retrieving.log_ratio("ood") < -3
    assert (retrieving.relative_distance("ood")[10:] > 0.5).all()

    learning = bayes.behaviour(learner_model, dice, sequences=64)
    kl = learning.mean
    assert kl["ood", "extrapolation"] < 1e-4 < 0.01 < kl["ood", "retrieval"]
    assert learning.blend_weight("ood") < 0.1 and learning.log_ratio("ood") > 3
    low, high = learning.interval["ood", "retrieval"]
    assert low < kl["ood", "retrieval"] < high


def test_behaviour_of_a_family_with_minors_adds_their_references():
    family = bayes.Dice(minor=8, seed=1)
    result = bayes.behaviour(PlantedModel(family, context=12), family, sequences=16)
    assert result.splits == ("major", "minor", "ood")
    assert {"uniform retrieval", "major retrieval", "learner"} <= set(result.references)
    # The model retrieves among the major tasks only.
    assert result.mean["minor", "major retrieval"] < 1e-5


def test_behaviour_refuses_infinite_kl():
    family = bayes.Dice.from_probabilities([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    model = untrained_model(family)
    with pytest.raises(TvlensError, match="KL to retrieval is infinite on major"):
        bayes.behaviour(model, family, sequences=4, splits=["major"])
    with pytest.raises(TvlensError, match=r"on ood sequences: .* are impossible under every task"):
        bayes.behaviour(model, family, sequences=4)
