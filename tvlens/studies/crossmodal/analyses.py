"""Further analyses: conflicts, geometry, phases, heads, and one prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations import collect
from ...geometry import Subspace, cosine_table, silhouette_test, simplex_weights
from ...geometry.orthogonality import Orthogonality
from ...geometry.silhouette import SilhouetteTest
from ...patching import PatchResult, log_probability, patch
from ...stats import share_interval
from ...tasks import Prompt, Task, Template
from ...vectors import Row, score
from ...vectors.conditions import build_zero_shot
from ...vectors.logit_lens import Phases, phases
from .conditions import MODALITIES, TaskResult, VectorsByTask, few_shot_prompts
from .image_tasks import task_words
from .seed_run import SeedRun

# An accuracy and the ends of its interval.
Accuracy = tuple[float, float, float]


class Conflict(NamedTuple):
    """Demonstrations of one task and the vector of another, for the same image queries.

    Attributes:
        prompted: task of the demonstrations, which are texts.
        written: task of the vector.
        before: share of answers of the "prompted" and of the "written" task without the vector,
            each with its interval.
        after: the same with the vector.
        count: items whose two answers begin with different tokens.
    """

    prompted: str
    written: str
    before: dict[str, Accuracy]
    after: dict[str, Accuracy]
    count: int


def find_conflicts(model: Any, run: SeedRun) -> list[Conflict]:
    """Test every task against the next one of its kind, on items that both tasks answer."""
    layer = run.layers["text to image"]
    by_kind: dict[str, list[str]] = {}
    for name, (train, _, _) in run.splits.items():
        by_kind.setdefault(train.kind or name, []).append(name)
    rings = [names for names in by_kind.values() if len(names) > 1]
    pairs = [(a, b) for names in rings for a, b in zip(names, names[1:] + names[:1], strict=True)]
    conflicts = []
    for prompted, other in pairs:
        common = common_items(run, prompted, other)
        if common is not None:
            row_vector = run.vectors[other]["text"].values[layer]
            conflict = _score_conflict(model, run, common, vector=row_vector, layer=layer)
            conflicts += [] if conflict is None else [conflict]
    return conflicts


def common_items(run: SeedRun, prompted: str, other: str) -> tuple[Task, Task] | None:
    """Select test items of a task with its own answers and with those of another task.

    Items from which the other task's vector was extracted are left out; None if none remains.
    """
    test = run.splits[prompted].test
    answers = {x: y for part in run.splits[other][1:] for x, y in part}
    indices = [i for i, (x, _) in enumerate(test) if x in answers]
    if not indices:
        return None
    common = test.subset(indices)
    pairs = tuple((x, answers[x]) for x, _ in common)
    return common, Task(other, pairs, images=common.images, kind=common.kind)


def _score_conflict(
    model: Any,
    run: SeedRun,
    items: tuple[Task, Task],
    *,
    vector: Float[Tensor, " d_model"],
    layer: int,
) -> Conflict | None:
    prompted, written = items
    train = run.splits[prompted.name].train
    options = {"shown": "text", "query": "image", "config": run.config}
    both = [few_shot_prompts(model, train, task, **options) for task in items]
    targets = torch.tensor([[a.answer[0], b.answer[0]] for a, b in zip(*both, strict=True)])
    differs = targets[:, 0] != targets[:, 1]
    if not differs.any():
        return None
    prompts, accuracies = both[0], []
    for rows in ([Row(p) for p in prompts], [Row(p, layer, vector) for p in prompts]):
        correct = (score(model, rows).predicted[:, None] == targets)[differs].double()
        accuracies.append(
            {
                name: (float(column.mean()), *share_interval(column.numpy()))
                for name, column in zip(("prompted", "written"), correct.T, strict=True)
            }
        )
    before, after = accuracies
    return Conflict(prompted.name, written.name, before, after, int(differs.sum()))


@dataclass(frozen=True)
class VectorGeometry:
    """Geometry of the vectors of all tasks and modalities at one layer.

    Attributes:
        layer: layer of the vectors.
        tasks: task of each single-set vector.
        modalities: modality of each single-set vector.
        points: the single-set vectors.
        by_task: separation of the vectors by task (cosine distance).
        by_modality: separation by modality.
        means: labels of the mean vectors, by source and task.
        cosines: between the mean vectors.
        centered: the same after subtracting the mean of each source over tasks.
        overlap: angles between the task differences of text and of image vectors; None for fewer
            than three tasks, whose differences span too little.
        weights: convex weights of every task's image vector on all tasks' text vectors.
    """

    layer: int
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    points: Float[Tensor, "vector d_model"]
    by_task: SilhouetteTest
    by_modality: SilhouetteTest
    means: tuple[str, ...]
    cosines: Float[Tensor, "mean mean"]
    centered: Float[Tensor, "mean mean"]
    overlap: Orthogonality | None
    weights: Float[Tensor, "task task"]

    def to_dict(self) -> dict[str, Any]:
        """All numbers except the vectors, as plain data."""
        return {
            "layer": self.layer,
            "by_task": self.by_task.to_dataframe().to_dict("records")[0],
            "by_modality": self.by_modality.to_dataframe().to_dict("records")[0],
            "means": self.means,
            "cosines": self.cosines.tolist(),
            "centered_cosines": self.centered.tolist(),
            "overlap": self.overlap and self.overlap.to_dataframe().to_dict("records"),
            "image_on_text_weights": self.weights.tolist(),
        }


def compare_vectors(
    vectors: VectorsByTask, layer: int, *, sets: int, seed: int = 0
) -> VectorGeometry | None:
    """Compare the vectors of several tasks at one layer; None for one task.

    Args:
        vectors: by task and source.
        layer: at which they are compared.
        sets: single-set vectors of each modality.
        seed: seed of the nulls.
    """
    names = list(vectors)
    if len(names) < 2:
        return None
    rows = [(task, m, i) for task in names for m in MODALITIES for i in range(sets)]
    points = torch.stack([vectors[task][f"{m} {i}"].values[layer] for task, m, i in rows])
    tasks, modalities = (tuple(row[k] for row in rows) for k in (0, 1))
    sources = [s for s in ("text", "image", "instruction") if all(s in vectors[t] for t in names)]
    by_source = {s: torch.stack([vectors[t][s].values[layer] for t in names]) for s in sources}
    text, image = (_center(by_source[modality]) for modality in ("text", "image"))
    overlap = None
    if len(names) > 2:
        text_span, image_span = (Subspace.span(part, tolerance=1e-3) for part in (text, image))
        overlap = text_span.orthogonality(image_span, seed=seed)
    return VectorGeometry(
        layer=layer,
        tasks=tasks,
        modalities=modalities,
        points=points,
        by_task=silhouette_test(points, _to_indices(tasks), metric="cosine", seed=seed),
        by_modality=silhouette_test(points, _to_indices(modalities), metric="cosine", seed=seed),
        means=tuple(f"{name}, {source}" for source in sources for name in names),
        cosines=cosine_table(torch.cat(list(by_source.values()))),
        centered=cosine_table(torch.cat([_center(part) for part in by_source.values()])),
        overlap=overlap,
        weights=simplex_weights(image, text),
    )


def _center(points: Float[Tensor, "task d_model"]) -> Float[Tensor, "task d_model"]:
    return points - points.mean(0)


def _to_indices(labels: Sequence[str]) -> Tensor:
    classes = list(dict.fromkeys(labels))
    return torch.tensor([classes.index(label) for label in labels])


def compute_phases(model: Any, run: SeedRun, modality: str, *, count: int = 8) -> Phases:
    """Rank input, task and answer words by layer, in few-shot prompts of one modality."""
    prompts, words = [], []
    for train, _, test in run.splits.values():
        items = test.subset(range(min(count, len(test))))
        prompts += few_shot_prompts(
            model, train, items, shown=modality, query=modality, config=run.config
        )
        task = task_words(train)
        words += [{"input": (x,), "task": task, "answer": (y,)} for x, y in items]
    return phases(model, prompts, words)


def patch_heads(
    model: Any, run: SeedRun, results: Mapping[str, TaskResult], *, count: int = 8
) -> PatchResult:
    """Patch every head's last output from text demonstrations into the bare image query.

    The task is the one with the highest accuracy for text demonstrations and image queries.
    """
    name = max(results, key=lambda n: results[n].conditions["image"]["other_few_shot"].accuracy)
    train, validation, _ = run.splits[name]
    items = validation.subset(range(min(count, len(validation))))
    clean = few_shot_prompts(model, train, items, shown="text", query="image", config=run.config)
    queries = build_zero_shot(model, Template.restore(run.config.template), items, "image")
    metric = log_probability([prompt.answer[0] for prompt in clean])
    return patch(model, clean, queries, site="z", positions=-1, metric=metric)


class PromptAlignment(NamedTuple):
    """A few-shot prompt with images, and the alignment of its states with a text vector.

    Attributes:
        task: task of the prompt and the vector.
        prompt: with its images.
        tokens: as texts.
        cosines: cosine of each token's state with the vector, both minus the prompt's mean state.
    """

    task: str
    prompt: Prompt
    tokens: list[str]
    cosines: Float[Tensor, " pos"]


def align_prompt(model: Any, run: SeedRun) -> PromptAlignment:
    """Compare the states of a prompt of the first task with its text vector."""
    name, (train, _, test) = next(iter(run.splits.items()))
    (prompt,) = few_shot_prompts(
        model, train, test.subset([0]), shown="image", query="image", config=run.config
    )
    layer = run.layers["text to image"]
    activations = collect(model, [prompt], "resid_post", layers=layer, progress=False)
    states = activations.stack("resid_post")[0, 0]
    mean = states.mean(0)
    direction = run.vectors[name]["text"].values[layer].to(states) - mean
    tokens = [model.tokenizer.decode([token]) for token in prompt.tokens]
    cosines = torch.cosine_similarity(states - mean, direction[None], dim=-1)
    return PromptAlignment(name, prompt, tokens, cosines)


def render_thumbnails(task: Task, *, count: int = 12) -> list[tuple[str, bytes]]:
    """Render thumbnails of the first images of a task."""
    return [(x, task.shown((x, y), "image")[0].render_thumbnail()) for x, y in task.pairs[:count]]
