"""The conditions of the study: their prompts, vectors and accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...models import processor_or_tokenizer
from ...stats import share_interval
from ...tasks import Prompt, Task, Template, build, shuffled_labels
from ...vectors import Row, TaskVector, score
from ...vectors.conditions import build_zero_shot, draw_random_like, score_constant_answer
from ...vectors.scoring import layer_sweep, lenient

# Criteria of a correct answer: its first token, all of it, or the lenient one of the paper.
MEASURES = ("first", "exact", "lenient")

# Condition -> its label; {same} and {other} are the modalities of the demonstrations.
CONDITIONS = {
    "no_context": "no context",
    "same_few_shot": "few-shot, {same}s",
    "other_few_shot": "few-shot, {other}s (xBase)",
    "same_patch": "vector of {same}s (patch)",
    "other_patch": "vector of {other}s (xPatch)",
    "instruction": "instruction in the prompt",
    "instruction_patch": "vector of the instruction",
    "ensemble_patch": "mean of text and instruction vectors",
    "one_set_patch": "vector of one set of texts",
    "language_model_patch": "vector of the language model",
    "random": "random vector",
    "wrong_task": "wrong task's vector",
    "shuffled_patch": "vector of shuffled labels",
    "shuffled_few_shot": "few-shot, shuffled labels",
    "most_common": "most common answer",
}

MODALITIES = ("image", "text")
OTHER_MODALITY = {"image": "text", "text": "image"}

# Sources whose layer is chosen; the others are written at the layer of the text vector.
LAYER_SOURCES = ("text", "image", "instruction", "ensemble")

# Few-shot accuracy with text that a task needs in order to count: without it there is no transfer.
MIN_TEXT_ACCURACY = 0.4

_RANDOM_VECTORS = 3

# Vectors by source, and these by task.
Vectors = Mapping[str, TaskVector]
VectorsByTask = Mapping[str, Vectors]
# Whether each answer is correct, by measure.
Outcome = Float[Tensor, "item repeat measure"]


class TaskSplit(NamedTuple):
    """Disjoint parts of a task: train, validation and test."""

    train: Task
    validation: Task
    test: Task


@dataclass(frozen=True)
class ExtractionConfig:
    """Settings of the extraction.

    Attributes:
        shots: demonstrations per context.
        sets: number of sets of contexts whose vectors are averaged.
        contexts: contexts per set.
        template: written form of a demonstration.
        seed: seed of the draws.
    """

    shots: int
    sets: int
    contexts: int
    template: str
    seed: int


@dataclass(frozen=True)
class ConditionResult:
    """Accuracy under one condition.

    Attributes:
        accuracies: by measure ("first", "exact", "lenient").
        intervals: 95% Wilson intervals over items, by measure; each item's seeds are averaged
            first.
        by_seed: first-token accuracy in every seed.
        count: scored rows.
    """

    accuracies: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    by_seed: list[float]
    count: int

    @property
    def accuracy(self) -> float:
        """First-token accuracy."""
        return self.accuracies["first"]

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the first-token accuracy."""
        return self.intervals["first"]

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.accuracy:.2f} [{low:.2f}, {high:.2f}]"


@dataclass(frozen=True)
class TaskResult:
    """One task under every condition.

    Attributes:
        name: name of the task.
        conditions: by modality of the query and condition.
        by_layer: first-token accuracy on the validation part, by "source to query", mean of seeds.
        sizes: pairs in the train, validation and test parts.
    """

    name: str
    conditions: dict[str, dict[str, ConditionResult]]
    by_layer: dict[str, list[float]]
    sizes: tuple[int, int, int]

    @property
    def has_constant_answer(self) -> bool:
        """Whether all test answers begin with the same token, which makes accuracy meaningless."""
        return self.conditions["text"]["most_common"].accuracy == 1

    @property
    def is_solved_with_text(self) -> bool:
        """Whether few-shot accuracy with text reaches `MIN_TEXT_ACCURACY`, and answers differ."""
        accuracy = self.conditions["text"]["same_few_shot"].accuracy
        return accuracy >= MIN_TEXT_ACCURACY and not self.has_constant_answer

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as plain data."""
        return asdict(self) | {"is_solved_with_text": self.is_solved_with_text}


def sweep_layers(
    model: Any, vectors: Vectors, validation: Task, template: str
) -> dict[str, Float[Tensor, "item layer"]]:
    """Compute the first-token accuracy of every source's vector by layer and "source to query"."""
    correct = {}
    for query in MODALITIES:
        prompts = build_zero_shot(model, Template.restore(template), validation, query)
        for source in LAYER_SOURCES:
            if source in vectors:
                sweep = layer_sweep(model, vectors[source], prompts)
                correct[f"{source} to {query}"] = sweep[..., 0]
    return correct


