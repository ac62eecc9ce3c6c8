"""Decomposition of the variance of hidden states by task, token, interaction and noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from ..stats import bootstrap_counts, check_level, percentiles
from .cells import Cells, group_states

if TYPE_CHECKING:
    import pandas

# Numbers in one block of resamples; bounds memory to some hundred MB.
_BLOCK_NUMBERS = 2**24

# Centered states [n d], their cells, and how often each state was drawn [draw n] -> [draw part].
ShareFunction = Callable[[np.ndarray, Cells, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class VarianceDecomposition(Result):
    """Shares of variance with bootstrap intervals, at one position or at several.

    Shares are not clipped: the interval of a share that is only noise can extend below 0.

    Attributes:
        parts: names of the parts.
        shares: share of each part, `[part]` or `[part position]`.
        interval: low and high end, basic bootstrap over sequences (2 x share - quantiles of
            resampled shares), which corrects the bias of few samples per cell.
        noise: expected contribution of noise within cells to each share; the share minus its
            noise is unbiased (epsilon squared).
        settings: the decomposed variance, number of samples and resamples, level and seed.
    """

    former_names: ClassVar = ("tvlens.Decomposition",)

    parts: tuple[str, ...]
    shares: Float[Tensor, "part ..."]
    interval: Float[Tensor, "part ... 2"]
    noise: Float[Tensor, "part ..."]
    settings: dict = field(default_factory=dict)

    def __getitem__(self, part: str) -> Float[Tensor, "*pos"]:
        """Share of one part."""
        return self.shares[self.index(part)]

    def index(self, part: str) -> int:
        """Index of a part in `shares`, `interval` and `noise`."""
        if part not in self.parts:
            raise TvlensError(f"no part {part!r}: choose from {', '.join(self.parts)}")
        return self.parts.index(part)

    def __repr__(self) -> str:
        suffix = f" at the last, {self.shares.shape[1]} positions" if self.shares.ndim > 1 else ""
        last = self.shares.reshape(len(self.parts), -1)[:, -1].tolist()
        shares = ", ".join(f"{p} {share:.3f}" for p, share in zip(self.parts, last, strict=True))
        return f"VarianceDecomposition({shares}{suffix})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per part and position: share, interval, noise."""
        import pandas as pd

        count = len(self.parts)
        columns = [self.shares, self.interval[..., 0], self.interval[..., 1], self.noise]
        flat = torch.stack([column.reshape(count, -1) for column in columns], -1)
        index = pd.MultiIndex.from_product(
            [self.parts, range(flat.shape[1])], names=["part", "position"]
        )
        names = ["share", "low", "high", "noise"]
        return pd.DataFrame(flat.reshape(-1, 4).numpy(), index, names).reset_index()


