"""Task and token effects: hidden states as mean + task part + token part."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from . import checks
from .cells import Cells, labelled
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
        """States less mean and token part: the task part and what no effect explains.

        Raises:
            TvlensError: a token that was not fitted, or tokens missing or given without need.
        """
        checks.same_width("h", h, "the effects", self.mean)
        if (token is None) != (not len(self.token)):
            need = "need the token of each state" if token is None else "have no token part"
            raise TvlensError(f"these effects {need}")
        rest = checks.exact("h", h) - self.mean.to(h.device).double()
        if token is not None:
            rest = (
                rest
                - self.token.to(h.device).double()[self._rows(token, h.shape[:-1]).to(h.device)]
            )
        return rest.to(checks.kept_dtype(h))

    def interpolate(
        self, h: Float[Tensor, "*n d"], token: Int[Tensor, "*n"] | None = None
    ) -> Float[Tensor, "*n task"]:
        """Weights of the convex combination of task effects nearest to each state's residual."""
        rest = self.residual(h, token)
        weights = simplex_weights(rest.reshape(-1, rest.shape[-1]), self.task.to(rest.device))
        return weights.view(*h.shape[:-1], -1)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per effect: factor, label, length."""
        import pandas as pd

        parts = {"task": (self.tasks, self.task), "token": (self.tokens, self.token)}
        rows = [
            {"factor": factor, "label": label, "norm": norm}
            for factor, (names, vectors) in parts.items()
            for label, norm in zip(names.tolist(), vectors.norm(dim=1).tolist(), strict=True)
        ]
        return pd.DataFrame(rows)

    def _rows(self, token: Int[Tensor, "*n"], shape: torch.Size) -> Int[Tensor, "*n"]:
        token = checks.labels("token", token, shape)
        rows = torch.searchsorted(self.tokens, token).clamp(max=len(self.tokens) - 1)
        strange = self.tokens[rows] != token
        if strange.any():
            raise TvlensError(
                f"token {int(token[strange][0])} was not fitted; there are {len(self.tokens)}, "
                f"from {int(self.tokens[0])} to {int(self.tokens[-1])}"
            )
        return rows


def balanced_effects(
    h: Float[Tensor, "n d"], task: Int[Tensor, " n"], token: Int[Tensor, " n"] | None = None
) -> Effects:
    """Effects from cell means, each cell counting alike however many samples it has.

    Args:
        h: hidden states of one layer and position.
        task: label of each state's task, from 0.
        token: label of each state's current token; without it there is no token part.

    Raises:
        TvlensError: one task only, or a cell without a sample (then take `joint_effects`).
    """
    exact, cells = labelled(h, task, token)
    cells.check_tasks()
    means = cells.means(exact)
    mean = means.mean((0, 1))
    parts = mean, means.mean(1) - mean, means.mean(0) - mean
    return _effects(*parts, cells, fitted=token is not None, dtype=checks.kept_dtype(h))


def joint_effects(
    h: Float[Tensor, "n d"], task: Int[Tensor, " n"], token: Int[Tensor, " n"] | None = None
) -> Effects:
    """Effects by least squares on task and token indicators together.

    Where tasks prefer different tokens, the means of tasks hold part of the token effects; the
    joint fit takes it out, and needs no sample in every cell. Equals `balanced_effects` where all
    cells have the same number of samples.

    Args:
        h: hidden states of one layer and position.
        task: label of each state's task, from 0.
        token: label of each state's current token; without it there is no token part.

    Raises:
        TvlensError: one task only, fewer samples than effects, or tasks that share no token with
            the others, so that the two effects cannot be told apart.
    """
    exact, cells = labelled(h, task, token)
    cells.check_tasks()
    k, v = cells.counts.shape
    if len(h) < k + v - 1:
        raise TvlensError(f"{len(h)} samples cannot fit {k + v - 1} effects of tasks and tokens")
    _check_connected(cells)
    # Samples of one cell have the same row of the design: their mean, weighted, says it all.
    filled = cells.counts.flatten().nonzero()[:, 0]
    root = cells.counts.flatten()[filled].double().sqrt()[:, None]
    sums = exact.new_zeros(k * v, exact.shape[1]).index_add_(0, cells.cell, exact)
    design = torch.cat([torch.ones_like(root), _coded(k)[filled // v], _coded(v)[filled % v]], 1)
    fitted, *_ = np.linalg.lstsq((design * root).numpy(), (sums[filled] / root).numpy())
    mean, first, second = torch.from_numpy(fitted).split([1, k - 1, v - 1])
    parts = mean[0], _coded(k) @ first, _coded(v) @ second
    return _effects(*parts, cells, fitted=token is not None, dtype=checks.kept_dtype(h))


def _coded(levels: int) -> Float[Tensor, "level free"]:
    """Sum-to-zero coding: the last level is minus the sum of the others."""
    eye = torch.eye(levels, dtype=torch.float64)[:, :-1]
    eye[-1] = -1
    return eye


def _check_connected(cells: Cells) -> None:
    """Tasks and tokens, joined where they occur together, must hang together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    k, v = cells.counts.shape
    row, column = cells.counts.nonzero().T.numpy()
    graph = coo_array((np.ones(len(row)), (row, column + k)), shape=(k + v, k + v))
    count, group = connected_components(graph, directed=False)
    if count > 1:
        apart = cells.tasks[torch.from_numpy(group[:k] == group[0])].tolist()
        raise TvlensError(
            f"tasks {apart} share no token with the other tasks: their effect cannot be told from "
            "that of their tokens"
        )


def _effects(
    mean: Tensor, task: Tensor, token: Tensor, cells: Cells, *, fitted: bool, dtype: torch.dtype
) -> Effects:
    if not fitted:
        token, tokens = token[:0], cells.tokens[:0]
    else:
        tokens = cells.tokens
    return Effects(mean.to(dtype), task.to(dtype), token.to(dtype), cells.tasks, tokens)