def score_conditions(
    model: Any,
    split: TaskSplit,
    vectors: VectorsByTask,
    layers: Mapping[str, int],
    config: ExtractionConfig,
) -> dict[str, dict[str, Outcome]]:
    """Score every condition on the test part.

    Args:
        model: the vision-language model.
        split: split of the task.
        vectors: vectors of all tasks; those of other tasks serve as controls.
        layers: layers to write at, by "source to query".
        config: settings of the extraction.

    Returns:
        Outcomes by modality of the query and condition.
    """
    train, _, test = split
    template = Template.restore(config.template)
    outcomes = {}
    for query in MODALITIES:
        queries = build_zero_shot(model, template, test, query)
        rows = prompt_rows(model, split, queries, query, config)
        rows |= vector_rows(test.name, vectors, queries, query, layers, seed=config.seed)
        outcomes[query] = score_rows(model, rows, len(test))
        constant = torch.tensor(
            score_constant_answer(model.tokenizer, template, train.pairs, queries)
        )
        # By the lenient measure a constant is correct where its first token is.
        outcomes[query]["most_common"] = constant[:, None, [0, 1, 0]]
    return outcomes


def prompt_rows(
    model: Any, split: TaskSplit, queries: Sequence[Prompt], query: str, config: ExtractionConfig
) -> dict[str, list[Row]]:
    """Build the conditions in which the prompt alone specifies the task."""
    train, _, test = split
    other = OTHER_MODALITY[query]
    options = {"query": query, "config": config}
    prompts = {
        "no_context": queries,
        "same_few_shot": few_shot_prompts(model, train, test, shown=query, **options),
        "other_few_shot": few_shot_prompts(model, train, test, shown=other, **options),
        "shuffled_few_shot": few_shot_prompts(
            model, shuffle_labels(train, config.seed), test, shown=other, **options
        ),
    }
    if test.instruction:
        template = Template.restore(config.template)
        prompts["instruction"] = build_zero_shot(
            model, template, test, query, instruction=test.instruction
        )
    return {condition: [Row(prompt) for prompt in rows] for condition, rows in prompts.items()}


def vector_rows(
    name: str,
    vectors: VectorsByTask,
    queries: Sequence[Prompt],
    query: str,
    layers: Mapping[str, int],
    *,
    seed: int,
) -> dict[str, list[Row]]:
    """Build the conditions in which a vector alone specifies the task: by item, then repeat."""
    by_source, other = vectors[name], OTHER_MODALITY[query]
    text_layer, other_layer = layers[f"text to {query}"], layers[f"{other} to {query}"]

    def available(source: str) -> list[TaskVector]:
        return [by_source[source]] if source in by_source else []

    # Condition -> layer, and the vectors of its repeats.
    writes = {
        "same_patch": (layers[f"{query} to {query}"], available(query)),
        "other_patch": (other_layer, available(other)),
        "instruction_patch": (layers.get(f"instruction to {query}"), available("instruction")),
        "ensemble_patch": (layers.get(f"ensemble to {query}"), available("ensemble")),
        "one_set_patch": (text_layer, available("one set")),
        "language_model_patch": (text_layer, available("language model")),
        "wrong_task": (other_layer, wrong_task_vectors(vectors, name, other)),
        "shuffled_patch": (text_layer, available("shuffled")),
    }
    rows = {
        condition: [Row(prompt, layer, v.values[layer]) for prompt in queries for v in repeats]
        for condition, (layer, repeats) in writes.items()
        if repeats
    }
    rng = np.random.default_rng(seed)
    random = draw_random_like(by_source[other].values[other_layer], rng, count=_RANDOM_VECTORS)
    rows["random"] = [Row(prompt, other_layer, v) for prompt in queries for v in random]
    return rows


