"""Measures of P0 to P3 with intervals over sequences, and what chance gives.

P2 and P3 are functions of sums over sequences, so that a bootstrap is one matrix product.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError
from ...geometry import separability, simplex_weights, stability
from ...geometry.cells import Cells
from ...geometry.shares import between_cells, main_effects, resampled
from .probes import Probes

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
    rest: Float[Tensor, "n d"],
    weights: Float[Tensor, "n k"],
    vectors: Float[Tensor, "k d"],
    posterior: Float[Tensor, "n k"],
    *,
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """P2, the explained share, and P3, total variation and correlation with the posterior."""
    draws = resampled(np.zeros(len(rest), dtype=int), resamples, seed)
    found = []
    for columns, measure in (explained(rest, weights, vectors), *alike(weights, posterior)):
        low, high = np.quantile(measure(draws @ columns), [0.025, 0.975])
        found.append((float(measure(columns.sum(0)[None])[0]), float(low), float(high)))
    return found


def explained(rest: Tensor, weights: Tensor, vectors: Tensor) -> Summed:
    """1 - missed / total squared length of the residuals."""
    missed = (rest - weights @ vectors).square().sum(1)
    columns = torch.stack([missed, rest.square().sum(1)], 1).numpy()
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
    rest: Float[Tensor, "n d"],
    weights: Float[Tensor, "n k"],
    vectors: Float[Tensor, "k d"],
    posterior: Float[Tensor, "n k"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Float[Tensor, "measure draw"]:
    """The five measures where there is nothing to find.

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
        within = 1 - between_cells(x, tasks, one)[0, 0]
        interaction = main_effects(x, cells, one)[0, 2]
        strange = random_like(vectors, rng)
        nearest = simplex_weights(rest, strange).double()
        summed = (explained(rest, nearest, strange), *alike(weights, posterior[order]))
        rest_of = [float(measure(columns.sum(0)[None])[0]) for columns, measure in summed]
        found.append([within, interaction, *rest_of])
    return torch.tensor(found, dtype=torch.float64).T


def random_like(vectors: Float[Tensor, "k d"], rng: np.random.Generator) -> Float[Tensor, "k d"]:
    """Vectors of the same norms and mutual angles, turned anywhere."""
    k, d = vectors.shape
    exact = vectors.double()
    frame = torch.linalg.qr(exact.T).Q
    turned = np.linalg.qr(rng.standard_normal((d, min(k, d)))).Q
    return exact @ frame @ torch.from_numpy(turned).T
