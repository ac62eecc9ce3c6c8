from tvlens.studies.crossmodal.claims import make_claims
from tvlens.studies.crossmodal.conditions import ConditionResult, TaskResult


def result(accuracy: float) -> ConditionResult:
    interval = (accuracy - 0.05, accuracy + 0.05)
    return ConditionResult({"first": accuracy}, {"first": interval}, [accuracy], 10)


def planted(text: dict[str, float] | None = None, **image: float) -> TaskResult:
    values = dict(no_context=0, random=0, wrong_task=0, most_common=0.1, same_patch=0.1)
    values |= dict(other_few_shot=0.1, ensemble_patch=0.3, one_set_patch=0.3, other_patch=0.5)
    conditions = {
        "image": {name: result(value) for name, value in (values | image).items()},
        "text": {
            name: result(value)
            for name, value in (values | {"same_few_shot": 0.8} | (text or {})).items()
        },
    }
    return TaskResult("planted", conditions, {}, (1, 1, 1))


def verdict(id: str, task: TaskResult) -> str:
    (claim,) = [claim for claim in make_claims([task], None, {}, []) if claim.id == id]
    return claim.verdict


def test_transfer_holds_above_every_control():
    transfer = "text-vector-works-on-images"
    assert verdict(transfer, planted()) == "holds"
    assert verdict(transfer, planted(wrong_task=0.47)) == "undecided"
    assert verdict(transfer, planted(random=0.6)) == "misses"


def test_comparisons_follow_the_interval():
    comparison = "text-vector-beats-text-prompt"
    assert verdict(comparison, planted()) == "holds"
    assert verdict(comparison, planted(other_few_shot=0.47)) == "undecided"
    assert verdict(comparison, planted(other_few_shot=0.6)) == "misses"


def test_unsolved_tasks_have_no_claim_on_transfer():
    claims = make_claims([planted(text={"same_few_shot": 0.2})], None, {}, [])
    assert [(claim.id, claim.verdict) for claim in claims] == [("task-solved-with-text", "misses")]


def test_tasks_with_a_constant_answer_count_as_unsolved():
    task = planted(text={"most_common": 1.0})
    assert task.has_constant_answer and not task.is_solved_with_text
    assert len(make_claims([task], None, {}, [])) == 1
