"""The study of task vectors: accuracy, controls, layers and geometry."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..file_names import file_name
from ..files import check_folder
from ..folder_lock import one_writer
from ..models.forward import check_causal
from ..models.loading import model_name
from ..progress import progress_bar
from ..tasks import Prompt, Task, Template, build, contexts
from ..vectors import TaskVector, VectorReport, evaluate, extract, top_tokens
from .cache import cached
from .claims import Claim
from .report import StudyReport

if TYPE_CHECKING:
    import pandas

# By how much the interval of a vector must exceed its best control.
_MARGIN = 0.1


@dataclass(frozen=True)
class VectorStudy(StudyReport):
    """Task vectors of several tasks in one model, each evaluated against its controls.

    Attributes:
        vectors, reports: by task name.
        layer: the layer at which tasks are compared: the median of the selected layers.
        cosines: between the tasks' vectors at that layer.
        states: residual states of single contexts at that layer, by task, `[context, d_model]`.
        top_tokens: by task and layer, the tokens that the vector alone makes most likely.
        prompt: the tokens of a few-shot prompt of the first task.
        alignment: cosine of each of its states with the first task's vector, both centered on the
            mean state of the prompt.
        heads: the heads whose last token attends most to the labels, (layer, head, share).
        patterns: their attention patterns, `[head, destination, source]`.
        settings: all that is needed to run the study again.
    """

    vectors: dict[str, TaskVector]
    reports: dict[str, VectorReport]
    layer: int
    cosines: Float[Tensor, "task task"]
    states: dict[str, Float[Tensor, "context d_model"]]
    top_tokens: dict[str, list[list[tuple[str, float]]]]
    prompt: list[str]
    alignment: Float[Tensor, " pos"]
    heads: list[tuple[int, int, float]]
    patterns: Float[Tensor, "head pos pos"]
    settings: dict

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per task and condition."""
        import pandas as pd

        return pd.concat([r.to_dataframe() for r in self.reports.values()], ignore_index=True)

    @property
    def claims(self) -> list[Claim]:
        """One claim per task: its vector works."""
        return [vector_claim(report) for report in self.reports.values()]

    def numbers(self) -> dict[str, Any]:
        """Reports by task, cosines and top tokens, as plain data."""
        return {
            "layer": self.layer,
            "tasks": {name: report.to_json() for name, report in self.reports.items()},
            "cosines": {"tasks": list(self.vectors), "values": self.cosines.tolist()},
            "top_tokens": self.top_tokens,
        }


def vector_claim(report: VectorReport, **where: str | int) -> Claim:
    """Claim that a task vector works: it exceeds all controls without demonstrations.

    Args:
        report: report of `evaluate`.
        where: further names of the vector, such as `method`.
    """
    nulls = {k: v for k, v in report.controls.items() if k != "shuffled_labels"}
    nulls = {"zero_shot": report.zero_shot} | nulls
    return Claim(
        id="vector-works",
        statement=f"The vector exceeds every control without demonstrations by {_MARGIN}.",
        value=report.accuracy,
        interval=report.interval,
        threshold=max(nulls.values()) + _MARGIN,
        nulls=nulls,
        where={"task": report.task, **where, "layer": report.layer},
    )


