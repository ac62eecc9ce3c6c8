"""`TaskResult`: one task under every condition, over items and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...stats import share_interval
from .conditions import MEASURES, Outcome

# What the model must do with words alone for a task to count: it cannot show transfer otherwise.
ABLE = 0.4


@dataclass(frozen=True)
class Share:
    """Accuracy under one condition.

    Attributes:
        value, low, high: by measure ("first", "exact", "lenient"): accuracy and the ends of its
            95% Wilson interval over items; an item's seeds are averaged first.
        seeds: first-token accuracy in every seed.
        count: scored rows.
    """

    value: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    seeds: list[float]
    count: int

    @property
    def first(self) -> float:
        """First-token accuracy."""
        return self.value["first"]

    def above(self, other: "Share") -> bool:
        """Whether its first-token interval lies above another's."""
        return self.low["first"] > other.high["first"]


@dataclass(frozen=True)
class TaskResult:
    """One task.

    Attributes:
        shares: by modality of the query and condition.
        by_layer: first-token accuracy on the selection part, by "source to query", mean of seeds.
        sizes: pairs in the extraction, selection and test parts.
    """

    name: str
    shares: dict[str, dict[str, Share]]
    by_layer: dict[str, list[float]]
    sizes: tuple[int, int, int]

    @property
    def constant(self) -> bool:
        """Whether one first token is right for every test item.

        First-token accuracy then says nothing about the task.
        """
        return self.shares["text"]["most_common"].first == 1

    @property
    def able(self) -> bool:
        """Whether the model does the task with text.

        Few-shot first-token accuracy is at least `ABLE`, and a constant would not do as well.
        """
        return self.shares["text"]["same_few_shot"].first >= ABLE and not self.constant

    def to_json(self) -> dict[str, Any]:
        """All numbers, as plain data."""
        return asdict(self) | {"able": self.able}


def summarised(items: Sequence[Sequence[str]], outcomes: Sequence[Outcome]) -> Share:
    """One condition's share over seeds: `items` names the test items of every seed."""
    means = [outcome.mean(1) for outcome in outcomes]
    per_item: dict[str, list[np.ndarray]] = {}
    for names, rows in zip(items, means, strict=True):
        for name, row in zip(names, rows.numpy(), strict=True):
            per_item.setdefault(name, []).append(row)
    values = np.stack([np.mean(rows, axis=0) for rows in per_item.values()])
    ends = [share_interval(column) for column in values.T]
    return Share(
        dict(zip(MEASURES, values.mean(0).tolist(), strict=True)),
        {name: low for name, (low, _) in zip(MEASURES, ends, strict=True)},
        {name: high for name, (_, high) in zip(MEASURES, ends, strict=True)},
        [float(rows[:, 0].mean()) for rows in means],
        sum(outcome.shape[0] * outcome.shape[1] for outcome in outcomes),
    )


def mean_by_layer(
    swept: Sequence[Mapping[str, Float[Tensor, "item layer"]]],
) -> dict[str, list[float]]:
    """Accuracy by layer of every way from source to query, the mean over seeds."""
    return {
        way: np.mean([sweep[way].mean(0).numpy() for sweep in swept], axis=0).tolist()
        for way in swept[0]
    }
