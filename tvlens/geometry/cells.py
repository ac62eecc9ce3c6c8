"""`Cells`: samples grouped into the (task, token) cells of a two-way design."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from . import checks


@dataclass(frozen=True)
class Cells:
    """The cell of a task x token table to which each sample belongs.

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
    def from_labels(cls, task: Int[Tensor, " n"], token: Int[Tensor, " n"]) -> "Cells":
        """Group samples by their labels; the labels that occur define the table."""
        tasks, row = task.unique(return_inverse=True)
        tokens, column = token.unique(return_inverse=True)
        cell = row * len(tokens) + column
        counts = torch.bincount(cell, minlength=len(tasks) * len(tokens))
        return cls(tasks, tokens, cell, counts.view(len(tasks), len(tokens)))

    def means(self, h: Float[Tensor, "n d"]) -> Float[Tensor, "task token d"]:
        """Compute the mean of every cell.

        Raises:
            TvlensError: a cell is empty; the message names it.
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
        """Raise TvlensError if there is only one task."""
        if len(self.tasks) < 2:
            raise TvlensError(f"every sample is of task {int(self.tasks[0])}: nothing to compare")


def group_states(
    h: Float[Tensor, "n d"], task: Int[Tensor, "..."], token: Int[Tensor, "..."] | None
) -> tuple[Float[Tensor, "n d"], Cells]:
    """Validate states and labels; return the states in float64 on the CPU, and their cells."""
    states = checks.as_float64("h", h).cpu()
    task = checks.as_labels("task", task, states.shape[:1])
    token = (
        torch.zeros_like(task) if token is None else checks.as_labels("token", token, task.shape)
    )
    return states, Cells.from_labels(task, token)
