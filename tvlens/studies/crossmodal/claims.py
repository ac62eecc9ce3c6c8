"""Claims of Luo et al. 2024, "Task Vectors are Cross-Modal", tested on one model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...stats import share_interval
from ...vectors.logit_lens import Phases
from ..claims import Claim
from .analyses import Conflict, VectorGeometry
from .conditions import MIN_TEXT_ACCURACY, TaskResult

# Controls of the text vector for image queries.
_CONTROLS = ("no_context", "random", "wrong_task", "most_common")

# One condition against another: id, statement, modality of the query, the two conditions.
_COMPARISONS = (
    (
        "text-vector-beats-text-prompt",
        "The text vector beats text demonstrations for image queries (xPatch over xBase).",
        ("image", "other_patch", "other_few_shot"),
    ),
    (
        "text-vector-beats-image-vector",
        "The text vector beats the image vector for image queries.",
        ("image", "other_patch", "same_patch"),
    ),
    (
        "instruction-adds-to-examples",
        "The mean of text and instruction vectors beats the text vector for image queries.",
        ("image", "ensemble_patch", "other_patch"),
    ),
    (
        "several-sets-beat-one",
        "The mean vector of several sets beats the vector of one set.",
        ("image", "other_patch", "one_set_patch"),
    ),
    (
        "image-vector-works-on-text",
        "The image vector raises accuracy of text queries over no context.",
        ("text", "other_patch", "no_context"),
    ),
    (
        "language-model-vector-works",
        "Vectors of the plain language model raise accuracy of image queries over no context.",
        ("image", "language_model_patch", "no_context"),
    ),
)


def make_claims(
    tasks: Iterable[TaskResult],
    geometry: VectorGeometry | None,
    phases: Mapping[str, Phases],
    conflicts: Sequence[Conflict],
) -> list[Claim]:
    """Compute every claim; transfer is tested on tasks solved with text."""
    tasks = list(tasks)
    claims = [_solves_task(task) for task in tasks]
    solved = [task for task in tasks if task.is_solved_with_text]
    claims += [_transfers(task) for task in solved]
    for id, statement, (query, condition, baseline) in _COMPARISONS:
        claims += [
            _accuracy_claim(id, statement, task, (query, condition), [baseline])
            for task in solved
            if {condition, baseline} <= task.conditions[query].keys()
        ]
    if solved:
        claims += [*_geometry_claims(geometry), *_phase_claims(phases), *_overrides(conflicts)]
    return claims


def _solves_task(task: TaskResult) -> Claim:
    return _accuracy_claim(
        "task-solved-with-text",
        "The model solves the task with text demonstrations and queries.",
        task,
        ("text", "same_few_shot"),
        ["most_common"],
        threshold=MIN_TEXT_ACCURACY,
    )


def _transfers(task: TaskResult) -> Claim:
    return _accuracy_claim(
        "text-vector-works-on-images",
        "The text vector raises accuracy of image queries above every control.",
        task,
        ("image", "other_patch"),
        [name for name in _CONTROLS if name in task.conditions["image"]],
    )


def _accuracy_claim(
    id: str,
    statement: str,
    task: TaskResult,
    condition: tuple[str, str],
    nulls: Iterable[str],
    *,
    threshold: float | None = None,
) -> Claim:
    """Claim that a task's accuracy under one condition exceeds that under others.

    Args:
        condition: modality of the query, and name of the condition.
        nulls: names of the conditions to exceed, for the same queries.
    """
    query, name = condition
    results = task.conditions[query]
    return Claim(
        id=id,
        statement=statement,
        value=results[name].accuracy,
        interval=results[name].interval,
        threshold=threshold,
        nulls={null: results[null].accuracy for null in nulls},
        where={"task": task.name},
    )


def _geometry_claims(geometry: VectorGeometry | None) -> Iterator[Claim]:
    if geometry is None:
        return
    silhouette = geometry.by_task.silhouette
    yield Claim(
        id="vectors-cluster-by-task",
        statement="Vectors cluster by task, more than by modality.",
        value=silhouette,
        interval=(silhouette, silhouette),
        nulls={
            "modality": geometry.by_modality.silhouette,
            "permuted_99%": float(geometry.by_task.null.quantile(0.99)),
        },
        where={"layer": geometry.layer},
    )
    best = geometry.weights.argmax(1).tolist()
    is_own = [float(index == task) for task, index in enumerate(best)]
    yield Claim(
        id="image-vectors-match-text-vectors",
        statement="An image vector has its largest convex weight on its own task's text vector.",
        value=sum(is_own) / len(is_own),
        interval=share_interval(is_own),
        nulls={"chance": 1 / len(is_own)},
        where={"layer": geometry.layer},
    )


def _phase_claims(phases: Mapping[str, Phases]) -> Iterator[Claim]:
    for modality, result in phases.items():
        peaks = dict(zip(result.groups, result.peaks, strict=True))
        gap = min(peaks["task"] - peaks["input"], peaks["answer"] - peaks["task"])
        yield Claim(
            id="input-task-answer",
            statement="The last token represents input, task and answer at increasing layers.",
            value=gap,
            interval=(gap, gap),
            threshold=0,
            nulls={},
            where={"modality": modality},
        )


def _overrides(conflicts: Sequence[Conflict]) -> Iterator[Claim]:
    for conflict in conflicts:
        value, low, high = conflict.after["written"]
        yield Claim(
            id="vector-overrides-prompt",
            statement="With a vector of another task, its answers outnumber the prompted task's.",
            value=value,
            interval=(low, high),
            nulls={"prompted": conflict.after["prompted"][0]},
            where={"prompted": conflict.prompted, "written": conflict.written},
        )
