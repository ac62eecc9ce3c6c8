"""Whose is the variance of hidden states: of task, token, their interaction, or of neither?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from .cells import Cells, labelled
from .shares import between_cells, each_cell, estimate, main_effects, whole

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Decomposition(Result):
    """Shares of variance with bootstrap intervals, at one position or at several.

    Nothing is clipped: a share that noise alone explains can have an interval below 0.

    Attributes:
        parts: what the variance is shared between.
        shares: share of each part, `[part]` or `[part position]`.
        intervals: low and high end, basic bootstrap over sequences (2 x share less the quantiles
            of resampled shares), which takes out what few samples per cell add to every share.
        noise: how much of each share the noise within cells would give on its own; the share less
            this is unbiased (epsilon squared).
        settings: what is shared, number of samples and resamples, level and seed.
    """

    parts: tuple[str, ...]
    shares: Float[Tensor, "part ..."]
    intervals: Float[Tensor, "part ... 2"]
    noise: Float[Tensor, "part ..."]
    settings: dict = field(default_factory=dict)

    def __getitem__(self, part: str) -> Float[Tensor, "*position"]:
        """The share of one part."""
        return self.shares[self._index(part)]

    def interval(self, part: str) -> Float[Tensor, "*position 2"]:
        """The interval of one part."""
        return self.intervals[self._index(part)]

    def __repr__(self) -> str:
        where = f", {self.shares.shape[1]} positions" if self.shares.ndim > 1 else ""
        last = self.shares.reshape(len(self.parts), -1)[:, -1].tolist()
        shown = ", ".join(f"{p} {share:.3f}" for p, share in zip(self.parts, last, strict=True))
        return f"Decomposition({shown}{' at the last' if where else ''}{where})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per part and position: share, interval, noise."""
        import pandas as pd

        count = len(self.parts)
        columns = [self.shares, self.intervals[..., 0], self.intervals[..., 1], self.noise]
        flat = torch.stack([c.reshape(count, -1) for c in columns], -1)
        index = pd.MultiIndex.from_product(
            [self.parts, range(flat.shape[1])], names=["part", "position"]
        )
        names = ["share", "low", "high", "noise"]
        return pd.DataFrame(flat.reshape(-1, 4).numpy(), index, names).reset_index()

    def _index(self, part: str) -> int:
        if part not in self.parts:
            raise TvlensError(f"no part {part!r} here; there is {', '.join(self.parts)}")
        return self.parts.index(part)


def stability(
    h: Float[Tensor, "n *position d"],
    task: Int[Tensor, " n"],
    token: Int[Tensor, "n ..."] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Decomposition:
    """Share "cells" of the variance that lies between (task, token) cells: 1 - SS_within/SS_total.

    It goes to 1 with context length where a state forgets all but task and current token (P0 of
    "Task Vector Geometry Underlies Dual Modes of Task Inference", 2026). Cells may be unbalanced
    or empty.

    Args:
        h: hidden states of one layer; each row is its own sequence.
        task: label of each sequence's task, from 0.
        token: label of the current token, for each sequence or at each position.
        resamples, level, seed: of the bootstrap intervals over sequences.

    Raises:
        TvlensError: NaN, one cell only, one sample per cell, or states that do not vary.
    """
    options = dict(of="total variance", resamples=resamples, level=level, seed=seed)
    return _decomposed(h, task, token, ("cells",), between_cells, whole, options)


def separability(
    h: Float[Tensor, "n *position d"],
    task: Int[Tensor, " n"],
    token: Int[Tensor, "n ..."],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Decomposition:
    """Shares "task", "token" and "interaction" of the variance of cell means; they sum to 1.

    With cell means = mu + theta_task + nu_token + rest, every cell counting alike, the last is
    eta^2_int = SS_int / (SS_task + SS_token + SS_int): 0 where effects add up (P1 of the same
    paper). Best on a design that forces the current token.

    Args:
        h, task, token, resamples, level, seed: as for `stability`; resampling keeps the number of
            samples per cell. A sequence measured with several tokens would make rows depend on
            each other and the intervals wrong.

    Raises:
        TvlensError: an empty cell (names it), one task or one token only, one sample per cell, or
            NaN.
    """
    options = dict(of="variance of cell means", resamples=resamples, level=level, seed=seed)
    parts = ("task", "token", "interaction")
    return _decomposed(h, task, token, parts, main_effects, each_cell, options)


def _decomposed(
    h: Tensor,
    task: Tensor,
    token: Tensor | None,
    parts: tuple[str, ...],
    statistic: Callable,
    strata: Callable,
    options: dict,
) -> Decomposition:
    if h.ndim not in (2, 3):
        raise TvlensError(f"h is [n, d] or [n, position, d], not {list(h.shape)}")
    if options["resamples"] < 1 or not 0 < options["level"] < 1:
        raise TvlensError("resamples must be at least 1, and level between 0 and 1")
    flat = h[:, None] if h.ndim == 2 else h
    found = []
    for position in range(flat.shape[1]):
        here = token[:, position] if token is not None and token.ndim == 2 else token
        try:
            states, cells = labelled(flat[:, position], task, here)
            x = (states - states.mean(0)).numpy()
            _check(cells, parts)
            if np.linalg.norm(x) <= 1e-12 * float(states.norm()):
                raise TvlensError("all states are the same: there is no variance to share")
            found.append(estimate(x, cells, statistic, strata(cells), options))
        except TvlensError as error:
            where = f"position {position}: " if h.ndim > 2 else ""
            raise TvlensError(f"{where}{error}") from error
    shape = (len(parts), *h.shape[1:-1])
    shares, lows, highs, noise = (
        torch.from_numpy(np.stack(a, 1)).view(shape) for a in zip(*found, strict=True)
    )
    settings = options | {"samples": len(h)}
    return Decomposition(parts, shares, torch.stack([lows, highs], -1), noise, settings)


def _check(cells: Cells, parts: tuple[str, ...]) -> None:
    filled = int((cells.counts > 0).sum())
    if "task" in parts:
        cells.check_tasks()
        if len(cells.tokens) < 2:
            raise TvlensError(f"every sample has token {int(cells.tokens[0])}: nothing to compare")
        cells.check_full()
    if filled < 2:
        raise TvlensError("all samples are in one cell: nothing to compare")
    if filled == len(cells.cell):
        raise TvlensError("every cell has one sample: variance within cells cannot be seen")
