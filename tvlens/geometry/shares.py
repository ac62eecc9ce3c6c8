"""Shares of variance, resampled: sums of squares of many bootstrap samples at once."""

from collections.abc import Callable, Iterator

import numpy as np

from ..errors import TvlensError
from .cells import Cells

# Numbers held for one block of resamples; bounds memory at some hundred MB.
_TOGETHER = 2**24

# States, their cells and how often each state was drawn [draw n] -> shares [draw part].
Shares = Callable[[np.ndarray, Cells, np.ndarray], np.ndarray]


def estimate(
    x: np.ndarray, cells: Cells, statistic: Shares, stratum: np.ndarray, options: dict
) -> tuple[np.ndarray, ...]:
    """Shares, ends of their intervals, and noise, each [part]."""
    (shares,) = statistic(x, cells, np.ones((1, len(x))))
    weights = resampled(stratum, options["resamples"], options["seed"])
    block = max(1, _TOGETHER // (sum(cells.counts.shape) * x.shape[1]))
    drawn = np.concatenate(
        [statistic(x, cells, weights[i : i + block]) for i in range(0, len(weights), block)]
    )
    tail = (1 - options["level"]) / 2
    high, low = 2 * shares - np.quantile(drawn, [tail, 1 - tail], axis=0)
    return shares, low, high, _noise(x, cells, len(shares))


def whole(cells: Cells) -> np.ndarray:
    """One stratum: samples are drawn from all of them."""
    return np.zeros(len(cells.cell), dtype=int)


def each_cell(cells: Cells) -> np.ndarray:
    """Every cell its own stratum: cells keep their numbers of samples."""
    return cells.cell.numpy()


def resampled(stratum: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each sample is drawn, with replacement within its stratum: [draw n]."""
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, len(stratum)))
    for label in np.unique(stratum):
        (members,) = np.nonzero(stratum == label)
        size = len(members)
        drawn = rng.integers(0, size, (resamples, size)) + size * np.arange(resamples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=resamples * size)
        weights[:, members] = counts.reshape(resamples, size)
    return weights


def _cell_means(
    x: np.ndarray, cells: Cells, weights: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row, column, number of draws [draw] and mean [draw d] of every cell that has samples."""
    cell, columns = cells.cell.numpy(), len(cells.tokens)
    order = np.argsort(cell, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        drawn = weights[:, members]
        count = drawn.sum(1)
        mean = drawn @ x[members] / np.maximum(count, 1)[:, None]
        yield *divmod(int(cell[members[0]]), columns), count, mean


def between_cells(x: np.ndarray, cells: Cells, weights: np.ndarray) -> np.ndarray:
    """SS_between / SS_total: [draw 1]."""
    common = _square(weights @ x) / len(x)
    total = weights @ _square(x) - common
    between = -common
    for _, _, count, mean in _cell_means(x, cells, weights):
        between += count * _square(mean)
    return _share(between[:, None], total, weights @ _square(x))


def main_effects(x: np.ndarray, cells: Cells, weights: np.ndarray) -> np.ndarray:
    """SS_task, SS_token, SS_interaction over their sum: [draw 3]."""
    k, v = cells.counts.shape
    rows, columns = np.zeros((2, max(k, v), len(weights), x.shape[1]))
    all_cells = np.zeros(len(weights))
    for row, column, _, mean in _cell_means(x, cells, weights):
        rows[row] += mean / v
        columns[column] += mean / k
        all_cells += _square(mean)
    mu = k * v * _square(rows[:k].mean(0))
    task = v * _square(rows).sum(0) - mu
    token = k * _square(columns).sum(0) - mu
    total = all_cells - mu
    parts = np.stack([task, token, total - task - token], 1)
    return _share(parts, total, k * v * _square(x).mean())


def _share(parts: np.ndarray, total: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Parts of a total that is more than rounding beside `scale`: [draw part]."""
    if (total <= 1e-12 * scale).any():
        raise TvlensError(
            "no variance to share, or too few samples to resample: in some draws all are alike"
        )
    return parts / total[:, None]


def _noise(x: np.ndarray, cells: Cells, parts: int) -> np.ndarray:
    """What independent noise within cells alone adds to each share, in expectation: [part]."""
    one = np.ones((1, len(x)))
    means = list(_cell_means(x, cells, one))
    within = _square(x).sum() - sum(float(n[0] * _square(m)[0]) for _, _, n, m in means)
    variance = within / (len(x) - len(means))
    if parts == 1:
        return np.array([variance * (len(means) - 1) / _square(x).sum()])
    k, v = cells.counts.shape
    spread = float((1 / cells.counts.double()).sum()) * variance
    degrees = np.array([(1 - 1 / k) / v, (1 - 1 / v) / k, (1 - 1 / k) * (1 - 1 / v)])
    centred = np.stack([m[0] for *_, m in means])
    return spread * degrees / _square(centred - centred.mean(0)).sum()


def _square(x: np.ndarray) -> np.ndarray:
    return np.einsum("...d,...d->...", x, x)