def between_cell_variance(
    h: Float[Tensor, "n *pos d"],
    task: Int[Tensor, " n"],
    token: Int[Tensor, "n ..."] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> VarianceDecomposition:
    """Compute the share of variance between (task, token) cells: 1 - SS_within / SS_total.

    The share "cells" approaches 1 with context length if the state depends on nothing but task
    and current token (P0 of "Task Vector Geometry Underlies Dual Modes of Task Inference", 2026).
    Cells may be unbalanced or empty.

    Args:
        h: hidden states of one layer; each row is a separate sequence.
        task: label of each sequence's task, from 0.
        token: label of the current token, per sequence or per sequence and position.
        resamples: number of bootstrap samples of sequences.
        level: confidence level of the intervals.
        seed: seed of the bootstrap.

    Raises:
        TvlensError: h contains NaN or does not vary, there is only one cell, or each cell has one
            sample.
    """
    options = dict(of="total variance", resamples=resamples, level=level, seed=seed)
    return _decompose(h, task, token, ("cells",), options)


def two_way_variance(
    h: Float[Tensor, "n *pos d"],
    task: Int[Tensor, " n"],
    token: Int[Tensor, "n ..."],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> VarianceDecomposition:
    """Decompose the variance of cell means into task, token and interaction (two-way ANOVA).

    With cell means mu + theta_task + nu_token + residual, all cells with equal weight, the share
    "interaction" is eta^2 = SS_int / (SS_task + SS_token + SS_int): 0 if effects are additive (P1
    of the same paper). Most informative on a design that sets the current token.

    Args:
        h: hidden states of one layer; each row is a separate sequence. If one sequence is
            measured with several tokens, rows are dependent and the intervals are wrong.
        task: label of each sequence's task, from 0.
        token: label of the current token, per sequence or per sequence and position.
        resamples: number of bootstrap samples, which keep the number of samples per cell.
        level: confidence level of the intervals.
        seed: seed of the bootstrap.

    Raises:
        TvlensError: h contains NaN, a cell is empty (the message names it), there is only one
            task or token, or each cell has one sample.
    """
    options = dict(of="variance of cell means", resamples=resamples, level=level, seed=seed)
    return _decompose(h, task, token, ("task", "token", "interaction"), options)


def _decompose(
    h: Tensor, task: Tensor, token: Tensor | None, parts: tuple[str, ...], options: dict
) -> VarianceDecomposition:
    if h.ndim not in (2, 3):
        raise TvlensError(f"h is [n, d] or [n, pos, d], not {list(h.shape)}")
    check_level(options["level"])
    if options["resamples"] < 1:
        raise TvlensError("resamples must be at least 1")
    by_position = h[:, None] if h.ndim == 2 else h
    estimates = []
    for position in range(by_position.shape[1]):
        labels = token[:, position] if token is not None and token.ndim == 2 else token
        try:
            states, cells = group_states(by_position[:, position], task, labels)
            x = (states - states.mean(0)).numpy()
            _check_cells(cells, parts)
            if np.linalg.norm(x) <= 1e-12 * float(states.norm()):
                raise TvlensError("all states are the same: there is no variance to decompose")
            estimates.append(_estimate(x, cells, parts, options))
        except TvlensError as error:
            prefix = f"position {position}: " if h.ndim > 2 else ""
            raise TvlensError(f"{prefix}{error}") from error
    shape = (len(parts), *h.shape[1:-1])
    shares, lows, highs, noise = (
        torch.from_numpy(np.stack(columns, 1)).view(shape)
        for columns in zip(*estimates, strict=True)
    )
    settings = options | {"samples": len(h)}
    return VarianceDecomposition(parts, shares, torch.stack([lows, highs], -1), noise, settings)


def _check_cells(cells: Cells, parts: tuple[str, ...]) -> None:
    n_filled = int((cells.counts > 0).sum())
    if "task" in parts:
        cells.check_tasks()
        if len(cells.tokens) < 2:
            raise TvlensError(f"every sample has token {int(cells.tokens[0])}: nothing to compare")
        cells.check_full()
    if n_filled < 2:
        raise TvlensError("all samples are in one cell: nothing to compare")
    if n_filled == len(cells.cell):
        raise TvlensError("every cell has one sample: variance within cells cannot be estimated")


def _estimate(
    x: np.ndarray, cells: Cells, parts: tuple[str, ...], options: dict
) -> tuple[np.ndarray, ...]:
    """Estimate shares, both ends of their intervals, and noise, each [part]."""
    is_two_way = "task" in parts
    statistic: ShareFunction = two_way_shares if is_two_way else between_cell_share
    strata = cells.cell.numpy() if is_two_way else None
    (shares,) = statistic(x, cells, np.ones((1, len(x))))
    counts = bootstrap_counts(len(x), options["resamples"], seed=options["seed"], strata=strata)
    block = max(1, _BLOCK_NUMBERS // (sum(cells.counts.shape) * x.shape[1]))
    resampled_shares = np.concatenate(
        [statistic(x, cells, counts[i : i + block]) for i in range(0, len(counts), block)]
    )
    tail = (1 - options["level"]) / 2
    low, high = percentiles(resampled_shares, tail=tail, axis=0)
    return shares, 2 * shares - high, 2 * shares - low, _noise_shares(x, cells, len(shares))


def between_cell_share(x: np.ndarray, cells: Cells, counts: np.ndarray) -> np.ndarray:
    """Compute SS_between / SS_total: [draw 1]."""
    grand_mean = _squared_norm(counts @ x) / len(x)
    total = counts @ _squared_norm(x) - grand_mean
    between = -grand_mean
    for _, _, count, mean in _cell_means(x, cells, counts):
        between += count * _squared_norm(mean)
    return _divide_by_total(between[:, None], total, counts @ _squared_norm(x))


def two_way_shares(x: np.ndarray, cells: Cells, counts: np.ndarray) -> np.ndarray:
    """Compute SS_task, SS_token and SS_interaction over their sum: [draw 3]."""
    k, v = cells.counts.shape
    rows, columns = np.zeros((2, max(k, v), len(counts), x.shape[1]))
    cell_squares = np.zeros(len(counts))
    for row, column, _, mean in _cell_means(x, cells, counts):
        rows[row] += mean / v
        columns[column] += mean / k
        cell_squares += _squared_norm(mean)
    grand_mean = k * v * _squared_norm(rows[:k].mean(0))
    task = v * _squared_norm(rows).sum(0) - grand_mean
    token = k * _squared_norm(columns).sum(0) - grand_mean
    total = cell_squares - grand_mean
    parts = np.stack([task, token, total - task - token], 1)
    return _divide_by_total(parts, total, k * v * _squared_norm(x).mean())


def _cell_means(
    x: np.ndarray, cells: Cells, counts: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row, column, number of draws [draw] and mean [draw d] of every cell that has samples."""
    cell, n_columns = cells.cell.numpy(), len(cells.tokens)
    order = np.argsort(cell, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        member_counts = counts[:, members]
        count = member_counts.sum(1)
        mean = member_counts @ x[members] / np.maximum(count, 1)[:, None]
        yield *divmod(int(cell[members[0]]), n_columns), count, mean


def _divide_by_total(parts: np.ndarray, total: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Divide parts by a total that exceeds rounding errors of numbers of size `scale`."""
    if (total <= 1e-12 * scale).any():
        raise TvlensError(
            "no variance to decompose, or too few samples: some resamples have no variance"
        )
    shares: np.ndarray = parts / total[:, None]
    return shares


def _noise_shares(x: np.ndarray, cells: Cells, n_parts: int) -> np.ndarray:
    """Compute the expected contribution of independent noise within cells to each share."""
    means = list(_cell_means(x, cells, np.ones((1, len(x)))))
    within = _squared_norm(x).sum() - sum(
        float(count[0] * _squared_norm(mean)[0]) for _, _, count, mean in means
    )
    variance = within / (len(x) - len(means))
    if n_parts == 1:
        return np.array([variance * (len(means) - 1) / _squared_norm(x).sum()])
    k, v = cells.counts.shape
    mean_variance = float((1 / cells.counts.double()).sum()) * variance
    degrees = np.array([(1 - 1 / k) / v, (1 - 1 / v) / k, (1 - 1 / k) * (1 - 1 / v)])
    cell_means = np.stack([mean[0] for *_, mean in means])
    shares: np.ndarray = (
        mean_variance * degrees / _squared_norm(cell_means - cell_means.mean(0)).sum()
    )
    return shares


def _squared_norm(x: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.einsum("...d,...d->...", x, x)
    return norms
