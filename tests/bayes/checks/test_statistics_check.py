import pytest
from planted import PlantedModel, untrained_model

from tvlens import Subspace, TvlensError, bayes
from tvlens.bayes.checks.statistics_check import STATISTICS_MEASURES


@pytest.fixture(scope="module")
def learner_axes(learner_model):
    return Subspace.span(learner_model.learner - learner_model.learner.mean(0))


def test_statistics_predict_the_planted_learner_axes_only(learner_model, learner_axes, dice):
    options = dict(sequences=120, null=3, observations=(24, 48))
    result = bayes.statistics_regression(learner_model, dice, learner_axes, **options)
    for measure in STATISTICS_MEASURES:
        assert (result[measure] > 0.7).all() and (result.null[measure] < 0.1).all()
    low, high = result.interval["coordinates"].T
    assert ((low <= result["coordinates"]) & (result["coordinates"] <= high)).all()
    random_states = PlantedModel(dice, noise=True)
    result = bayes.statistics_regression(random_states, dice, learner_axes, **options)
    assert (result.r_squared < 0.1).all()


@pytest.mark.parametrize("name", ["Dice", "Markov", "LinearRegression"])
def test_only_a_perfect_learner_holds_the_estimate(name):
    sizes = {"Dice": dict(faces=6), "Markov": dict(states=4), "LinearRegression": dict(dim=4)}
    family = getattr(bayes, name)(seed=0, **sizes[name])
    options = dict(length=24, sequences=160, null=2, observations=(20,))
    results = {
        kind: bayes.statistics_regression(kind, family, **options)
        for kind in ("learner", "retrieval", "readout")
    }
    assert (results["learner"].r_squared > 0.999).all()
    for kind in ("retrieval", "readout"):
        assert (results[kind]["estimate"] < 0.5).all(), kind
        assert (results[kind]["coordinates"] < 0.9).all(), kind


def test_statistics_are_those_that_the_state_has_read():
    """The last target of a regression is not read, so that no state has read all pairs."""
    family = bayes.LinearRegression(dim=2, seed=0)
    model = untrained_model(bayes.LinearRegression(seed=0))
    default = bayes.statistics_regression("learner", family, length=9, sequences=60, null=2)
    assert default.observations.tolist() == [2, 4, 8]
    for length, unread in ((9, 9), (12, 12)):
        with pytest.raises(TvlensError, match=rf"between 1 and {length - 1}, not {unread}"):
            options = dict(length=length, observations=(unread,))
            bayes.statistics_regression("learner", family, **options)
    with pytest.raises(TvlensError, match=r"between 1 and 8, not 9"):
        bayes.statistics_regression(
            model, bayes.LinearRegression(seed=0), observations=(9,), sequences=60
        )


def test_statistics_regression_is_plotted():
    family = bayes.Markov(states=4, minor=5, seed=3)
    subspace = Subspace.random(32, 2, seed=1)
    model = untrained_model(family)
    options = dict(sequences=60, null=2, observations=(8, 17))
    result = bayes.statistics_regression(model, family, subspace, **options)
    assert "<figure" in result._repr_html_() and len(result.to_dataframe()) == 4


def test_bad_input_raises_one_line_errors(learner_model, learner_axes, dice):
    with pytest.raises(TvlensError, match="10 sequences in 5 folds cannot fit 9 features"):
        bayes.statistics_regression(learner_model, dice, learner_axes, sequences=10)
    for count in (0, 1000):
        with pytest.raises(TvlensError, match=f"between 1 and 48, not {count}"):
            bayes.statistics_regression(learner_model, dice, learner_axes, observations=(count,))
    with pytest.raises(TvlensError, match="lies in 24 dimensions; the states have 8"):
        bayes.statistics_regression("learner", dice, learner_axes, length=48)
    with pytest.raises(TvlensError, match="new tasks have no label"):
        bayes.statistics_regression("label", dice, length=16, sequences=40)
