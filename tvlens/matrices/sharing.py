"""`share`: what one matrix does for several tasks, beside each task's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from ..saved import Saved
from ..stats import share_interval
from .examples import Examples, Head, decide
from .moments import PairMoments
from .report import ends, resamples
from .ridge import COARSE_GRID, Ridge
from .subsets import subsets, total

if TYPE_CHECKING:
    import pandas

# All subsets of so many tasks are looked at; of more tasks the pairs and the whole.
_ALL_SUBSETS = 5


class Member(NamedTuple):
    """What one task brings to a matrix that several are to share.

    Attributes:
        moments: of the training part, base layers stacked, to the last tuned layer.
        select, test: to choose the layer by, and to decide on.
        head: the task's own, from tuned states to logits.
    """

    moments: PairMoments
    select: Examples
    test: Examples
    head: Head


@dataclass(frozen=True)
class Sharing(Saved):
    """One matrix for several tasks beside each task's own, every task deciding by its own head.

    Tasks outside a subset are decided too: what a matrix does that has not seen them.

    Attributes:
        tasks: names.
        subsets: which tasks share each matrix; every task alone comes first, all of them last.
        layer, ridge: base layer and penalty of each matrix, chosen by the mean validation accuracy
            of its tasks.
        validation: accuracy there.
        accuracy: on every task's test part.
        interval: its 95% Wilson interval over examples.
        lead: accuracy less that of the task's own matrix, with its bootstrap interval, paired by
            example.
        settings: what made it.
    """

    tasks: tuple[str, ...]
    subsets: Bool[Tensor, "subset task"]
    layer: Int[Tensor, " subset"]
    ridge: Float[Tensor, " subset"]
    validation: Float[Tensor, "subset task"]
    accuracy: Float[Tensor, "subset task"]
    interval: Float[Tensor, "subset task 2"]
    lead: Float[Tensor, "subset task 3"]
    settings: dict

    def __repr__(self) -> str:
        k = len(self.tasks)
        own, whole = self.accuracy[:k].diagonal().mean(), self.accuracy[-1].mean()
        return f"Sharing({k} tasks: own matrices {own:.3f}, one for all {whole:.3f})"

    def _repr_html_(self) -> str:
        from .show import sharing_figure

        return sharing_figure(self)._repr_html_()

    def place(self, *tasks: str) -> int:
        """The place of the matrix that these tasks share.

        Raises:
            TvlensError: an unknown task, or a subset that was not looked at.
        """
        for task in tasks:
            if task not in self.tasks:
                raise unknown("task", task, self.tasks)
        wanted = torch.tensor([task in tasks for task in self.tasks])
        found = (self.subsets == wanted).all(1).nonzero()
        if not len(found):
            raise TvlensError(f"no matrix shared by {', '.join(tasks)}: only pairs and the whole")
        return int(found[0])

    def best(self, size: int = 2) -> tuple[str, ...]:
        """The subset of this size that gains most (or loses least) on validation over own matrices.

        Raises:
            TvlensError: no subsets of this size.
        """
        mine = self.subsets.sum(1) == size
        if not mine.any():
            sizes = map(str, self.subsets.sum(1).unique().tolist())
            raise unknown("size of a subset", size, sizes)
        gains = self.validation - self.validation[: len(self.tasks)].diagonal()
        mean = (gains * self.subsets).sum(1) / size
        best = int(mean.masked_fill(~mine, -torch.inf).argmax())
        return self._names(best)

    def pairs(self) -> Float[Tensor, "task partner"]:
        """Test accuracy of every task under the matrix it shares with a partner, less its own.

        On the diagonal there is 0.
        """
        found = torch.zeros(len(self.tasks), len(self.tasks), dtype=torch.float64)
        for i, j in combinations(range(len(self.tasks)), 2):
            both = self.place(self.tasks[i], self.tasks[j])
            found[i, j], found[j, i] = self.lead[both, i, 0], self.lead[both, j, 0]
        return found

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per matrix and task.

        Columns: shared_by, task, inside, layer, validation, accuracy, low, high, and lead over the
        task's own matrix with its interval.
        """
        import pandas as pd

        columns = ("accuracy", "low", "high", "lead", "lead_low", "lead_high")
        rows = []
        for i, inside in enumerate(self.subsets):
            for j, task in enumerate(self.tasks):
                numbers = (self.accuracy[i, j, None], self.interval[i, j], self.lead[i, j])
                row = {"shared_by": " + ".join(self._names(i)), "task": task}
                row |= {"inside": bool(inside[j]), "layer": int(self.layer[i])}
                row |= {"validation": float(self.validation[i, j])}
                rows.append(row | dict(zip(columns, torch.cat(numbers).tolist(), strict=True)))
        return pd.DataFrame(rows)

    def _names(self, subset: int) -> tuple[str, ...]:
        return tuple(
            t for t, inside in zip(self.tasks, self.subsets[subset], strict=True) if inside
        )


