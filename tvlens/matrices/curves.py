"""Accuracy against the number of training examples, and against the rank of the matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from ..stats import share_interval
from .affine_map import check_rank
from .evaluation import evaluate
from .examples import Examples, Head, predict_classes
from .matrix import TaskMatrix
from .report import MatrixReport, pool_reports

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LearningCurve(Result):
    """Accuracy of a task matrix and its baselines against the number of training examples.

    Attributes:
        sizes: numbers of training examples.
        reports: one for each size, pooled over random subsets of the examples.
    """

    sizes: tuple[int, ...]
    reports: tuple[MatrixReport, ...]

    def __repr__(self) -> str:
        pairs = zip(self.sizes, self.reports, strict=True)
        accuracies = ", ".join(f"{size}: {report.accuracy:.3f}" for size, report in pairs)
        return f"LearningCurve({accuracies})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per size and method, as in `MatrixReport.to_dataframe`, with `train`."""
        import pandas as pd

        frames = [report.to_dataframe() for report in self.reports]
        for size, frame in zip(self.sizes, frames, strict=True):
            frame.insert(0, "train", size)
        return pd.concat(frames, ignore_index=True)


def learning_curve(
    train: Examples,
    validation: Examples,
    test: Examples,
    *,
    head: Head,
    sizes: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> LearningCurve:
    """Evaluate with subsets of train, stratified by label, with at least one example per label.

    Args:
        sizes: numbers of training examples.
        seeds: one random subset for each.
        options: as in `evaluate`.

    Raises:
        TvlensError: no sizes or seeds, or a size below the number of classes or above train.
    """
    if not len(sizes) or not len(seeds):
        raise TvlensError("a curve needs at least one size and one seed")
    for size in sizes:
        _check_size(size, train)
    reports = []
    for size in sizes:
        by_seed = []
        for seed in seeds:
            part = train.subset(stratified_subset(train.labels, size, seed=seed))
            by_seed.append(evaluate(part, validation, test, head=head, seed=seed, **options))
        reports.append(pool_reports(by_seed))
    return LearningCurve(tuple(sizes), tuple(reports))


def stratified_subset(
    labels: Int[Tensor, " n"], size: int, *, seed: int = 0
) -> Int[Tensor, " size"]:
    """Draw a random subset of rows, stratified by label, with at least one row per label.

    Subsets of one seed are nested: a larger one contains the smaller.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    shuffled = labels.cpu().numpy()[order]
    # Relative position of each row among those of its label; the first of each label come first.
    position = np.empty(len(order))
    for label in np.unique(shuffled):
        rows = np.flatnonzero(shuffled == label)
        position[rows] = (np.arange(len(rows)) + rng.uniform()) / len(rows)
        position[rows[0]] = -1
    return torch.from_numpy(order[np.argsort(position, kind="stable")[:size]])


def _check_size(size: int, train: Examples) -> None:
    classes = len(train.labels.unique())
    if not max(2, classes) <= size <= len(train):
        raise TvlensError(
            f"{size} training examples: choose {max(2, classes)} (one of each label) to "
            f"{len(train)}"
        )


@dataclass(frozen=True)
class RankCurve(Result):
    """Accuracy of the best matrix of each rank.

    Attributes:
        ranks: in ascending order.
        accuracy: on the given examples.
        interval: its 95% Wilson interval over examples.
        agreement: share of examples to which the finetuned model assigns the same class.
        r2: R^2 of the predicted states.
        finetuned: accuracy of the finetuned model.
        settings: layer, penalty and number of examples.
    """

    ranks: tuple[int, ...]
    accuracy: Float[Tensor, " rank"]
    interval: Float[Tensor, "rank 2"]
    agreement: Float[Tensor, " rank"]
    r2: Float[Tensor, " rank"]
    finetuned: float
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        best = float(self.accuracy.max())
        return f"RankCurve(ranks {self.ranks[0]} to {self.ranks[-1]}, best accuracy {best:.3f})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per rank: accuracy, low, high, agreement, r2."""
        import pandas as pd

        columns = {
            "rank": list(self.ranks),
            "accuracy": self.accuracy.tolist(),
            "low": self.interval[:, 0].tolist(),
            "high": self.interval[:, 1].tolist(),
            "agreement": self.agreement.tolist(),
            "r2": self.r2.tolist(),
        }
        return pd.DataFrame(columns)


def rank_curve(
    matrix: TaskMatrix,
    examples: Examples,
    *,
    head: Head,
    ranks: Sequence[int] | None = None,
) -> RankCurve:
    """Score a matrix truncated to each rank, from one decomposition.

    Args:
        matrix: with a layer, as `MatrixReport.refit` and `TaskMatrix.fit` return it.
        examples: examples to score on.
        ranks: by default 1, 2, 4, ... and the full rank.

    Raises:
        TvlensError: a matrix without a layer, or an impossible rank.
    """
    if matrix.layer is None:
        raise TvlensError("this matrix has no layer: use dataclasses.replace(matrix, layer=...)")
    x, y, labels = examples.at_layer(matrix.layer)
    full = min(matrix.weight.shape)
    ranks = _powers_of_two(full) if ranks is None else sorted(set(ranks))
    for rank in ranks:
        check_rank(rank, matrix.weight)
    axes = matrix.axes[1]
    center = matrix.predict(matrix.center if matrix.center is not None else 0 * x[0].double())
    coordinates = (matrix.predict(x.double()) - center) @ axes
    y_true, finetuned_classes = y.double(), predict_classes(head, y, y)
    scatter = (y_true - y_true.mean(0)).square().sum()
    rows, intervals = [], []
    for rank in ranks:
        prediction = coordinates[:, :rank] @ axes[:, :rank].T + center
        classes = predict_classes(head, prediction, y)
        is_right = (classes == labels.cpu()).double()
        agreement = float((classes == finetuned_classes).double().mean())
        r2 = 1 - float((y_true - prediction).square().sum() / scatter)
        rows.append((float(is_right.mean()), agreement, r2))
        intervals.append(share_interval(is_right.numpy()))
    columns = torch.tensor(rows, dtype=torch.float64).T
    return RankCurve(
        tuple(ranks),
        accuracy=columns[0],
        interval=torch.tensor(intervals, dtype=torch.float64),
        agreement=columns[1],
        r2=columns[2],
        finetuned=float((finetuned_classes == labels.cpu()).double().mean()),
        settings={"layer": matrix.layer, "ridge": matrix.ridge, "n": len(examples)},
    )


def _powers_of_two(full: int) -> list[int]:
    """The ranks 1, 2, 4, ... and the full rank."""
    return sorted({min(2**k, full) for k in range(full.bit_length() + 1)})
