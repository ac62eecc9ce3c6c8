import pytest
from planted import PlantedModel, untrained_model

from tvlens import Subspace, TvlensError, bayes


@pytest.fixture(scope="module")
def learner_axes(learner_model):
    return Subspace.span(learner_model.learner - learner_model.learner.mean(0))


def test_statistics_predict_the_planted_learner_axes_only(learner_model, learner_axes, dice):
    options = dict(sequences=120, null=3, observations=(24, 48))
    result = bayes.statistics_regression(learner_model, dice, learner_axes, **options)
    assert (result.r_squared > 0.97).all() and (result.null < 0.1).all()
    random_states = PlantedModel(dice, noise=True)
    result = bayes.statistics_regression(random_states, dice, learner_axes, **options)
    assert (result.r_squared < 0.1).all()


def test_statistics_regression_is_plotted():
    family = bayes.Markov(states=4, minor=5, seed=3)
    subspace = Subspace.random(32, 2, seed=1)
    model = untrained_model(family)
    result = bayes.statistics_regression(model, family, subspace, sequences=60, null=2)
    assert "<figure" in result._repr_html_() and len(result.to_dataframe()) == 3


def test_bad_input_raises_one_line_errors(learner_model, learner_axes, dice):
    with pytest.raises(TvlensError, match="10 sequences in 5 folds cannot fit 9 features"):
        bayes.statistics_regression(learner_model, dice, learner_axes, sequences=10)
    for count in (0, 1000):
        with pytest.raises(TvlensError, match=f"between 1 and 48, not {count}"):
            bayes.statistics_regression(learner_model, dice, learner_axes, observations=(count,))
