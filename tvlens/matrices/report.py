"""`MatrixReport`: test predictions of a task matrix and of its baselines."""

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
from ..results import Result
from ..stats import bootstrap_counts, percentiles, share_interval
from .examples import Examples
from .matrix import TaskMatrix

if TYPE_CHECKING:
    import pandas

# Name of the task matrix among the methods of a report.
MATRIX = "task_matrix"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one method minus that of another, with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.low, self.high

    @property
    def verdict(self) -> str:
        """Whether the first method "wins", "loses", or "ties" (the interval contains 0)."""
        return "wins" if self.low > 0 else "loses" if self.high < 0 else "ties"


@dataclass(frozen=True)
class MatrixReport(Result):
    """Test predictions of a task matrix and of its baselines at the same layer.

    Attributes:
        methods: "task_matrix", then the baselines.
        predictions: class of every test example, by seed and method.
        labels: the true classes.
        layers: base layers that were searched.
        layer, ridge, rank: the chosen ones, by seed; rank 0 is a full matrix.
        by_layer: accuracy of the best penalty and rank at each layer, on the part that was used
            for the choice.
        by_layer_r2: R^2 of that map there.
        selection: "validation": chosen on other examples; "oracle": chosen on the test part
            itself, as in the paper, which biases every method upwards.
        oracle_accuracy: accuracy of the map that is best on the test part, by seed: what "oracle"
            would have reported.
        settings: bias, seeds and numbers of examples.
    """

    methods: tuple[str, ...]
    predictions: Int[Tensor, "seed method n"]
    labels: Int[Tensor, " n"]
    layers: tuple[int, ...]
    layer: Int[Tensor, " seed"]
    ridge: Float[Tensor, " seed"]
    rank: Int[Tensor, " seed"]
    by_layer: Float[Tensor, "seed layer"]
    by_layer_r2: Float[Tensor, "seed layer"]
    selection: str
    oracle_accuracy: Float[Tensor, " seed"]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        low, high = self.interval
        others = ", ".join(f"{m} {a:.3f}" for m, a in self.accuracies.items() if m != MATRIX)
        layers = "/".join(map(str, sorted(set(self.layer.tolist()))))
        part = "chosen ON THE TEST PART" if self.selection == "oracle" else "chosen on validation"
        matrix = f"{self.accuracy:.3f} [{low:.3f}, {high:.3f}] at layer {layers}, {part}"
        return f"MatrixReport({matrix}; {others})"

    @property
    def accuracy(self) -> float:
        """Test accuracy of the task matrix, over all seeds."""
        return self.accuracies[MATRIX]

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the task matrix's accuracy."""
        return self.intervals[MATRIX]

    @property
    def null(self) -> float | None:
        """Accuracy of matrices fitted to permuted pairs; None if they were not evaluated."""
        return self.accuracies.get("permuted")

    @cached_property
    def accuracies(self) -> dict[str, float]:
        """Test accuracy of every method, over all seeds."""
        return {
            method: float(self._is_correct[:, i].double().mean())
            for i, method in enumerate(self.methods)
        }

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% interval of every method's accuracy: Wilson's over examples.

        With several seeds, the outcomes of an example are averaged first, and each end is the
        outer one of this interval and of the bootstrap interval over examples and seeds.
        """
        return {method: self._interval(method) for method in self.methods}

    @property
    def accuracies_by_seed(self) -> list[dict[str, float]]:
        """Test accuracy of every method, seed by seed."""
        rows = self._is_correct.double().mean(-1).tolist()
        return [dict(zip(self.methods, row, strict=True)) for row in rows]

    def agreement(self, method: str = MATRIX, *, other: str = "finetuned") -> float:
        """Compute the share of test examples to which two methods assign the same class."""
        a, b = (self.predictions[:, self._index(m)] for m in (method, other))
        return float((a == b).double().mean())

    def difference(
        self, method: str, other: str, *, level: float = 0.95, seed: int = 0
    ) -> Difference:
        """Compute the accuracy of one method minus that of another, paired by example and seed.

        The interval is a bootstrap over examples and seeds.
        """
        resampled = self._resample(seed)
        value = self.accuracies[method] - self.accuracies[other]
        differences = resampled[self._index(method)] - resampled[self._index(other)]
        low, high = percentiles(differences.numpy(), tail=(1 - level) / 2).tolist()
        return Difference(value, low, high)

    def gap_recovered(
        self, lower: str = "ridge_probe", upper: str = "finetuned", *, method: str = MATRIX
    ) -> float:
        """Compute the share of the gap between two methods' accuracies that a third one recovers.

        Raises:
            TvlensError: the two are equal, so that there is no gap.
        """
        low, high = self.accuracies[lower], self.accuracies[upper]
        if low == high:
            raise TvlensError(
                f"{lower} and {upper} are equally accurate ({low:.3f}): the gap is undefined"
            )
        return (self.accuracies[method] - low) / (high - low)

    def refit(self, train: Examples, *, seed: int = 0, full_rank: bool = False) -> TaskMatrix:
        """Fit the chosen matrix again, to the same training part.

        Args:
            seed: index of the seed.
            full_rank: without the chosen reduction of the rank.
        """
        layer = int(self.layer[seed])
        rank = None if full_rank else int(self.rank[seed]) or None
        x, y, _ = train.at_layer(layer)
        bias = bool(self.settings.get("bias", True))
        matrix = TaskMatrix.from_states(x, y, ridge=float(self.ridge[seed]), bias=bias, rank=rank)
        return replace(matrix, layer=layer)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per method.

        Columns: accuracy with its interval, agreement with the finetuned model, and the difference
        of the task matrix's accuracy to the method's, with interval and verdict.
        """
        import pandas as pd

        rows = []
        for method in self.methods:
            low, high = self.intervals[method]
            row = {"method": method, "accuracy": self.accuracies[method], "low": low, "high": high}
            if "finetuned" in self.methods:
                row["agreement"] = self.agreement(method)
            if method != MATRIX:
                difference = self.difference(MATRIX, method)
                row["difference"] = difference.value
                row["difference_low"], row["difference_high"] = difference.interval
                row["verdict"] = difference.verdict
            rows.append(row | {"n": len(self.labels)})
        return pd.DataFrame(rows)

    @cached_property
    def _is_correct(self) -> Bool[Tensor, "seed method n"]:
        return self.predictions == self.labels

    @cached_property
    def _resamples(self) -> dict[int, Tensor]:
        return {}

    def _interval(self, method: str) -> tuple[float, float]:
        outcomes = self._is_correct[:, self._index(method)].double().mean(0)
        low, high = share_interval(outcomes.numpy())
        if len(self._is_correct) > 1:
            resampled = self._resample(0)[self._index(method)]
            bootstrap_low, bootstrap_high = percentiles(resampled.numpy()).tolist()
            low, high = min(low, bootstrap_low), max(high, bootstrap_high)
        return low, high

    def _resample(self, seed: int) -> Float[Tensor, "method resample"]:
        """Compute accuracies under resampled examples crossed with resampled seeds."""
        if seed in self._resamples:
            return self._resamples[seed]
        rng = np.random.default_rng(seed)
        seeds, _, size = self._is_correct.shape
        examples = resample_weights(rng, size)
        runs = resample_weights(rng, seeds)
        accuracies = einsum(
            self._is_correct.double() @ examples,
            runs,
            "seed method resample, seed resample -> method resample",
        )
        return self._resamples.setdefault(seed, accuracies)

    def _index(self, method: str) -> int:
        if method not in self.methods:
            raise unknown("method", method, self.methods)
        return self.methods.index(method)


