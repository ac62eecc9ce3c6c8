"""Random subspaces that hold as much variance of a model's states as a given one."""

from bisect import bisect_left
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...geometry import Subspace

# Largest relative difference between the variances of a random subspace and of the given one.
VARIANCE_TOLERANCE = 0.01
# Directions that hold less than this share of the largest variance count as equal.
_FLOOR = 1e-6
# Exponents of the covariance between which the search bisects; at 1/2 directions are distributed as
# the states are.
_LOWEST, _HIGHEST, _BISECTIONS = -2.0, 0.5, 60


def covariance(residuals: Float[Tensor, "*n d"]) -> Float[Tensor, "d d"]:
    """Compute the mean outer product of states, from which a mean was subtracted before."""
    rows = residuals.reshape(-1, residuals.shape[-1]).double()
    return rows.T @ rows / len(rows)


def variance_inside(subspace: Subspace, moments: Float[Tensor, "d d"]) -> float:
    """Compute the variance inside a subspace, from a covariance."""
    basis = subspace.basis.to(moments)
    return float(torch.trace(basis.T @ moments @ basis))


def matched_subspaces(
    subspace: Subspace,
    moments: Float[Tensor, "d d"],
    *,
    inside: Subspace,
    draws: int,
    seed: int,
) -> list[Subspace]:
    """Sample subspaces that hold as much variance of the states as the given one.

    Each is the span of C^s Z, with C the covariance of the states inside `inside` and Z standard
    normal, of the rank of the given subspace. The exponent s is found by bisection, so that the
    variance equals that of the given subspace within `VARIANCE_TOLERANCE`. Directions are at most
    as concentrated as those of the states (s = 1/2); where they hold too little, further ones are
    added, up to the whole of `inside`, which may hold less variance than the given subspace. Where
    even the directions of least variance hold more, the random subspaces hold more.

    Args:
        subspace: the subspace to match.
        moments: covariance of the states.
        inside: subspace from which the random ones are sampled.
        draws: number of random subspaces.
        seed: seed of the sampling; the result does not depend on the basis of `inside`.
    """
    target = variance_inside(subspace, moments)
    basis = inside.basis.to(moments)
    values, axes = torch.linalg.eigh(basis.T @ moments @ basis)
    axes, values = basis @ axes, values.clamp(min=_FLOOR * float(values[-1].clamp(min=1e-300)))
    whole = Subspace(basis)
    if variance_inside(whole, moments) <= target * (1 + VARIANCE_TOLERANCE):
        return [whole] * draws
    rng = np.random.default_rng(seed)
    normals = torch.from_numpy(rng.standard_normal((draws, subspace.dim, inside.rank)))
    scale = values / values[-1]

    def sample(coordinates: Float[Tensor, "m n"], rank: int, exponent: float) -> Subspace:
        scaled = scale.pow(exponent)[:, None] * coordinates[:, :rank]
        return Subspace(torch.linalg.qr(axes @ scaled).Q)

    def find_match(coordinates: Float[Tensor, "m n"]) -> Subspace:
        def largest_variance(rank: int) -> float:
            return variance_inside(sample(coordinates, rank, _HIGHEST), moments)

        ranks = range(min(subspace.rank, inside.rank), inside.rank)
        rank = ranks.start + bisect_left(ranks, target, key=largest_variance)
        return _bisect(partial(sample, coordinates, rank), moments, target)

    return [find_match(axes.T @ normal) for normal in normals]


def _bisect(
    sample: Callable[[float], Subspace], moments: Float[Tensor, "d d"], target: float
) -> Subspace:
    """Find the exponent at which the variance equals the target."""
    low, high = _LOWEST, _HIGHEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        subspace = sample(middle)
        variance = variance_inside(subspace, moments)
        if abs(variance - target) <= VARIANCE_TOLERANCE * target / 10:
            break
        low, high = (middle, high) if variance < target else (low, middle)
    return subspace
