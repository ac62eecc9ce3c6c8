"""The page of a study of words and pictures."""

from typing import TYPE_CHECKING

from ... import viz
from ...patching.show import figures as head_figures
from ..report import settings_table
from . import panels
from .result import ABLE

if TYPE_CHECKING:
    from .study import CrossModalStudy


def page(study: "CrossModalStudy") -> viz.Page:
    """One page: the claims, the table of conditions, and where they come from."""
    sections = [
        viz.Section("Claims", _CLAIMS, [viz.table([c._asdict() for c in study.claims()])]),
        viz.Section("The pictures", _GALLERY, [panels.gallery(study)]),
        viz.Section(
            "Pictures asked", _TABLE, [panels.table(study, "image"), panels.conditions(study)]
        ),
        viz.Section("Words asked", _WORDS, [panels.table(study, "text")]),
        viz.Section("Where vectors work", _LAYERS, [panels.layers(study)]),
        viz.Section("A prompt", _PROMPT.format(**_first(study)), [panels.prompt(study)]),
        viz.Section("Input, task, answer", _PHASES, [panels.phases(study)]),
        viz.Section("Heads", _HEADS, [head_figures(study.heads)]),
    ]
    if study.conflicts:
        sections.insert(5, viz.Section("Conflict", _CONFLICT, [panels.conflicts(study)]))
    if study.shape is not None:
        sections.append(viz.Section("By task or by modality", _SHAPE, panels.shape(study)))
    sections.append(viz.Section("The paper's table", _PAPER, [panels.papers_table(study)]))
    title = f"Tasks in words and in pictures: {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = (
    "On the tasks that the model does in words. A task counts as won where 95% intervals over "
    "items are apart; a lead without that is mixed."
)
_GALLERY = "Some inputs of every task, as the model sees them; point at one for its name."
_TABLE = (
    "Share of test items whose first token is right, with 95% Wilson intervals over items. "
    "Vectors are written at the last delimiter of the bare query, at one layer for all tasks, "
    "chosen on other items. A task that the model cannot do in words cannot show transfer."
)
_WORDS = "The same with words as queries: what the model can do, and whether pictures help words."
_LAYERS = (
    "First-token accuracy on the selection items, the mean over tasks and seeds, by the layer at "
    "which a vector is written."
)
_PROMPT = (
    "A few-shot prompt of {task} with pictures, one for each input. The colour of a token is the "
    "cosine of its state at layer {layer} with the vector out of words, both less the mean state "
    "of the prompt: blue for alike, red for opposed."
)
_PHASES = (
    "Few-shot prompts of all tasks, read at the last token by the logit lens: 1 / rank in the "
    "vocabulary of the query's name, of words that name the task, and of the answer."
)
_HEADS = (
    "Every head's output at the last token is taken from the prompt with demonstrations in words "
    "into the bare picture, one at a time: what it adds to the right answer's log-probability."
)
_SHAPE = (
    "Vectors of single sets of examples, in words and in pictures. If they lie by task, the "
    "silhouette by task is above all permutations of the labels, and the one by modality is not."
)
_CONFLICT = (
    "Demonstrations in words ask for one task about a picture, and the vector of another task on "
    "the same inputs is written in: whose answer is given."
)
_PAPER = (
    "Queries that are pictures, by the lenient measure of the paper (either string begins with the "
    "other), ours on top. Its models have 7 to 8 billion parameters; the animals' Latin names are "
    "beyond a small one."
)


def _first(study: "CrossModalStudy") -> dict[str, object]:
    return {"task": next(iter(study.tasks)), "layer": study.layers["text to image"]}


def _summary(study: "CrossModalStudy") -> list[str]:
    able = [task for task in study.tasks.values() if task.able]
    lines = [
        f"Asked: does a task that {study.settings['model']} reads from words work on pictures, "
        "when its vector alone is written into a query that shows one?"
    ]
    lines += [
        f"Left out, {task.name}: the answers of all test items begin with the same token, so that "
        "first-token accuracy needs no task."
        for task in study.tasks.values()
        if task.constant
    ]
    if not able:
        return [*lines, f"Found: it does none of the tasks in words at {ABLE:.0%}."]
    for task in able:
        shares, known = task.shares["image"], task.shares["text"]
        lines.append(
            f"{task.name}: in words {known['same_few_shot'].first:.2f} few-shot and "
            f"{known['same_patch'].first:.2f} with the vector; on pictures the vector out of "
            f"words gives {panels.told(shares['other_patch'])}, no context "
            f"{shares['no_context'].first:.2f}, words in the prompt "
            f"{shares['other_few_shot'].first:.2f}, the vector out of pictures "
            f"{shares['same_patch'].first:.2f}."
        )
    worst, mixed = (
        max(task.shares["image"][name].first for task in able for name in names)
        for names in (("random", "wrong_task"), ("shuffled_patch",))
    )
    sizes, seeds = sorted({task.sizes[2] for task in able}), study.settings["seeds"]
    items = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    verdicts = [claim.verdict for claim in study.claims()]
    lines.append(
        f"Trust: random and wrong-task vectors reach at most {worst:.2f}; vectors of examples with "
        f"shuffled labels, which still show what answers look like, {mixed:.2f}; items "
        f"for extraction, for choosing the layer and for the test are disjoint; {items} test items "
        f"a task, {seeds} seed{'s' if seeds > 1 else ''}. "
        f"{verdicts.count('holds')} of {len(verdicts)} claims hold."
    )
    return lines