@one_writer
def run(
    model: Any,
    tasks: Sequence[str | Task],
    *,
    method: str = "state",
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> VectorStudy:
    """Extract, evaluate and compare the vectors of several tasks.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        tasks: catalogue names, files, or tasks.
        folder: where vectors, page and JSON are written and reports are cached, so that an
            interrupted run continues there.
        method, template, shots, contexts, seed: as in `extract`.

    Raises:
        TvlensError: unknown names, too small tasks, too long prompts.
    """
    check_causal(model)
    parts = _split_tasks(tasks, seed)
    options = {"method": method, "shots": shots, "contexts": contexts, "seed": seed}
    form = Template.of(template)
    options["template"] = form.demonstration
    if folder is not None:
        check_folder(folder)

    vectors = {}
    for name, (train, _, _) in progress_bar(parts.items(), "extracting", progress=progress):
        vectors[name] = extract(model, train, **options | {"template": form})
    reports = {}
    for name, (_, validation, test) in progress_bar(parts.items(), "evaluating", progress=progress):
        reports[name] = _evaluate(model, vectors, name, validation, test, seed, folder)

    layer = int(torch.tensor([r.layer for r in reports.values()]).median())
    at_layer = torch.stack([v.values[layer] for v in vectors.values()])
    unit = torch.nn.functional.normalize(at_layer, dim=-1)
    states = {
        name: _collect_states(model, vectors[name], part[0], layer) for name, part in parts.items()
    }
    first = next(iter(vectors.values()))
    study = VectorStudy(
        vectors,
        reports,
        layer,
        unit @ unit.T,
        states,
        {name: top_tokens(model, vector, k=6) for name, vector in vectors.items()},
        *_inspect_prompt(model, first, parts[first.name], layer),
        settings=options
        | {"model": model_name(model), "tasks": list(parts)}
        | {k: first.meta[k] for k in ("processed", "dtype", "revision", "versions")},
    )
    if folder is not None:
        for name, vector in vectors.items():
            vector.save(Path(folder) / f"{file_name(name)}.safetensors")
        study.save(folder)
    return study


def _split_tasks(tasks: Sequence[str | Task], seed: int) -> dict[str, tuple[Task, Task, Task]]:
    """Load tasks, and split each into train, validation and test."""
    loaded = [task if isinstance(task, Task) else Task.load(task) for task in tasks]
    if not loaded:
        raise TvlensError("no task to study")
    parts = {task.name: task.split(seed=seed) for task in loaded}
    if len(parts) < len(loaded):
        raise TvlensError("two tasks have the same name")
    return parts


def _evaluate(
    model: Any,
    vectors: dict[str, TaskVector],
    name: str,
    validation: Task,
    test: Task,
    seed: int,
    folder: str | os.PathLike | None,
) -> VectorReport:
    """Evaluate one task, with vectors of up to four tasks of another kind as a control."""
    vector = vectors[name]
    wrong = [v for v in vectors.values() if v.meta["kind"] != vector.meta["kind"]][:4] or None
    file = None if folder is None else Path(folder) / f"{file_name(name)}.json"
    options = dict(validation=validation, test=test, wrong=wrong, seed=seed)
    return cached(
        file,
        {"model": model, "vector": vector, **options},
        lambda: evaluate(model, vector, **options),
        load=VectorReport.load,
    )


def _collect_states(
    model: Any, vector: TaskVector, train: Task, layer: int
) -> Float[Tensor, "context d_model"]:
    """Collect the states of the contexts, whose mean is the vector."""
    prompts = [p.tokens for p in _build_prompts(model, vector, train, vector.meta["contexts"])]
    activations = collect(model, prompts, vector.site, layers=layer, positions=-1, progress=False)
    return activations.stack(vector.site)[0, :, 0]


def _build_prompts(model: Any, vector: TaskVector, train: Task, count: int) -> list[Prompt]:
    meta = vector.meta
    draws = contexts(train, shots=meta["shots"], count=count, seed=meta["seed"])
    template = Template.restore(meta["template"])
    return [
        build(model.tokenizer, template, demonstrations, query)
        for demonstrations, (query, _) in draws
    ]


def _inspect_prompt(
    model: Any, vector: TaskVector, parts: tuple[Task, Task, Task], layer: int, *, show: int = 8
) -> tuple[list[str], Tensor, list[tuple[int, int, float]], Tensor]:
    """Inspect a few-shot prompt: tokens, alignment with the vector, heads that attend to labels."""
    (prompt,) = _build_prompts(model, vector, parts[0], 1)
    activations = collect(model, [prompt.tokens], ["resid_post", "pattern"], progress=False)
    residual = activations.stack("resid_post")[layer, 0]
    mean = residual.mean(0, keepdim=True)
    centered = vector.values[layer][None].to(residual) - mean
    alignment = torch.cosine_similarity(residual - mean, centered, dim=-1)
    patterns = activations.stack("pattern")[: layer + 1, 0]
    patterns = rearrange(patterns, "layer query head key -> layer head query key")
    on_labels = sum(patterns[:, :, -1, a:b].sum(-1) for a, b in prompt.labels)
    share, flat = on_labels.flatten().topk(min(show, on_labels.numel()))
    width = patterns.shape[1]
    heads = [(int(i) // width, int(i) % width, float(s)) for i, s in zip(flat, share, strict=True)]
    tokens = [model.tokenizer.decode([token]) for token in prompt.tokens]
    return tokens, alignment, heads, torch.stack([patterns[l, h] for l, h, _ in heads])
