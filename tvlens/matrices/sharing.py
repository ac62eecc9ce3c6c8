"""One matrix for several tasks, fitted to the sum of their moments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from ..integers import as_integers
from ..results import Result
from ..stats import percentiles, share_interval
from .examples import Examples, Head, predict_classes
from .matrix import TaskMatrix
from .moments import PairMoments
from .report import resample_weights
from .ridge import COARSE_GRID, RidgePath

if TYPE_CHECKING:
    import pandas

# Up to this many tasks every subset is evaluated; of more tasks the pairs and the whole.
_ALL_SUBSETS = 5


class SharingTask(NamedTuple):
    """A task that shares a matrix with others.

    Attributes:
        moments: moments of the training part, base layers stacked, with the last finetuned layer.
        validation, test: examples to choose the layer on, and to score on.
        head: from finetuned states to the task's logits.
    """

    moments: PairMoments
    validation: Examples
    test: Examples
    head: Head


@dataclass(frozen=True)
class SharingReport(Result):
    """One matrix for several tasks compared with each task's own; every task has its own head.

    Each matrix is also scored on the tasks outside its subset, which it was not fitted to.

    Attributes:
        tasks: names.
        subsets: which tasks share each matrix; single tasks come first, all tasks last.
        layer, ridge: base layer and penalty of each matrix, chosen by the mean validation accuracy
            of its tasks.
        validation: validation accuracy.
        accuracy: test accuracy.
        interval: its 95% Wilson interval over examples.
        difference: accuracy minus that of the task's own matrix, with its bootstrap interval,
            paired by example.
        settings: bias and numbers of test examples.
    """

    tasks: tuple[str, ...]
    subsets: Bool[Tensor, "subset task"]
    layer: Int[Tensor, " subset"]
    ridge: Float[Tensor, " subset"]
    validation: Float[Tensor, "subset task"]
    accuracy: Float[Tensor, "subset task"]
    interval: Float[Tensor, "subset task 2"]
    difference: Float[Tensor, "subset task 3"]
    settings: dict

    def __repr__(self) -> str:
        k = len(self.tasks)
        separate, shared = self.accuracy[:k].diagonal().mean(), self.accuracy[-1].mean()
        return f"SharingReport({k} tasks: own matrices {separate:.3f}, one for all {shared:.3f})"

    def index(self, *tasks: str) -> int:
        """Return the index of the matrix that these tasks share.

        Raises:
            TvlensError: an unknown task, or a subset that was not evaluated.
        """
        for task in tasks:
            if task not in self.tasks:
                raise unknown("task", task, self.tasks)
        subset = torch.tensor([task in tasks for task in self.tasks])
        matches = (self.subsets == subset).all(1).nonzero()
        if not len(matches):
            raise TvlensError(f"no matrix shared by {', '.join(tasks)}: only pairs and the whole")
        return int(matches[0])

    def best(self, size: int = 2) -> tuple[str, ...]:
        """Find the subset of this size with the highest mean validation accuracy over own matrices.

        Raises:
            TvlensError: no subsets of this size.
        """
        has_size = self.subsets.sum(1) == size
        if not has_size.any():
            sizes = map(str, self.subsets.sum(1).unique().tolist())
            raise unknown("size of a subset", size, sizes)
        gains = self.validation - self.validation[: len(self.tasks)].diagonal()
        mean = (gains * self.subsets).sum(1) / size
        best = int(mean.masked_fill(~has_size, -torch.inf).argmax())
        return self._task_names(best)

    def pair_differences(self) -> Float[Tensor, "task partner"]:
        """Compute each task's test accuracy with the matrix shared with a partner, minus its own.

        The diagonal is 0.
        """
        differences = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)
        for i, j in combinations(range(len(self.tasks)), 2):
            pair = self.index(self.tasks[i], self.tasks[j])
            differences[i, j] = self.difference[pair, i, 0]
            differences[j, i] = self.difference[pair, j, 0]
        return differences

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per matrix and task.

        Columns: shared_by, task, inside, layer, validation, accuracy, low, high, and difference
        to the task's own matrix with its interval.
        """
        import pandas as pd

        columns = ("accuracy", "low", "high", "difference", "difference_low", "difference_high")
        rows = []
        for i, subset in enumerate(self.subsets):
            for j, task in enumerate(self.tasks):
                numbers = (self.accuracy[i, j, None], self.interval[i, j], self.difference[i, j])
                row = {"shared_by": " + ".join(self._task_names(i)), "task": task}
                row |= {"inside": bool(subset[j]), "layer": int(self.layer[i])}
                row |= {"validation": float(self.validation[i, j])}
                rows.append(row | dict(zip(columns, torch.cat(numbers).tolist(), strict=True)))
        return pd.DataFrame(rows)

    def _task_names(self, index: int) -> tuple[str, ...]:
        subset = self.subsets[index]
        return tuple(t for t, is_inside in zip(self.tasks, subset, strict=True) if is_inside)


