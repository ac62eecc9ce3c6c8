"""What the paper on cross-modal task vectors claims, beside what one model shows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from .result import ABLE, Share, TaskResult

if TYPE_CHECKING:
    from .study import CrossModalStudy

# At what chance vectors count as closer by task.
_RARE = 0.01

# Against what a vector out of words has to hold in queries that are pictures.
_RIVALS = ("no_context", "random", "wrong_task")


class Claim(NamedTuple):
    """What was claimed, what was found, and whether it "holds", is "mixed", or "not seen" here."""

    claim: str
    found: str
    verdict: str


def claims(study: "CrossModalStudy") -> list[Claim]:
    """Every claim with what this model shows, on the tasks that it does in words."""
    able = [task for task in study.tasks.values() if task.able]
    if not able:
        found = f"no task reaches {ABLE:.0%} in words: few-shot, first token"
        return [Claim("The model does the tasks in words.", found, "not seen")]
    listed = [
        _transfer(able),
        _ahead(
            "A vector out of words beats words in the prompt (xPatch over xBase).",
            able,
            "other_patch",
            "other_few_shot",
        ),
        _ahead("It beats a vector out of pictures.", able, "other_patch", "same_patch"),
        _ahead(
            "Examples with the instruction beat examples alone.",
            able,
            "ensemble_patch",
            "other_patch",
        ),
        _ahead("A mean of sets beats one set.", able, "other_patch", "one_set_patch"),
        _ahead(
            "Pictures work on words too (xPatch into words over no context).",
            able,
            "other_patch",
            "no_context",
            asked="text",
        ),
    ]
    if all("language_model_patch" in task.shares["image"] for task in able):
        listed.append(
            _ahead(
                "Vectors of the plain language model work.",
                able,
                "language_model_patch",
                "no_context",
            )
        )
    return listed + _of_shape(study) + _of_phases(study) + _of_conflicts(study)


def _transfer(able: Sequence[TaskResult]) -> Claim:
    def clear(task: TaskResult) -> bool:
        shares = task.shares["image"]
        return all(shares["other_patch"].above(shares[rival]) for rival in _RIVALS)

    won = [task.name for task in able if clear(task)]
    values = ", ".join(
        f"{task.name} {task.shares['image']['other_patch'].first:.2f}" for task in able
    )
    constant = sum(
        task.shares["image"]["other_patch"].above(task.shares["image"]["most_common"])
        for task in able
    )
    found = (
        f"intervals apart from no context, random and wrong-task vectors on {len(won)} of "
        f"{len(able)} tasks ({values}), and from always giving the most common answer on {constant}"
    )
    return Claim("A vector out of words works on pictures.", found, _counted(len(won), len(able)))


def _ahead(
    claim: str, able: Sequence[TaskResult], one: str, other: str, *, asked: str = "image"
) -> Claim:
    """One condition over another: clear where intervals are apart, else only a lead."""
    pairs = [
        (task.shares[asked][one], task.shares[asked][other])
        for task in able
        if one in task.shares[asked] and other in task.shares[asked]
    ]
    if not pairs:
        return Claim(claim, "no task has both", "not seen")
    clear = sum(a.above(b) for a, b in pairs)
    lost = sum(b.above(a) for a, b in pairs)
    found = (
        f"mean {_mean(pairs, 0):.2f} against {_mean(pairs, 1):.2f}; intervals apart on {clear} of "
        f"{len(pairs)} tasks" + (f", the other way on {lost}" if lost else "")
    )
    lead = _mean(pairs, 0) - _mean(pairs, 1)
    if lead <= 0:
        return Claim(claim, found, "not seen")
    return Claim(claim, found, "holds" if clear and not lost else "mixed")


def _mean(pairs: Sequence[tuple[Share, Share]], side: int) -> float:
    return sum(pair[side].first for pair in pairs) / len(pairs)


def _counted(won: int, count: int) -> str:
    return "holds" if won == count else "mixed" if won else "not seen"


def _of_shape(study: "CrossModalStudy") -> list[Claim]:
    if study.shape is None:
        return []
    task, modality = study.shape.by_task, study.shape.by_modality
    found = (
        f"silhouette by task {task.silhouette:.2f} (p = {task.p_value:.3g}), by modality "
        f"{modality.silhouette:.2f} (p = {modality.p_value:.3g}), at layer {study.shape.layer}"
    )
    closer = task.silhouette > modality.silhouette and task.p_value < _RARE
    listed = [Claim("Vectors cluster by task, not by modality.", found, _verdict(closer))]
    own = study.shape.own.diagonal()
    highest = sum(best == i for i, best in enumerate(study.shape.own.argmax(1).tolist()))
    found = (
        f"the own task has the largest convex weight for {highest} of {len(own)} tasks; mean "
        f"weight {float(own.mean()):.2f}, by chance {1 / len(own):.2f}"
    )
    claim = "A picture vector is nearest to its own task among the word vectors."
    return [*listed, Claim(claim, found, _counted(highest, len(own)))]


def _of_phases(study: "CrossModalStudy") -> list[Claim]:
    ordered, told = [], []
    for name, found in study.phases.items():
        peaks = dict(zip(found.groups, found.peaks, strict=True))
        ordered.append(peaks["input"] < peaks["task"] < peaks["answer"])
        listed = ", ".join(f"{group} {layer}" for group, layer in peaks.items())
        told.append(f"{name}: {listed}")
    claim = "The last token is about the input, then the task, then the answer."
    found = "layers of the highest mean reciprocal rank: " + "; ".join(told)
    return [Claim(claim, found, _counted(sum(ordered), len(ordered)))]


def _of_conflicts(study: "CrossModalStudy") -> list[Claim]:
    if not study.conflicts:
        return []
    won = [one.after["patched"][1] > one.after["asked"][2] for one in study.conflicts]
    told = "; ".join(
        f"{one.asked} asked, {one.patched} patched in: {one.after['asked'][0]:.2f} and "
        f"{one.after['patched'][0]:.2f} (before {one.before['asked'][0]:.2f} and "
        f"{one.before['patched'][0]:.2f})"
        for one in study.conflicts
    )
    claim = "A vector overrides the task that the prompt asks for."
    return [Claim(claim, told, _counted(sum(won), len(won)))]


def _verdict(holds: bool) -> str:
    return "holds" if holds else "not seen"
