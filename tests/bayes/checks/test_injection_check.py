import pytest
from planted import PlantedModel, TokenDependentModel, untrained_model

from tvlens import TvlensError, bayes


def test_injection_into_a_retrieval_model_gives_the_mixture(retrieval_model, dice):
    kl = bayes.injection(retrieval_model, dice, sequences=128).mean
    assert kl["injected"] < 0.002 and kl["injected by token"] < 0.002
    assert kl["unsteered"] > 0.2 and kl["random vectors"] > 0.1
    assert kl["most likely task"] > 10 * kl["injected"]
    # The planted readout is linear in probabilities, not in logits.
    assert kl["geometric mixture"] > kl["injected"]


def test_injection_by_token_uses_token_dependent_task_vectors(dice):
    kl = bayes.injection(TokenDependentModel(dice), dice, sequences=128).mean
    assert kl["injected by token"] < 0.002
    assert kl["injected"] > 0.05 and kl["unsteered"] > 0.2


def test_injecting_the_posterior_of_new_tasks_gives_retrieval(dice):
    """The learner's part of the state overrides the injected posterior; without it, it decides."""
    model = PlantedModel(dice, minor_mass=0.1)
    kl = bayes.injection(model, dice, mixtures="posterior of new tasks", sequences=96).mean
    assert kl["unsteered"] > 0.02
    assert kl["whole state"] < 0.1 * kl["unsteered"]
    retriever = PlantedModel(dice)
    kl = bayes.injection(retriever, dice, mixtures="posterior of new tasks", sequences=96).mean
    assert kl["unsteered"] < 1e-3 and kl["injected"] < 0.005 < 0.05 < kl["random vectors"]


def test_a_combination_before_a_linear_readout_of_logits_scores_the_geometric_mixture(
    logit_model, dice
):
    kl = bayes.injection(logit_model, dice, sequences=96).mean
    assert kl["injected"] == pytest.approx(kl["geometric mixture"], rel=0.05)


def test_an_unknown_kind_of_mixtures_is_refused(dice):
    with pytest.raises(TvlensError, match="unknown kind of mixtures 'randm': did you mean"):
        bayes.injection(untrained_model(dice), dice, mixtures="randm")