def share(
    members: Mapping[str, Member],
    *,
    sizes: Sequence[int] | None = None,
    bias: bool = True,
    seed: int = 0,
) -> Sharing:
    """What one matrix does for several tasks that start from one base model.

    The moments of its tasks are summed; layer and penalty are chosen on the validation parts, for
    own matrices as for shared ones.

    Args:
        members: at least two tasks by name, with states of the same base layers.
        sizes: of the subsets, beside 1 and all; by default all of them for up to five tasks, and
            2 for more.
        seed: of the bootstrap of the leads.

    Raises:
        TvlensError: fewer than two tasks, tasks of different layers or widths, or a size that no
            subset has.
    """
    names = tuple(members)
    if len(names) < 2:
        raise TvlensError(f"sharing needs at least 2 tasks, not {len(names)}")
    layers = members[names[0]].select.layers
    for name, member in members.items():
        if member.select.layers != layers or len(member.moments.xx) != len(layers):
            raise TvlensError(f"{name} has states of other base layers than {names[0]}")
    if sizes is None:
        sizes = range(2, len(names)) if len(names) <= _ALL_SUBSETS else (2,)
    wanted = subsets(names, sorted({1, *sizes, len(names)}))
    rows = [_row(members, subset, bias) for subset in wanted]
    return Sharing(
        names,
        torch.tensor([[name in subset for name in names] for subset in wanted]),
        layer=torch.tensor([row.layer for row in rows]),
        ridge=torch.tensor([row.ridge for row in rows], dtype=torch.float64),
        validation=torch.tensor([row.validation for row in rows], dtype=torch.float64),
        **_scores([torch.stack(one) for one in zip(*(r.right for r in rows), strict=True)], seed),
        settings={"bias": bias, "n": [len(member.test) for member in members.values()]},
    )


class _Row(NamedTuple):
    """What one subset chose; by task accuracy on validation and right decisions on test."""

    layer: int
    ridge: float
    validation: list[float]
    right: list[Float[Tensor, "..."]]


def _row(members: Mapping[str, Member], subset: Sequence[str], bias: bool) -> _Row:
    """Layer and penalty by the mean accuracy of the subset's tasks; then every task is decided."""
    summed = total({name: member.moments for name, member in members.items()}, subset)
    mine, best = [members[name] for name in subset], (-1.0, None)
    for i, layer in enumerate(mine[0].select.layers):
        solution = Ridge.of(summed.pair(i), bias=bias)
        for ridge in reversed(solution.grid(COARSE_GRID).tolist()):  # of equals the larger penalty
            fit = (layer, ridge, solution.weight(ridge), solution)
            score = sum(float(_right(fit, m, m.select).mean()) for m in mine)
            if score > best[0]:
                best = score, fit
    fit, everyone = best[1], members.values()
    return _Row(
        *fit[:2],
        [float(_right(fit, member, member.select).mean()) for member in everyone],
        [_right(fit, member, member.test) for member in everyone],
    )


def _right(fit: tuple, member: Member, part: Examples) -> Float[Tensor, " n"]:
    """1 for every example that the task's head decides rightly on mapped states."""
    layer, _, weight, solution = fit
    x, y, labels = part.at(layer)
    guess = x.to(weight) @ weight + solution.intercept(weight)
    return (decide(member.head, guess, y) == labels.cpu()).double()


def _scores(right: Sequence[Float[Tensor, "subset _"]], seed: int) -> dict[str, Tensor]:
    """Accuracies with intervals, and leads over the own matrix, which is row i for task i."""
    accuracy, interval, lead = [], [], []
    for task, one in enumerate(right):
        weights = resamples(np.random.default_rng(seed), one.shape[1])
        mean, drawn = one.mean(1), one @ weights
        accuracy.append(mean)
        interval.append(torch.tensor([share_interval(right) for right in one.numpy()]).double())
        lead.append(torch.cat([(mean - mean[task])[:, None], ends(drawn - drawn[task])], dim=1))
    by_task = {"accuracy": accuracy, "interval": interval, "lead": lead}
    return {name: torch.stack(values, dim=1) for name, values in by_task.items()}
