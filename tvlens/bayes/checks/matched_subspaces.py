"""Random subspaces that hold as much variance of a model's states as a given one."""

from collections.abc import Callable

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
    added, up to the whole of `inside`, which may hold less variance than the given subspace.

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
    subspaces = []
    for _ in range(draws):
        normal = torch.from_numpy(rng.standard_normal((subspace.dim, inside.rank)))
        coordinates = axes.T @ normal

        def sample(rank: int, exponent: float, coordinates: Tensor = coordinates) -> Subspace:
            scaled = (values / values[-1]).pow(exponent)[:, None] * coordinates[:, :rank]
            return Subspace(torch.linalg.qr(axes @ scaled).Q)

        rank = min(subspace.rank, inside.rank)
        while rank < inside.rank and variance_inside(sample(rank, _HIGHEST), moments) < target:
            rank += 1
        subspaces.append(_bisect(lambda s, rank=rank: sample(rank, s), moments, target))
    return subspaces


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
