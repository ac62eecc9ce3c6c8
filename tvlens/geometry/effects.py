"""Additive task and token effects of hidden states."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from . import checks
from .cells import Cells, group_states
from .simplex import simplex_weights

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Effects(Result):
    """An additive model of hidden states: h = mean + task effect + token effect.

    Attributes:
        mean: the grand mean, over tasks and tokens alike.
        task: one vector per task; they sum to zero.
        token: one vector per token; they sum to zero. No rows without a token factor.
        tasks: the label of each row of `task`, ascending.
        tokens: the label of each row of `token`, ascending.
    """

    mean: Float[Tensor, " d"]
    task: Float[Tensor, "task d"]
    token: Float[Tensor, "token d"]
    tasks: Int[Tensor, " task"]
    tokens: Int[Tensor, " token"]

    def __repr__(self) -> str:
        (k, d), v = self.task.shape, len(self.token)
        return f"Effects({k} tasks, {v} tokens, width {d})"

    def residual(
        self, h: Float[Tensor, "*n d"], token: Int[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*n d"]:
        """Subtract the mean and the token effects: leaves the task part and the unexplained rest.

        Raises:
            TvlensError: a token was not fitted, or `token` is missing or not needed.
        """
        checks.check_same_width("h", h, "the effects", self.mean)
        if (token is None) != (not len(self.token)):
            need = "need the token of each state" if token is None else "have no token part"
            raise TvlensError(f"these effects {need}")
        residual = checks.as_float64("h", h) - self.mean.to(h.device).double()
        if token is not None:
            rows = self._token_rows(token, h.shape[:-1]).to(h.device)
            residual = residual - self.token.to(h.device).double()[rows]
        return residual.to(checks.result_dtype(h))

    def interpolate(
        self, h: Float[Tensor, "*n d"], token: Int[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*n task"]:
        """Compute the convex combination of task effects nearest to each state's residual."""
        points = self.residual(h, token)
        points = points.reshape(-1, points.shape[-1])
        weights = simplex_weights(points, self.task.to(points.device))
        return weights.view(*h.shape[:-1], -1)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per effect: factor, label, norm."""
        import pandas as pd

        parts = {"task": (self.tasks, self.task), "token": (self.tokens, self.token)}
        rows = [
            {"factor": factor, "label": label, "norm": norm}
            for factor, (names, vectors) in parts.items()
            for label, norm in zip(names.tolist(), vectors.norm(dim=1).tolist(), strict=True)
        ]
        return pd.DataFrame(rows)

    def _token_rows(self, token: Int[Tensor, "*n"], shape: torch.Size) -> Int[Tensor, "*n"]:
        token = checks.as_labels("token", token, shape)
        rows = torch.searchsorted(self.tokens, token).clamp(max=len(self.tokens) - 1)
        is_unknown = self.tokens[rows] != token
        if is_unknown.any():
            raise TvlensError(
                f"token {int(token[is_unknown][0])} was not fitted; there are {len(self.tokens)}, "
                f"from {int(self.tokens[0])} to {int(self.tokens[-1])}"
            )
        return rows


def balanced_effects(
    h: Float[Tensor, "n d"], task: Int[Tensor, " n"], token: Int[Tensor, " n"] | None = None
) -> Effects:
    """Estimate effects from cell means, each cell with equal weight.

    Args:
        h: hidden states of one layer and position.
        task: label of each state's task, from 0.
        token: label of each state's current token; without it there is no token part.

    Raises:
        TvlensError: there is only one task, or a cell has no sample (use `joint_effects`).
    """
    states, cells = group_states(h, task, token)
    cells.check_tasks()
    means = cells.means(states)
    mean = means.mean((0, 1))
    parts = mean, means.mean(1) - mean, means.mean(0) - mean
    return _build_effects(*parts, cells, has_tokens=token is not None, dtype=checks.result_dtype(h))


def joint_effects(
    h: Float[Tensor, "n d"], task: Int[Tensor, " n"], token: Int[Tensor, " n"] | None = None
) -> Effects:
    """Estimate effects by least squares on task and token indicators jointly.

    If token frequencies differ between tasks, task means contain part of the token effects; the
    joint fit removes it, and does not need a sample in every cell. Equal to `balanced_effects` if
    all cells have the same number of samples.

    Args:
        h: hidden states of one layer and position.
        task: label of each state's task, from 0.
        token: label of each state's current token; without it there is no token part.

    Raises:
        TvlensError: there is only one task, there are fewer samples than effects, or some tasks
            share no token with the others, so that the effects are not identifiable.
    """
    states, cells = group_states(h, task, token)
    cells.check_tasks()
    k, v = cells.counts.shape
    if len(h) < k + v - 1:
        raise TvlensError(f"{len(h)} samples cannot fit {k + v - 1} effects of tasks and tokens")
    _check_connected(cells)
    # Samples of one cell share a row of the design matrix, so weighted cell means suffice.
    filled = cells.counts.flatten().nonzero()[:, 0]
    root = cells.counts.flatten()[filled].double().sqrt()[:, None]
    sums = states.new_zeros(k * v, states.shape[1]).index_add_(0, cells.cell, states)
    task_coding, token_coding = _sum_to_zero_coding(k), _sum_to_zero_coding(v)
    columns = [torch.ones_like(root), task_coding[filled // v], token_coding[filled % v]]
    design = torch.cat(columns, 1)
    coefficients, *_ = np.linalg.lstsq((design * root).numpy(), (sums[filled] / root).numpy())
    mean, first, second = torch.from_numpy(coefficients).split([1, k - 1, v - 1])
    parts = mean[0], task_coding @ first, token_coding @ second
    return _build_effects(*parts, cells, has_tokens=token is not None, dtype=checks.result_dtype(h))


def _sum_to_zero_coding(levels: int) -> Float[Tensor, "level free"]:
    """Sum-to-zero coding: the last level is minus the sum of the others."""
    eye = torch.eye(levels, dtype=torch.float64)[:, :-1]
    eye[-1] = -1
    return eye


def _check_connected(cells: Cells) -> None:
    """Raise TvlensError unless the graph of tasks and tokens that co-occur is connected."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    k, v = cells.counts.shape
    row, column = cells.counts.nonzero().T.numpy()
    graph = coo_array((np.ones(len(row)), (row, column + k)), shape=(k + v, k + v))
    count, group = connected_components(graph, directed=False)
    if count > 1:
        separate = cells.tasks[torch.from_numpy(group[:k] == group[0])].tolist()
        raise TvlensError(
            f"tasks {separate} share no token with the other tasks: their effects cannot be "
            "separated from those of their tokens"
        )


def _build_effects(
    mean: Tensor, task: Tensor, token: Tensor, cells: Cells, *, has_tokens: bool, dtype: torch.dtype
) -> Effects:
    if not has_tokens:
        token, tokens = token[:0], cells.tokens[:0]
    else:
        tokens = cells.tokens
    return Effects(mean.to(dtype), task.to(dtype), token.to(dtype), cells.tasks, tokens)
