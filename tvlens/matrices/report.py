"""`MatrixReport`: what a task matrix does on the test part, beside its baselines."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from ..saved import Saved
from ..stats import share_interval
from .examples import Examples
from .matrix import TaskMatrix

if TYPE_CHECKING:
    import pandas

# What reports call the task matrix itself.
MATRIX = "task_matrix"


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies with its interval: the first method less the second."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the first one "wins", "loses", or "ties", where the interval holds 0."""
        return "wins" if self.low > 0 else "loses" if self.high < 0 else "ties"


@dataclass(frozen=True)
class MatrixReport(Saved):
    """Decisions of a task matrix and of its baselines, all at the layer that was chosen for it.

    Attributes:
        names: methods: "task_matrix", then the baselines.
        decisions: class of every test example, by seed and method.
        labels: the true classes.
        layers: base layers that were offered.
        layer, ridge, rank: what was chosen, by seed; rank 0 is a whole matrix.
        by_layer: accuracy of the best penalty and rank at each layer, on the part that chose.
        by_layer_r2: R^2 of that map there.
        selection: "validation": chosen on other examples, test touched once; "oracle": chosen on
            the test part itself, as the paper does, which flatters every method.
        oracle: accuracy of the map that does best on the test part, by seed: what choosing there
            would have given.
        settings: what made it.
    """

    names: tuple[str, ...]
    decisions: Int[Tensor, "seed method n"]
    labels: Int[Tensor, " n"]
    layers: tuple[int, ...]
    layer: Int[Tensor, " seed"]
    ridge: Float[Tensor, " seed"]
    rank: Int[Tensor, " seed"]
    by_layer: Float[Tensor, "seed layer"]
    by_layer_r2: Float[Tensor, "seed layer"]
    selection: str
    oracle: Float[Tensor, " seed"]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = self.interval(MATRIX)
        rest = ", ".join(f"{n} {self.accuracy(n):.3f}" for n in self.names if n != MATRIX)
        layers = "/".join(map(str, sorted(set(self.layer.tolist()))))
        how = "chosen ON THE TEST PART" if self.selection == "oracle" else "chosen on validation"
        found = f"{self.accuracy(MATRIX):.3f} [{low:.3f}, {high:.3f}] at layer {layers}, {how}"
        return f"MatrixReport({found}; {rest})"

    def _repr_html_(self) -> str:
        from .show import report_figure

        return report_figure(self)._repr_html_()

    def accuracy(self, name: str = MATRIX) -> float:
        """Share of test examples that a method decides rightly, over all seeds."""
        return float(self._correct[:, self._place(name)].double().mean())

    def by_seed(self) -> list[list[float]]:
        """Accuracy of every method, seed by seed."""
        return self._correct.double().mean(-1).tolist()

    def interval(
        self, name: str = MATRIX, *, level: float = 0.95, seed: int = 0
    ) -> tuple[float, float]:
        """Interval of the accuracy: Wilson's over examples.

        Of several seeds, an example's outcomes are averaged first, and each end is the outer one of
        this interval and of the bootstrap interval over examples and seeds.
        """
        right = self._correct[:, self._place(name)].double().mean(0)
        low, high = share_interval(right.numpy(), level=level)
        if len(self._correct) > 1:
            drawn_low, drawn_high = ends(self._drawn(seed)[self._place(name)], level).tolist()
            low, high = min(low, drawn_low), max(high, drawn_high)
        return low, high

    def agreement(self, name: str = MATRIX, *, other: str = "finetuned") -> float:
        """Share of test examples on which two methods decide the same, right or wrong."""
        a, b = (self.decisions[:, self._place(n)] for n in (name, other))
        return float((a == b).double().mean())

    def difference(
        self, name: str, other: str, *, level: float = 0.95, seed: int = 0
    ) -> Difference:
        """Accuracy of one method less that of another, paired by example and seed.

        The interval is a bootstrap over examples and seeds.
        """
        drawn = self._drawn(seed)
        value = self.accuracy(name) - self.accuracy(other)
        led = drawn[self._place(name)] - drawn[self._place(other)]
        return Difference(value, *ends(led, level).tolist())

    def share_of_gap(
        self, floor: str = "ridge_probe", ceiling: str = "finetuned", *, name: str = MATRIX
    ) -> float:
        """How much of the way from one method's accuracy to another's a third one goes.

        Raises:
            TvlensError: the two are equal, so that there is no gap.
        """
        low, high = self.accuracy(floor), self.accuracy(ceiling)
        if low == high:
            raise TvlensError(f"{floor} and {ceiling} are equally accurate ({low:.3f}): no gap")
        return (self.accuracy(name) - low) / (high - low)

    def matrix(self, train: Examples, *, seed: int = 0) -> TaskMatrix:
        """The chosen matrix, fitted to the same train part again.

        Args:
            seed: which of the seeds, counted from 0.
        """
        layer, rank = int(self.layer[seed]), int(self.rank[seed]) or None
        x, y, _ = train.at(layer)
        bias = bool(self.settings.get("bias", True))
        fitted = TaskMatrix.from_states(x, y, ridge=float(self.ridge[seed]), bias=bias, rank=rank)
        return replace(fitted, layer=layer)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per method.

        Accuracy, interval ends, agreement with the finetuned model, and the task matrix's lead
        over it with interval and verdict.
        """
        import pandas as pd

        rows = []
        for name in self.names:
            low, high = self.interval(name)
            row = {"method": name, "accuracy": self.accuracy(name), "low": low, "high": high}
            if "finetuned" in self.names:
                row["agreement"] = self.agreement(name)
            if name != MATRIX:
                lead = self.difference(MATRIX, name)
                row |= {"lead": lead.value, "lead_low": lead.low, "lead_high": lead.high}
                row["verdict"] = lead.verdict
            rows.append(row | {"n": len(self.labels)})
        return pd.DataFrame(rows)

    @cached_property
    def _correct(self) -> Bool[Tensor, "seed method n"]:
        return self.decisions == self.labels

    @cached_property
    def _draws(self) -> dict[int, Tensor]:
        return {}

    def _drawn(self, seed: int) -> Float[Tensor, "method resample"]:
        """Accuracies under resampled examples and, across them, resampled seeds."""
        if seed in self._draws:
            return self._draws[seed]
        rng = np.random.default_rng(seed)
        seeds, _, size = self._correct.shape
        examples = resamples(rng, size)
        runs = resamples(rng, seeds)
        drawn = einsum(
            self._correct.double() @ examples,
            runs,
            "seed method resample, seed resample -> method resample",
        )
        return self._draws.setdefault(seed, drawn)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise unknown("method", name, self.names)
        return self.names.index(name)


def pooled(reports: Sequence[MatrixReport]) -> MatrixReport:
    """Reports of several seeds on one test part as one, whose intervals cover both.

    Raises:
        TvlensError: no reports, or of different test parts, methods, layers or selections.
    """
    if not reports:
        raise TvlensError("no reports to pool")
    head = reports[0]
    for other in reports[1:]:
        for name in ("names", "layers", "selection"):
            if getattr(other, name) != getattr(head, name):
                raise TvlensError(f"the reports differ in their {name}")
        if not torch.equal(other.labels, head.labels):
            raise TvlensError("the reports are of different test parts")
    by_seed = ("decisions", "layer", "ridge", "rank", "by_layer", "by_layer_r2", "oracle")
    stacked = {name: torch.cat([getattr(r, name) for r in reports]) for name in by_seed}
    seeds = [s for r in reports for s in r.settings.get("seeds", [])]
    return replace(head, **stacked, settings=head.settings | {"seeds": seeds})


def resamples(
    rng: np.random.Generator, size: int, count: int = 2000
) -> Float[Tensor, "size resample"]:
    """How much of each bootstrap resample every item is."""
    draws = rng.integers(0, size, (count, size))
    return torch.tensor(np.stack([np.bincount(d, minlength=size) for d in draws]).T / size)


def ends(values: Float[Tensor, "*more resample"], level: float = 0.95) -> Float[Tensor, "*more 2"]:
    """Ends of the interval of resampled values."""
    low_high = np.quantile(values.numpy(), [(1 - level) / 2, (1 + level) / 2], axis=-1)
    return torch.tensor(np.moveaxis(low_high, 0, -1))
