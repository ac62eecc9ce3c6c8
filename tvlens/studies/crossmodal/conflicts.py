"""Who wins: the task that a prompt asks for, or the one that a vector carries?"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ...stats import share_interval
from ...tasks import Task
from ...vectors import Row, TaskVector, score
from .sources import Draws, few_shot


class Conflict(NamedTuple):
    """Two tasks on the same inputs: words ask for one, about a picture; the other is patched in.

    Attributes:
        asked, patched: the tasks.
        before, after: share of answers to the asked and to the patched task, without the vector
            and with it, each with its interval.
        count: items whose two answers begin with different tokens.
    """

    asked: str
    patched: str
    before: dict[str, tuple[float, float, float]]
    after: dict[str, tuple[float, float, float]]
    count: int


def conflicts(
    model: Any,
    parts: Mapping[str, tuple[Task, Task, Task]],
    vectors: Mapping[str, Mapping[str, TaskVector]],
    layer: int,
    draws: Draws,
) -> list[Conflict]:
    """Every task against the next one of its kind, on test items that both of them have."""
    found = []
    for asked, patched in _rivals(parts):
        both = _common(parts, asked, patched)
        if both is not None:
            value = vectors[patched]["text"].values[layer]
            found.append(_measured(model, *both, value, layer, draws))
    return [one for one in found if one is not None]


def _rivals(parts: Mapping[str, tuple[Task, Task, Task]]) -> list[tuple[str, str]]:
    """Tasks of one kind in a ring, each with its neighbour."""
    by_kind: dict[str, list[str]] = {}
    for name, (train, _, _) in parts.items():
        by_kind.setdefault(train.kind or name, []).append(name)
    rings = [names for names in by_kind.values() if len(names) > 1]
    return [(a, b) for names in rings for a, b in zip(names, names[1:] + names[:1], strict=True)]


def _common(
    parts: Mapping[str, tuple[Task, Task, Task]], asked: str, patched: str
) -> tuple[Task, Task, Task] | None:
    """The asked task's examples, and its test items with the answers of both tasks.

    An item that the patched task was extracted from is left out.
    """
    train, _, test = parts[asked]
    answers = {x: y for part in parts[patched][1:] for x, y in part}
    kept = [i for i, (x, _) in enumerate(test) if x in answers]
    if not kept:
        return None
    own = test.subset(kept)
    pairs = tuple((x, answers[x]) for x, _ in own)
    return train, own, Task(patched, pairs, images=own.images, kind=own.kind)


def _measured(
    model: Any, train: Task, own: Task, rival: Task, value: Any, layer: int, draws: Draws
) -> Conflict | None:
    prompts, rivals = (
        few_shot(model, draws, train, task, shown="text", asked="image") for task in (own, rival)
    )
    wanted = torch.tensor(
        [[a.answer[0], b.answer[0]] for a, b in zip(prompts, rivals, strict=True)]
    )
    differ = wanted[:, 0] != wanted[:, 1]
    if not differ.any():
        return None
    shares = []
    for rows in ([Row(p) for p in prompts], [Row(p, layer, value) for p in prompts]):
        hits = (score(model, rows).predicted[:, None] == wanted)[differ].double()
        shares.append(
            {
                name: (float(column.mean()), *share_interval(column.numpy()))
                for name, column in zip(("asked", "patched"), hits.T, strict=True)
            }
        )
    return Conflict(own.name, rival.name, *shares, int(differ.sum()))  # type: ignore[call-arg]
