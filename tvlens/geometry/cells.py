"""Samples sorted into (task, token) cells, and their means."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from . import checks


@dataclass(frozen=True)
class Cells:
    """Which cell of a task x token table each sample belongs to.

    Attributes:
        tasks: the labels of the rows, ascending.
        tokens: the labels of the columns, ascending; one column of label 0 without a token factor.
        cell: row * number of tokens + column, per sample.
        counts: samples per cell.
    """

    tasks: Int[Tensor, " task"]
    tokens: Int[Tensor, " token"]
    cell: Int[Tensor, " n"]
    counts: Int[Tensor, "task token"]

    @classmethod
    def of(cls, task: Int[Tensor, " n"], token: Int[Tensor, " n"]) -> "Cells":
        """Sort samples by their labels; whatever labels occur make the table."""
        tasks, row = task.unique(return_inverse=True)
        tokens, column = token.unique(return_inverse=True)
        cell = row * len(tokens) + column
        counts = torch.bincount(cell, minlength=len(tasks) * len(tokens))
        return cls(tasks, tokens, cell, counts.view(len(tasks), len(tokens)))

    def means(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "task token d"]:
        """Mean of every cell.

        Raises:
            TvlensError: a cell is empty; names it.
        """
        self.check_full()
        sums = h.new_zeros(self.counts.numel(), h.shape[1]).index_add_(0, self.cell, h)
        sums = rearrange(sums, "(task token) d -> task token d", token=len(self.tokens))
        return sums / rearrange(self.counts, "task token -> task token 1")

    def check_full(self) -> None:
        """Raise TvlensError if a cell has no sample."""
        empty = (self.counts == 0).nonzero()
        if len(empty):
            row, column = empty[0].tolist()
            raise TvlensError(
                f"no sample of task {int(self.tasks[row])} with token {int(self.tokens[column])} "
                f"({len(empty)} of {self.counts.numel()} cells are empty)"
            )

    def check_tasks(self) -> None:
        """Raise TvlensError if there is one task only."""
        if len(self.tasks) < 2:
            raise TvlensError(f"every sample is of task {int(self.tasks[0])}: nothing to compare")


def labelled(
    h: Float[Tensor, "n d"], task: Int[Tensor, "..."], token: Int[Tensor, "..."] | None
) -> tuple[Float[Tensor, "n d"], Cells]:
    """States in float64 on the CPU with their cells, all checked."""
    exact = checks.exact("h", h).cpu()
    task = checks.labels("task", task, exact.shape[:1])
    token = torch.zeros_like(task) if token is None else checks.labels("token", token, task.shape)
    return exact, Cells.of(task, token)
