"""Measures of P0 to P3 with intervals over sequences, and what chance gives.

P2 and P3 are functions of sums over sequences, so that a bootstrap is one matrix product.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError
from ...geometry import separability, stability
from ...geometry.cells import Cells
from ...geometry.shares import between_cells, main_effects, resampled
from .probing import Probes
from .vertices import Placed

# What each sequence adds [n column], and the measure from the sums [draw column] -> [draw].
Summed = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]

# value, low, high
Estimate = tuple[float, float, float]


def additive(
    h: Float[Tensor, "n d"], probed: Probes, *, resamples: int, seed: int
) -> list[Estimate]:
    """P0, the share of variance within cells, and P1, the interaction of cell means."""
    options = dict(resamples=resamples, seed=seed)
    cells = stability(h, probed.task, probed.token, **options)
    means = separability(h, probed.task, probed.token, **options)
    low, high = cells.interval("cells").tolist()
    within = 1 - float(cells["cells"]), 1 - high, 1 - low
    return [within, (float(means["interaction"]), *means.interval("interaction").tolist())]


def convex(
    placed: Placed,
    weights: Float[Tensor, "n k"],
    posterior: Float[Tensor, "n k"],
    *,
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """P2, the explained share, and P3, total variation and correlation with the posterior."""
    draws = resampled(np.zeros(len(weights), dtype=int), resamples, seed)
    found = []
    for columns, measure in (explained(placed, weights), *alike(weights, posterior)):
        low, high = np.quantile(measure(draws @ columns), [0.025, 0.975])
        found.append((float(measure(columns.sum(0)[None])[0]), float(low), float(high)))
    return found


def explained(placed: Placed, weights: Float[Tensor, "n k"]) -> Summed:
    """1 - missed / total squared length of the residuals."""
    columns = torch.stack([placed.missed(weights), placed.rest.square().sum(1)], 1).numpy()
    return columns, lambda sums: 1 - sums[..., 0] / sums[..., 1]


def alike(weights: Tensor, posterior: Tensor) -> tuple[Summed, Summed]:
    """Mean total variation, and Pearson correlation over all entries."""
    apart = (weights - posterior).abs().sum(1) / 2
    distances = torch.stack([apart, torch.ones_like(apart)], 1).numpy()
    a, b = weights, posterior
    parts = [torch.ones_like(a), a, b, a * a, b * b, a * b]
    moments = torch.stack([part.sum(1) for part in parts], 1).numpy()
    return (distances, lambda sums: sums[..., 0] / sums[..., 1]), (moments, _pearson)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    spread = (n * aa - a**2) * (n * bb - b**2)
    if (spread <= 0).any():
        raise TvlensError("weights or posterior do not vary: there is nothing to correlate")
    return (n * ab - a * b) / np.sqrt(spread)


def by_chance(
    h: Float[Tensor, "n d"],
    probed: Probes,
    places: Sequence[Placed],
    weights: Sequence[Float[Tensor, "n k"]],
    posterior: Float[Tensor, "n k"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Float[Tensor, "measure draw"]:
    """The measures where there is nothing to find.

    P0: tasks permuted, so that only the token tells cells apart. P1: cells permuted, so that
    nothing adds up. P2: random vectors of the same norms and angles. P3: posteriors of other
    sequences.
    """
    x = (h - h.mean(0)).double().numpy()
    one = np.ones((1, len(x)))
    found = []
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(h)))
        tasks = Cells.of(probed.task[order], probed.token)
        cells = Cells.of(probed.task[order], probed.token[order])
        measured = [1 - between_cells(x, tasks, one)[0, 0], main_effects(x, cells, one)[0, 2]]
        for placed, mine in zip(places, weights, strict=True):
            strange = placed.turned(rng)
            summed = explained(strange, strange.weights()), *alike(mine, posterior[order])
            measured += [float(measure(columns.sum(0)[None])[0]) for columns, measure in summed]
        found.append(measured)
    return torch.tensor(found, dtype=torch.float64).T
