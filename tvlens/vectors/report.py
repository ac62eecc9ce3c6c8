"""`VectorReport`: accuracy of a task vector and of its controls."""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..results import Result

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Condition:
    """Accuracy under one condition on the test part, with 95% Wilson intervals over items.

    Attributes:
        first: share of items whose answer's first token is the most likely one.
        full: share of items whose whole answer greedy decoding gives.
        count: number of scored rows behind the shares.
    """

    name: str
    first: float
    first_interval: tuple[float, float]
    full: float
    full_interval: tuple[float, float]
    count: int


@dataclass(frozen=True)
class VectorReport(Result):
    """Accuracy of a task vector with its controls. The layer was chosen on other items.

    Attributes:
        task: name of the task.
        layer: the layer chosen on the validation part.
        by_layer: first-token accuracy on the validation part at every layer.
        by_layer_interval: its 95% Wilson intervals over items.
        conditions: test accuracy under every condition, by name.
        meta: settings, provenance of the vector.
        shared_first_token: the token with which the answers of all test items begin, as a text;
            None where they differ. Where there is one, first-token accuracy asks for nothing of
            the task: read `full_accuracy`.
    """

    task: str
    layer: int
    by_layer: Float[Tensor, " layer"]
    by_layer_interval: Float[Tensor, "layer 2"]
    conditions: dict[str, Condition]
    meta: dict = field(default_factory=dict)
    shared_first_token: str | None = None

    @property
    def accuracy(self) -> float:
        """First-token accuracy on the test part with the vector at the chosen layer."""
        return self.conditions["vector"].first

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of `accuracy`, over test items."""
        return self.conditions["vector"].first_interval

    @property
    def full_accuracy(self) -> float:
        """Share of test items with a correct whole answer under the vector."""
        return self.conditions["vector"].full

    @property
    def zero_shot(self) -> float:
        """First-token accuracy of the bare query."""
        return self.conditions["zero_shot"].first

    @property
    def few_shot(self) -> float | None:
        """First-token accuracy with demonstrations; None for a vector without examples."""
        condition = self.conditions.get("few_shot")
        return condition.first if condition else None

    @property
    def controls(self) -> dict[str, float]:
        """First-token accuracy by control: random, wrong_task, shuffled_labels, most_common."""
        not_controls = ("vector", "zero_shot", "few_shot")
        return {name: c.first for name, c in self.conditions.items() if name not in not_controls}

    def __repr__(self) -> str:
        low, high = self.interval
        rest = {"zero_shot": self.zero_shot, "few_shot": self.few_shot, **self.controls}
        accuracies = ", ".join(f"{k} {v:.2f}" for k, v in rest.items() if v is not None)
        note = self.note and f"; {self.note}"
        return (
            f"VectorReport({self.task!r}: {self.accuracy:.2f} [{low:.2f}, {high:.2f}] "
            f"at layer {self.layer}; {accuracies}{note})"
        )

    @property
    def note(self) -> str:
        """Caveat about first-token accuracy; empty if there is none."""
        if self.shared_first_token is None:
            return ""
        return (
            f"all test answers begin with the same token {self.shared_first_token!r}, so that "
            "first-token accuracy needs no task: read the whole answer's, "
            f"{self.full_accuracy:.2f}"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per condition: accuracies, interval ends, number of scored rows."""
        import pandas as pd

        rows = [
            {
                "task": self.task,
                "condition": c.name,
                "layer": self.layer if c.name in ("vector", "random", "wrong_task") else None,
                "first_token": c.first,
                "first_low": c.first_interval[0],
                "first_high": c.first_interval[1],
                "full_answer": c.full,
                "full_low": c.full_interval[0],
                "full_high": c.full_interval[1],
                "n": c.count,
            }
            for c in self.conditions.values()
        ]
        return pd.DataFrame(rows).astype({"layer": "Int64"})

    def to_json(self) -> dict[str, Any]:
        """Convert the report to plain JSON values."""
        plain = asdict(self)
        plain["by_layer"] = self.by_layer.tolist()
        plain["by_layer_interval"] = self.by_layer_interval.tolist()
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "VectorReport":
        """Build a report from its JSON values."""
        conditions = {}
        for name, c in plain["conditions"].items():
            ends = {k: tuple(c[k]) for k in ("first_interval", "full_interval")}
            conditions[name] = Condition(**(c | ends))
        return cls(
            plain["task"],
            plain["layer"],
            torch.tensor(plain["by_layer"], dtype=torch.float64),
            torch.tensor(plain["by_layer_interval"], dtype=torch.float64),
            conditions,
            plain["meta"],
            plain.get("shared_first_token"),
        )
