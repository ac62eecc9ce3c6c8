"""One seed of the study: extract vectors, choose layers, score all conditions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...file_names import file_name
from ...progress import progress_bar
from ...tasks import Task, Template
from ...vectors import TaskVector, extract
from ..cache import cached, load_tensors, save_tensors
from .conditions import (
    CONDITIONS,
    MODALITIES,
    ExtractionConfig,
    Outcome,
    TaskSplit,
    score_conditions,
    shuffle_labels,
    sweep_layers,
)


class SeedRun(NamedTuple):
    """Results of one seed, by task.

    Attributes:
        config: settings of the extraction.
        splits: parts of every task.
        vectors: by source.
        sweeps: first-token accuracy by layer on the validation part, by "source to query".
        layers: the chosen layer, by "source to query"; common to all tasks.
        outcomes: by modality of the query and condition.
    """

    config: ExtractionConfig
    splits: dict[str, TaskSplit]
    vectors: dict[str, dict[str, TaskVector]]
    sweeps: dict[str, dict[str, Float[Tensor, "item layer"]]]
    layers: dict[str, int]
    outcomes: dict[str, dict[str, dict[str, Outcome]]]


def run_seed(
    model: Any,
    tasks: Sequence[Task],
    config: ExtractionConfig,
    *,
    max_items: tuple[int, int],
    language_model: Any = None,
    folder: Path | None = None,
    progress: bool | None = None,
) -> SeedRun:
    """Compute the results of one seed that need the model; cached parts are loaded.

    Args:
        model: the vision-language model.
        tasks: with images.
        config: settings of the extraction.
        max_items: maximal numbers of items of the validation and of the test part.
        language_model: language model whose vectors are transferred too.
        folder: folder of the cache.
        progress: whether to show progress bars; by default on a terminal.
    """
    splits = {task.name: split_task(task, max_items, config.seed) for task in tasks}
    cache = None if folder is None else folder / f"seed-{config.seed}"

    def bar(description: str) -> Any:
        return progress_bar(splits.items(), f"{description}, seed {config.seed}", progress=progress)

    vectors, sweeps, outcomes = {}, {}, {}
    for name, split in bar("extracting"):
        vectors[name] = extract_vectors(
            model, split.train, config, language_model=language_model, folder=cache
        )
    for name, split in bar("choosing layers"):
        content = {"model": model, "vectors": vectors[name], "validation": split.validation}
        sweeps[name] = cached(
            cache and cache / f"{file_name(name)}-layers.safetensors",
            content | {"config": config},
            lambda n=name, s=split: sweep_layers(model, vectors[n], s.validation, config.template),
            load=load_tensors,
            save=save_tensors,
        )
    layers = choose_layers(sweeps)
    for name, split in bar("testing"):
        content = {"model": model, "name": name, "vectors": vectors, "split": tuple(split)}
        content |= {"layers": sorted(layers.items()), "config": config}
        flat = cached(
            cache and cache / f"{file_name(name)}-outcomes.safetensors",
            content,
            lambda s=split: _flatten(score_conditions(model, s, vectors, layers, config)),
            load=load_tensors,
            save=save_tensors,
        )
        outcomes[name] = _unflatten(flat)
    return SeedRun(config, splits, vectors, sweeps, layers, outcomes)


def extract_vectors(
    model: Any,
    train: Task,
    config: ExtractionConfig,
    *,
    language_model: Any = None,
    folder: Path | None = None,
) -> dict[str, TaskVector]:
    """Extract a task's vectors from every source.

    Returns:
        By source: "text" and "image" (means of sets), "text 0", "image 0", ... (single sets),
        "one set" (the first set of texts), "shuffled" (texts with labels of other inputs),
        "instruction", "ensemble" (mean of text and instruction), and "language model" (texts read
        by another model).
    """
    template = Template.restore(config.template)
    defaults = {"shots": config.shots, "contexts": config.contexts, "template": template}

    def extract_set(
        source: str, number: int = 0, task: Task = train, origin: Any = model, **options: Any
    ) -> TaskVector:
        options = defaults | {"seed": 100 * config.seed + number} | options
        name = f"{file_name(task.name)}-{source}-{options['seed']}.safetensors"
        return cached(
            None if folder is None else folder / "vectors" / name,
            {"model": origin, "task": task, **options},
            lambda: extract(origin, task, **options),
            load=TaskVector.load,
        )

    def extract_mean(source: str, **options: Any) -> TaskVector:
        sets = [extract_set(source, i, **options) for i in range(config.sets)]
        return TaskVector.average(sets)

    vectors = {
        f"{modality} {i}": extract_set(modality, i, modality=modality)
        for modality in ("text", "image")
        for i in range(config.sets)
    }
    for modality in ("text", "image"):
        sets = [vectors[f"{modality} {i}"] for i in range(config.sets)]
        vectors[modality] = TaskVector.average(sets)
    vectors["one set"] = vectors["text 0"]
    vectors["shuffled"] = extract_mean("shuffled", task=shuffle_labels(train, config.seed))
    if train.instruction:
        vectors["instruction"] = extract_set("instruction", method="instruction")
        vectors["ensemble"] = TaskVector.average([vectors["text"], vectors["instruction"]])
    if language_model is not None:
        vectors["language model"] = extract_mean("language-model", origin=language_model)
    return vectors


def split_task(task: Task, max_items: tuple[int, int], seed: int) -> TaskSplit:
    """Split a task; the validation and test parts are cut to `max_items`."""
    train, *parts = task.split(seed=seed)
    validation, test = (
        part.subset(range(min(count, len(part))))
        for part, count in zip(parts, max_items, strict=True)
    )
    return TaskSplit(train, validation, test)


def choose_layers(
    sweeps: Mapping[str, Mapping[str, Float[Tensor, "item layer"]]],
) -> dict[str, int]:
    """Choose the first layer of the highest mean accuracy over tasks, by "source to query"."""
    directions = dict.fromkeys(direction for sweep in sweeps.values() for direction in sweep)
    return {
        direction: int(
            sum(s[direction].mean(0) for s in sweeps.values() if direction in s).argmax()
        )
        for direction in directions
    }


def mean_by_layer(
    sweeps: Sequence[Mapping[str, Float[Tensor, "item layer"]]],
) -> dict[str, list[float]]:
    """Average the accuracy by layer of one task over seeds, by "source to query"."""
    return {
        direction: np.mean([sweep[direction].mean(0).numpy() for sweep in sweeps], axis=0).tolist()
        for direction in sweeps[0]
    }


def _flatten(outcomes: Mapping[str, Mapping[str, Outcome]]) -> dict[str, Outcome]:
    return {
        f"{query}/{condition}": outcome
        for query, conditions in outcomes.items()
        for condition, outcome in conditions.items()
    }


def _unflatten(flat: Mapping[str, Outcome]) -> dict[str, dict[str, Outcome]]:
    """Sort outcomes by query and condition, in the order of `CONDITIONS`."""
    return {
        query: {
            condition: flat[f"{query}/{condition}"]
            for condition in CONDITIONS
            if f"{query}/{condition}" in flat
        }
        for query in MODALITIES
    }
