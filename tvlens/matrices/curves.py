"""Accuracy against the number of training examples, and against the rank of the matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..saved import Saved
from ..stats import share_interval
from .evaluation import evaluate
from .examples import Examples, Head, decide
from .matrix import TaskMatrix
from .rank import check_rank
from .report import MatrixReport, pooled

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SampleCurve:
    """What a task matrix and its baselines do with few or many training examples.

    Attributes:
        sizes: numbers of training examples.
        reports: one for each size, pooled over draws of the examples.
    """

    sizes: tuple[int, ...]
    reports: tuple[MatrixReport, ...]

    def __repr__(self) -> str:
        found = ", ".join(
            f"{size}: {report.accuracy():.3f}"
            for size, report in zip(self.sizes, self.reports, strict=True)
        )
        return f"SampleCurve({found})"

    def _repr_html_(self) -> str:
        from .show import sample_figure

        return sample_figure(self)._repr_html_()

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per size and method, as in `MatrixReport.to_dataframe`, with `train`."""
        import pandas as pd

        frames = [report.to_dataframe() for report in self.reports]
        for size, frame in zip(self.sizes, frames, strict=True):
            frame.insert(0, "train", size)
        return pd.concat(frames, ignore_index=True)


def sample_curve(
    train: Examples,
    select: Examples,
    test: Examples,
    *,
    head: Head,
    sizes: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> SampleCurve:
    """Evaluate with growing parts of train; every label keeps its share, and at least one example.

    Args:
        sizes: numbers of training examples.
        seeds: one draw of the examples for each.
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
        drawn = [
            evaluate(train.take(rows), select, test, head=head, seed=seed, **options)
            for seed in seeds
            for rows in [subset(train.labels, size, seed=seed)]
        ]
        reports.append(pooled(drawn))
    return SampleCurve(tuple(sizes), tuple(reports))


def subset(labels: Int[Tensor, " n"], size: int, *, seed: int = 0) -> Int[Tensor, " size"]:
    """Rows of a random part in which every label has its share, and at least one row.

    Subsets of one seed are nested: a larger one holds the smaller.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    shuffled = labels.cpu().numpy()[order]
    # How far down its own label's list each row stands, as a share; the first ones come first.
    place = np.empty(len(order))
    for label in np.unique(shuffled):
        mine = np.flatnonzero(shuffled == label)
        place[mine] = (np.arange(len(mine)) + rng.uniform()) / len(mine)
        place[mine[0]] = -1
    return torch.from_numpy(order[np.argsort(place, kind="stable")[:size]])


def _check_size(size: int, train: Examples) -> None:
    classes = len(train.labels.unique())
    if not max(2, classes) <= size <= len(train):
        raise TvlensError(
            f"{size} training examples: choose {max(2, classes)} (one of each label) to "
            f"{len(train)}"
        )


@dataclass(frozen=True)
class RankCurve(Saved):
    """What the best matrix of each rank does.

    Attributes:
        ranks: from low to high.
        accuracy: on the given part.
        interval: its 95% Wilson interval over examples.
        agreement: share of examples decided as the finetuned model does.
        r2: of the predicted states there.
        finetuned: the finetuned model's accuracy.
        settings: layer and penalty.
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

    def _repr_html_(self) -> str:
        from .show import rank_figure

        return rank_figure(self)._repr_html_()

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
    part: Examples,
    *,
    head: Head,
    ranks: Sequence[int] | None = None,
    seed: int = 0,
) -> RankCurve:
    """Accuracy of a matrix cut to each rank, all from one decomposition.

    Args:
        matrix: knows its layer (`MatrixReport.matrix` and `TaskMatrix.fit` give such).
        part: examples to decide on.
        ranks: by default 1, 2, 4, ... and the full rank.
        seed: without effect, as intervals are computed and not drawn.

    Raises:
        TvlensError: a matrix without a layer, or an impossible rank.
    """
    if matrix.layer is None:
        raise TvlensError("this matrix knows no layer: use dataclasses.replace(matrix, layer=...)")
    x, y, labels = part.at(matrix.layer)
    full = min(matrix.weight.shape)
    ranks = _doubling(full) if ranks is None else sorted(set(ranks))
    for rank in ranks:
        check_rank(rank, matrix.weight)
    axes = matrix.axes[1]
    whole = matrix.predict(x.double())
    center = matrix.predict(matrix.center if matrix.center is not None else 0 * x[0].double())
    coordinates = (whole - center) @ axes
    truth, told = y.double(), decide(head, y, y)
    spread = (truth - truth.mean(0)).square().sum()
    rows, ends = [], []
    for rank in ranks:
        guess = coordinates[:, :rank] @ axes[:, :rank].T + center
        decided = decide(head, guess, y)
        right = (decided == labels.cpu()).double()
        r2 = 1 - float((truth - guess).square().sum() / spread)
        rows.append((float(right.mean()), float((decided == told).double().mean()), r2))
        ends.append(share_interval(right.numpy()))
    columns = torch.tensor(rows, dtype=torch.float64).T
    return RankCurve(
        tuple(ranks),
        accuracy=columns[0],
        interval=torch.tensor(ends, dtype=torch.float64),
        agreement=columns[1],
        r2=columns[2],
        finetuned=float((told == labels.cpu()).double().mean()),
        settings={"layer": matrix.layer, "ridge": matrix.ridge, "n": len(part)},
    )


def _doubling(full: int) -> list[int]:
    """1, 2, 4, ... and the full rank."""
    return sorted({min(2**k, full) for k in range(full.bit_length() + 1)})
