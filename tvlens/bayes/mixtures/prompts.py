"""Prompts that mix demonstrations of several tasks with common inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...tasks import Pair, Prompt, Task, Template, build


@dataclass(frozen=True)
class Mixture:
    """A prompt whose demonstrations come from one or several tasks.

    Attributes:
        prompt: the prompt up to the query's delimiter.
        demonstrations: its input-output pairs.
        sources: index of the task of each demonstration.
        query: index of the query among the tasks' inputs.
    """

    prompt: Prompt
    demonstrations: tuple[Pair, ...]
    sources: tuple[int, ...]
    query: int


def align_tasks(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Restrict tasks to their common inputs, in one order, so that inputs do not identify the task.

    Raises:
        TvlensError: there are fewer than two tasks, two tasks share a name, no input is common, or
            two tasks have equal answers to every common input.
    """
    if len(tasks) < 2:
        raise TvlensError("a mixture needs at least two tasks")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise TvlensError(f"two tasks of {', '.join(names)} have the same name")
    tables = [dict(task.pairs) for task in tasks]
    common = [x for x in tables[0] if all(x in table for table in tables)]
    if not common:
        raise TvlensError(f"{', '.join(names)} share no input")
    for i, one in enumerate(tables):
        for j, other in enumerate(tables[:i]):
            if all(one[x] == other[x] for x in common):
                raise TvlensError(
                    f"{names[j]} and {names[i]} have the same output for all common inputs"
                )
    return tuple(
        Task(task.name, [(x, table[x]) for x in common], task.description, kind=task.kind)
        for task, table in zip(tasks, tables, strict=True)
    )


def enumerate_compositions(shots: int, tasks: int) -> list[tuple[int, ...]]:
    """List every division of the demonstrations among the tasks."""
    if tasks == 1:
        return [(shots,)]
    return [
        (n, *rest)
        for n in range(shots + 1)
        for rest in enumerate_compositions(shots - n, tasks - 1)
    ]


def build_mixed_prompts(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    *,
    shots: int,
    count: int,
    queries: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Mixture]:
    """Sample prompts in which every division of the demonstrations among tasks is equally frequent.

    The numbers of demonstrations per task are distributed as under proportions from Dirichlet(1).
    Their order is random, and inputs do not repeat within a prompt.

    Args:
        tasks: aligned tasks.
        count: number of prompts.
        queries: indices of the inputs that serve as queries, equally often up to rounding; all by
            default. Demonstrations are sampled from all other inputs.

    Raises:
        TvlensError: there are too few inputs.
    """
    _check_size(tasks, shots)
    rng = np.random.default_rng(seed)
    divisions = _cycle_shuffled(enumerate_compositions(shots, len(tasks)), count, rng)
    asked = _cycle_shuffled(range(len(tasks[0])) if queries is None else queries, count, rng)
    mixtures = []
    for division, query in zip(divisions, asked, strict=True):
        sources = rng.permutation(np.repeat(np.arange(len(tasks)), division))
        inputs = _sample_other_inputs(len(tasks[0]), query, shots, rng)
        mixtures.append(_build_mixture(tokenizer, tasks, template, inputs, sources, query))
    return mixtures


def build_pure_prompts(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    *,
    shots: int,
    queries: Sequence[int],
    seed: int = 0,
) -> list[Mixture]:
    """Sample one prompt of each single task for every query, on the same inputs, ordered by query.

    Raises:
        TvlensError: there are too few inputs.
    """
    _check_size(tasks, shots)
    rng = np.random.default_rng(seed)
    mixtures = []
    for query in queries:
        inputs = _sample_other_inputs(len(tasks[0]), query, shots, rng)
        for k in range(len(tasks)):
            sources = np.full(shots, k)
            mixtures.append(_build_mixture(tokenizer, tasks, template, inputs, sources, query))
    return mixtures


def label_likelihood(
    tasks: Sequence[Task], mixtures: Sequence[Mixture], *, noise: float = 0.05
) -> Float[Tensor, "prompt shot task"]:
    """Compute p(label | input, task) of every demonstration under label noise.

    The answer of the task has probability 1 - noise, every other label noise / (labels - 1), where
    the labels are all outputs of all tasks. A label may fit several tasks.

    Args:
        tasks: aligned tasks, with all their inputs.
        noise: label-noise rate, in [0, 1).

    Raises:
        TvlensError: noise is outside [0, 1), or a demonstration's input or label belongs to none
            of the tasks.
    """
    if not 0 <= noise < 1:
        raise TvlensError(f"noise is {noise}: it must be at least 0 and below 1")
    tables = [dict(task.pairs) for task in tasks]
    labels = {y for table in tables for y in table.values()}
    for x, y in (pair for mixture in mixtures for pair in mixture.demonstrations):
        if x not in tables[0] or y not in labels:
            raise TvlensError(f"the demonstration {x!r} -> {y!r} belongs to none of the tasks")
    correct, wrong = 1 - noise, noise / max(len(labels) - 1, 1)
    rows = [
        [[correct if t[x] == y else wrong for t in tables] for x, y in mixture.demonstrations]
        for mixture in mixtures
    ]
    return torch.tensor(rows, dtype=torch.float64)


def answer_token_ids(
    tokenizer: Any, tasks: Sequence[Task], template: Template
) -> Int[Tensor, "input task"]:
    """Return the first token of every task's answer to every common input."""
    return torch.tensor(
        [
            [build(tokenizer, template, [], x, y).answer[0] for x, y in pairs]
            for pairs in zip(*tasks, strict=True)
        ]
    )


def distinguishable_queries(answers: Int[Tensor, "input task"]) -> list[int]:
    """List the inputs on which the answers of all tasks begin with different tokens.

    Only on these does the output at one position identify the task.
    """
    return [i for i, row in enumerate(answers.tolist()) if len(set(row)) == len(row)]


def _build_mixture(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    inputs: np.ndarray,
    sources: np.ndarray,
    query: int,
) -> Mixture:
    demonstrations = tuple(tasks[k].pairs[i] for i, k in zip(inputs, sources, strict=True))
    prompt = build(tokenizer, template, demonstrations, tasks[0].pairs[query][0])
    return Mixture(prompt, demonstrations, tuple(int(k) for k in sources), int(query))


def _cycle_shuffled(items: Sequence, count: int, rng: np.random.Generator) -> list:
    """Return `count` items in rounds over all of them, each round in a new random order."""
    rounds = -(-count // len(items))
    order = np.concatenate([rng.permutation(len(items)) for _ in range(rounds)])
    return [items[i] for i in order[:count]]


def _sample_other_inputs(size: int, query: int, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Sample distinct inputs for the demonstrations, excluding the query."""
    inputs = rng.choice(size - 1, size=shots, replace=False)
    return inputs + (inputs >= query)


def _check_size(tasks: Sequence[Task], shots: int) -> None:
    if shots < 1 or len(tasks[0]) < shots + 1:
        names = ", ".join(task.name for task in tasks)
        raise TvlensError(
            f"{names} share {len(tasks[0])} inputs here: {shots} shots and a query need "
            f"{max(shots, 1) + 1}"
        )