def evaluate_sharing(
    tasks: Mapping[str, SharingTask],
    *,
    sizes: Sequence[int] | None = None,
    bias: bool = True,
    seed: int = 0,
) -> SharingReport:
    """Compare matrices shared by several tasks of one base model with each task's own.

    The moments of its tasks are summed; layer and penalty are chosen on the validation parts, for
    own and for shared matrices.

    Args:
        tasks: at least two tasks by name, with states of the same base layers.
        sizes: sizes of the subsets, in addition to 1 and all; by default all sizes for up to five
            tasks, and 2 for more.
        seed: seed of the bootstrap of the differences.

    Raises:
        TvlensError: fewer than two tasks, tasks of different layers or widths, or a size that no
            subset has.
    """
    names = tuple(tasks)
    if len(names) < 2:
        raise TvlensError(f"sharing needs at least 2 tasks, not {len(names)}")
    layers = tasks[names[0]].validation.layers
    for name, task in tasks.items():
        if task.validation.layers != layers or len(task.moments.xx) != len(layers):
            raise TvlensError(f"{name} has states of other base layers than {names[0]}")
    if sizes is None:
        sizes = range(2, len(names)) if len(names) <= _ALL_SUBSETS else (2,)
    subsets = _list_subsets(names, sorted({1, *sizes, len(names)}))
    rows = [_evaluate_subset(tasks, subset, bias) for subset in subsets]
    is_right = [torch.stack(column) for column in zip(*(row.is_right for row in rows), strict=True)]
    return SharingReport(
        names,
        torch.tensor([[name in subset for name in names] for subset in subsets]),
        layer=torch.tensor([row.matrix.layer for row in rows]),
        ridge=torch.tensor([row.matrix.ridge for row in rows], dtype=torch.float64),
        validation=torch.tensor([row.validation for row in rows], dtype=torch.float64),
        **_compare_with_own(is_right, seed),
        settings={"bias": bias, "n": [len(task.test) for task in tasks.values()]},
    )


def fit_shared_matrices(
    moments: Mapping[str, PairMoments],
    *,
    sizes: int | Iterable[int] | None = None,
    **options: Any,
) -> Iterator[tuple[tuple[str, ...], TaskMatrix]]:
    """Fit the matrix shared by each subset of tasks, from the smallest subsets up.

    Args:
        moments: moments of one base layer and one target, by task.
        sizes: sizes of the subsets; all by default, which are 2^tasks - 1 matrices.
        options: as in `TaskMatrix.from_moments`.

    Raises:
        TvlensError: no tasks, or a size that no subset has.
    """
    for subset in _list_subsets(list(moments), sizes):
        yield subset, TaskMatrix.from_moments(_sum_moments(moments, subset), **options)


def _list_subsets(
    names: Sequence[str], sizes: int | Iterable[int] | None = None
) -> list[tuple[str, ...]]:
    if not names:
        raise TvlensError("no tasks to share a matrix")
    numbers = list(range(1, len(names) + 1)) if sizes is None else as_integers(sizes, name="sizes")
    for size in numbers:
        if not 1 <= size <= len(names):
            raise unknown("size of a subset", size, map(str, range(1, len(names) + 1)))
    return [subset for size in numbers for subset in combinations(names, size)]


def _sum_moments(moments: Mapping[str, PairMoments], subset: Sequence[str]) -> PairMoments:
    first, *rest = (moments[name] for name in subset)
    return sum(rest, first)


class _SharedMatrix(NamedTuple):
    """A matrix of several tasks, as a decomposition at one penalty."""

    layer: int
    ridge: float
    weight: Float[Tensor, "d_base d_tuned"]
    bias: Float[Tensor, " d_tuned"]

    def score(self, task: SharingTask, examples: Examples) -> Float[Tensor, " n"]:
        """1 for every example that the task's head classifies correctly, from mapped states."""
        x, y, labels = examples.at_layer(self.layer)
        states = x.to(self.weight) @ self.weight + self.bias
        return (predict_classes(task.head, states, y) == labels.cpu()).double()


class _SubsetScores(NamedTuple):
    """The matrix of a subset, with every task's validation accuracy and outcomes on test."""

    matrix: _SharedMatrix
    validation: list[float]
    is_right: list[Float[Tensor, "..."]]


def _evaluate_subset(
    tasks: Mapping[str, SharingTask], subset: Sequence[str], bias: bool
) -> _SubsetScores:
    """Choose layer and penalty by the mean accuracy of the subset's tasks, then score all tasks."""
    moments = _sum_moments({name: task.moments for name, task in tasks.items()}, subset)
    inside, best_score, best = [tasks[name] for name in subset], -1.0, None
    for i, layer in enumerate(inside[0].validation.layers):
        path = RidgePath.from_moments(moments.pair(i), bias=bias)
        for ridge in reversed(path.grid(COARSE_GRID).tolist()):  # of equals the larger penalty
            weight = path.weight(ridge)
            matrix = _SharedMatrix(layer, ridge, weight, path.intercept(weight))
            score = sum(float(matrix.score(t, t.validation).mean()) for t in inside)
            if score > best_score:
                best_score, best = score, matrix
    assert best is not None
    return _SubsetScores(
        best,
        [float(best.score(task, task.validation).mean()) for task in tasks.values()],
        [best.score(task, task.test) for task in tasks.values()],
    )


def _compare_with_own(
    is_right: Sequence[Float[Tensor, "subset _"]], seed: int
) -> dict[str, Tensor]:
    """Compute accuracies and differences to the task's own matrix (row i for task i)."""
    accuracies, intervals, differences = [], [], []
    for task, outcomes in enumerate(is_right):
        weights = resample_weights(np.random.default_rng(seed), outcomes.shape[1])
        mean, resampled = outcomes.mean(1), outcomes @ weights
        accuracies.append(mean)
        intervals.append(torch.tensor([share_interval(row) for row in outcomes.numpy()]).double())
        ends = percentiles((resampled - resampled[task]).numpy())
        differences.append(
            torch.cat([(mean - mean[task])[:, None], torch.from_numpy(ends).T], dim=1)
        )
    by_task = {"accuracy": accuracies, "interval": intervals, "difference": differences}
    return {name: torch.stack(values, dim=1) for name, values in by_task.items()}