def wrong_task_vectors(vectors: VectorsByTask, name: str, source: str) -> list[TaskVector]:
    """Select vectors of up to four other tasks of the same source, preferably of another kind."""
    kind = vectors[name][source].meta["kind"]
    others = [v[source] for task, v in vectors.items() if task != name and source in v]
    other_kinds = [v for v in others if v.meta["kind"] != kind]
    return (other_kinds or others)[:4]


def score_rows(model: Any, rows: Mapping[str, Sequence[Row]], items: int) -> dict[str, Outcome]:
    """Score the rows of all conditions in common batches, by every measure."""
    all_rows = [row for condition in rows.values() for row in condition]
    scores = score(model, all_rows)
    predictions = model.tokenizer.batch_decode(scores.predicted[:, None].tolist())
    answers = model.tokenizer.batch_decode([list(row.prompt.answer) for row in all_rows])
    is_lenient = [lenient(*pair) for pair in zip(predictions, answers, strict=True)]
    correct = torch.stack([scores.first, scores.full, torch.tensor(is_lenient)], dim=-1).double()
    parts = correct.split([len(condition) for condition in rows.values()])
    return {
        condition: rearrange(part, "(item repeat) measure -> item repeat measure", item=items)
        for condition, part in zip(rows, parts, strict=True)
    }


def few_shot_prompts(
    model: Any, train: Task, test: Task, *, shown: str, query: str, config: ExtractionConfig
) -> list[Prompt]:
    """Build few-shot prompts of the test items, with demonstrations from the train part.

    Args:
        model: model whose processor builds the prompts.
        train: demonstrations.
        test: queries.
        shown: modality of the demonstrations.
        query: modality of the queries.
        config: settings of the extraction.
    """
    template = Template.restore(config.template)
    prompts = []
    for i, pair in enumerate(test):
        rng = np.random.default_rng([config.seed, i])
        indices = rng.choice(len(train), config.shots, False)
        demonstrations = [train.shown(train.pairs[j], shown) for j in indices]
        processor = processor_or_tokenizer(model)
        prompts.append(build(processor, template, demonstrations, *test.shown(pair, query)))
    return prompts


def shuffle_labels(train: Task, seed: int) -> Task:
    """Replace labels by those of other inputs, none of them correct.

    Raises:
        TvlensError: a task with one label.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    donors = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    pairs = tuple((x, train.pairs[donors[i]][1]) for i, (x, _) in enumerate(train))
    if any(a == b for a, b in zip(pairs, train, strict=True)):
        labels = [y for _, y in train]
        pairs = tuple(shuffled_labels(train.pairs, labels=labels, seed=seed))
    return replace(train, pairs=pairs)


def summarize_outcomes(
    items: Sequence[Sequence[str]], outcomes: Sequence[Outcome]
) -> ConditionResult:
    """Summarize one condition over seeds.

    Args:
        items: names of the test items of every seed.
        outcomes: outcomes of every seed.
    """
    means = [outcome.mean(1) for outcome in outcomes]
    by_item: dict[str, list[np.ndarray]] = {}
    for names, rows in zip(items, means, strict=True):
        for name, row in zip(names, rows.numpy(), strict=True):
            by_item.setdefault(name, []).append(row)
    values = np.stack([np.mean(rows, axis=0) for rows in by_item.values()])
    intervals = [share_interval(column) for column in values.T]
    return ConditionResult(
        dict(zip(MEASURES, values.mean(0).tolist(), strict=True)),
        dict(zip(MEASURES, intervals, strict=True)),
        [float(rows[:, 0].mean()) for rows in means],
        sum(outcome.shape[0] * outcome.shape[1] for outcome in outcomes),
    )
