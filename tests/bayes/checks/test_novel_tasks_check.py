import pytest
from planted import untrained_model

from tvlens import TvlensError, bayes


def test_novel_tasks_lie_in_the_task_span_of_a_retrieval_model_only(
    retrieval_model, learner_model, dice
):
    options = dict(tasks=24, sequences=12, null=50)
    inside = bayes.novel_tasks(retrieval_model, dice, **options)
    assert inside.share > 0.99 and inside.random_share == pytest.approx(2 / 24)
    assert inside.angles.max() < 0.1
    outside = bayes.novel_tasks(learner_model, dice, **options)
    assert outside.share < 0.5
    low, high = outside.interval
    assert low < outside.share < high
    # Both are compared with the same learner.
    assert inside.learner_share == outside.learner_share
    value, (low, _) = inside.difference()
    assert value > low > 0.1


def test_a_perfect_learner_has_a_share_inside_the_span_without_any_retrieval():
    """Its estimate of a die has five dimensions, and two known directions are among them."""
    dice = bayes.Dice(faces=6, seed=0)
    options = dict(tasks=40, sequences=12, null=20, length=48)
    learner = bayes.novel_tasks("learner", dice, **options)
    assert learner.share == pytest.approx(learner.learner_share["estimate"])
    assert 0.15 < learner.null <= learner.share < 0.6
    assert learner.difference()[0] == pytest.approx(0, abs=1e-12)
    assert learner.codes == ("estimate", "logarithm")
    retrieval = bayes.novel_tasks("retrieval", dice, **options)
    assert retrieval.share > 0.99 and retrieval.null == pytest.approx(learner.null)
    pairs = bayes.LinearRegression(dim=3, seed=0)
    assert bayes.novel_tasks("learner", pairs, **options).codes == ("estimate",)


def test_states_of_few_dimensions_have_no_angles():
    dice = bayes.Dice(tasks=2, faces=3, seed=0)
    options = dict(tasks=8, sequences=6, null=5, length=24)
    result = bayes.novel_tasks("readout", dice, **options, directions=3)
    assert len(result.angles) <= 2 and "<figure" in result._repr_html_()


def test_bad_input_raises_one_line_errors(dice):
    with pytest.raises(TvlensError, match="new tasks have no label"):
        bayes.novel_tasks("label", dice, tasks=4, sequences=4, length=16)
    with pytest.raises(TvlensError, match="unknown code 'log'"):
        options = dict(tasks=4, sequences=4, null=5)
        bayes.novel_tasks(untrained_model(dice), dice, **options).difference("log")
