import pytest
from planted import LogitModel, PlantedModel

from tvlens import bayes


@pytest.fixture(scope="module")
def dice():
    p = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]]
    return bayes.Dice.from_probabilities(p)


@pytest.fixture(scope="module")
def retrieval_model(dice):
    """A model that predicts by retrieval among the major tasks."""
    return PlantedModel(dice)


@pytest.fixture(scope="module")
def learner_model(dice):
    """A model that predicts by extrapolation: it learns tasks outside the major ones."""
    return PlantedModel(dice, minor_mass=0.1)


@pytest.fixture(scope="module")
def logit_model(dice):
    """A model of retrieval whose logits are linear in the state."""
    return LogitModel(dice)
