from planted import TokenDependentModel

from tvlens import bayes


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
