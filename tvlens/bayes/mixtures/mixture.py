"""Prompts that mix demonstrations of several tasks on the same kind of inputs."""

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
        prompt: built, up to the query's delimiter.
        demonstrations: the pairs it shows.
        sources: index of the task that gave each of them its label.
        query: index of the query among the tasks' inputs.
    """

    prompt: Prompt
    demonstrations: tuple[Pair, ...]
    sources: tuple[int, ...]
    query: int


def aligned(tasks: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks on the inputs that all of them have, in one order: an input alone tells no task.

    Raises:
        TvlensError: fewer than two tasks, a name twice, no common input, or two tasks that answer
            every common input alike.
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
                raise TvlensError(f"{names[j]} and {names[i]} answer all common inputs alike")
    return tuple(
        Task(task.name, [(x, table[x]) for x in common], task.description, kind=task.kind)
        for task, table in zip(tasks, tables, strict=True)
    )


def compositions(shots: int, tasks: int) -> list[tuple[int, ...]]:
    """Every way to divide the demonstrations among the tasks."""
    if tasks == 1:
        return [(shots,)]
    return [(n, *rest) for n in range(shots + 1) for rest in compositions(shots - n, tasks - 1)]


def mixed_prompts(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    *,
    shots: int,
    count: int,
    queries: Sequence[int] | None = None,
    seed: int = 0,
) -> list[Mixture]:
    """Draw prompts in which every division of the demonstrations among tasks is equally frequent.

    So the tasks' numbers are distributed as under proportions from Dirichlet(1). The order of the
    tasks in a prompt is random; inputs do not repeat in a prompt.

    Args:
        tasks: aligned ones.
        count: number of prompts.
        queries: indices of the inputs that may be asked, as equally often as possible; all by
            default. Demonstrations are drawn from all other inputs.

    Raises:
        TvlensError: too few inputs.
    """
    _check_size(tasks, shots)
    rng = np.random.default_rng(seed)
    divisions = _in_turn(compositions(shots, len(tasks)), count, rng)
    asked = _in_turn(range(len(tasks[0])) if queries is None else queries, count, rng)
    found = []
    for division, query in zip(divisions, asked, strict=True):
        sources = rng.permutation(np.repeat(np.arange(len(tasks)), division))
        inputs = _others(len(tasks[0]), query, shots, rng)
        found.append(_mixture(tokenizer, tasks, template, inputs, sources, query))
    return found


def pure_prompts(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    *,
    shots: int,
    queries: Sequence[int],
    seed: int = 0,
) -> list[Mixture]:
    """For every query one prompt of each task alone, all on the same inputs: query by query.

    Raises:
        TvlensError: too few inputs.
    """
    _check_size(tasks, shots)
    rng = np.random.default_rng(seed)
    found = []
    for query in queries:
        inputs = _others(len(tasks[0]), query, shots, rng)
        for k in range(len(tasks)):
            sources = np.full(shots, k)
            found.append(_mixture(tokenizer, tasks, template, inputs, sources, query))
    return found


def label_likelihood(
    tasks: Sequence[Task], mixtures: Sequence[Mixture], *, noise: float = 0.05
) -> Float[Tensor, "prompt shot task"]:
    """p(label | input, task) of every demonstration, where labels are wrong now and then.

    The task's own answer has probability 1 - noise, every other label noise / (labels - 1), the
    labels being all outputs of all the tasks. A label that fits several tasks counts for each.

    Args:
        tasks: aligned ones, with all their inputs.
        noise: share of wrong labels, from 0 to below 1.

    Raises:
        TvlensError: noise outside [0, 1), or a demonstration whose input or label is none of the
            tasks'.
    """
    if not 0 <= noise < 1:
        raise TvlensError(f"noise is {noise}: it must be at least 0 and below 1")
    tables = [dict(task.pairs) for task in tasks]
    labels = {y for table in tables for y in table.values()}
    for x, y in (pair for mixture in mixtures for pair in mixture.demonstrations):
        if x not in tables[0] or y not in labels:
            raise TvlensError(f"the demonstration {x!r} -> {y!r} is of none of the tasks")
    own, other = 1 - noise, noise / max(len(labels) - 1, 1)
    rows = [
        [[own if table[x] == y else other for table in tables] for x, y in mixture.demonstrations]
        for mixture in mixtures
    ]
    return torch.tensor(rows, dtype=torch.float64)


def answer_tokens(
    tokenizer: Any, tasks: Sequence[Task], template: Template
) -> Int[Tensor, "input task"]:
    """First token of every task's answer to every common input, after the delimiter."""
    return torch.tensor(
        [
            [build(tokenizer, template, [], x, y).answer[0] for x, y in pairs]
            for pairs in zip(*tasks, strict=True)
        ]
    )


def tellable(answers: Int[Tensor, "input task"]) -> list[int]:
    """The inputs whose answers begin with another token for every task.

    Only there does one position's output tell which task the model does.
    """
    return [i for i, row in enumerate(answers.tolist()) if len(set(row)) == len(row)]


def _mixture(
    tokenizer: Any,
    tasks: Sequence[Task],
    template: Template,
    inputs: np.ndarray,
    sources: np.ndarray,
    query: int,
) -> Mixture:
    shown = tuple(tasks[k].pairs[i] for i, k in zip(inputs, sources, strict=True))
    prompt = build(tokenizer, template, shown, tasks[0].pairs[query][0])
    return Mixture(prompt, shown, tuple(int(k) for k in sources), int(query))


def _in_turn(items: Sequence, count: int, rng: np.random.Generator) -> list:
    """`count` items, all of them once before any comes again, each round in a new order."""
    rounds = -(-count // len(items))
    order = np.concatenate([rng.permutation(len(items)) for _ in range(rounds)])
    return [items[i] for i in order[:count]]


def _others(size: int, query: int, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs for the demonstrations: different ones, and not the query."""
    drawn = rng.choice(size - 1, size=shots, replace=False)
    return drawn + (drawn >= query)


def _check_size(tasks: Sequence[Task], shots: int) -> None:
    if shots < 1 or len(tasks[0]) < shots + 1:
        names = ", ".join(task.name for task in tasks)
        raise TvlensError(
            f"{names} share {len(tasks[0])} inputs here: {shots} shots and a query need "
            f"{max(shots, 1) + 1}"
        )
