import pytest

from tvlens import bayes


def test_novel_tasks_lie_in_the_task_span_of_a_retrieval_model_only(
    retrieval_model, learner_model, dice
):
    options = dict(tasks=24, sequences=12, null=50)
    inside = bayes.novel_tasks(retrieval_model, dice, **options)
    assert inside.share > 0.99 and inside.null == pytest.approx(2 / 24)
    assert inside.angles.max() < 0.1
    outside = bayes.novel_tasks(learner_model, dice, **options)
    assert outside.share < 0.5
    low, high = outside.interval
    assert low < outside.share < high