def pool_reports(reports: Sequence[MatrixReport]) -> MatrixReport:
    """Combine the reports of several seeds on one test part; intervals cover seeds and examples.

    Raises:
        TvlensError: no reports, or of different test parts, methods, layers or selections.
    """
    if not reports:
        raise TvlensError("no reports to pool")
    first = reports[0]
    for other in reports[1:]:
        for name in ("methods", "layers", "selection"):
            if getattr(other, name) != getattr(first, name):
                raise TvlensError(f"the reports differ in their {name}")
        if not torch.equal(other.labels, first.labels):
            raise TvlensError("the reports are of different test parts")
    by_seed = ("predictions", "layer", "ridge", "rank", "by_layer", "by_layer_r2")
    by_seed += ("oracle_accuracy",)
    stacked = {name: torch.cat([getattr(r, name) for r in reports]) for name in by_seed}
    seeds = [s for r in reports for s in r.settings.get("seeds", [])]
    return replace(first, **stacked, settings=first.settings | {"seeds": seeds})


def resample_weights(
    rng: np.random.Generator, size: int, count: int = 2000
) -> Float[Tensor, "size resample"]:
    """Draw the weight of every item in each bootstrap resample."""
    return torch.from_numpy(bootstrap_counts(size, count, seed=rng).T / size)
