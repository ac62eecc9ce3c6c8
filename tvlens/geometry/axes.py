"""Orthonormal axes of vectors and of points, as many as there are beyond rounding."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError


def spanned(vectors: Float[Tensor, "n d"], *, tolerance: float) -> Float[Tensor, "r d"]:
    """Axes of everything that vectors combine to.

    Args:
        tolerance: share of the largest singular value below which a direction does not count.

    Raises:
        TvlensError: a vector that is zero or too short to count beside the others.
    """
    _, sizes, axes = torch.linalg.svd(vectors, full_matrices=False)
    norms = vectors.norm(dim=1)
    short = norms <= tolerance * sizes[0]
    if short.any():
        i = int(short.nonzero()[0])
        raise TvlensError(
            f"vector {i} is zero beside the others (length {float(norms[i]):.2g}, the longest "
            f"{float(norms.max()):.2g}): it adds no direction"
        )
    return axes[: int((sizes > tolerance * sizes[0]).sum())]


def principal(
    points: Float[Tensor, "n d"], *, eps: float, rank: int | None, variance: float | None
) -> Float[Tensor, "r d"]:
    """Axes in which points vary most about their mean, `rank` of them or to hold `variance`.

    Args:
        eps: the rounding unit of the points' numbers.

    Raises:
        TvlensError: the points vary in fewer directions than asked for.
    """
    # The triangle has the same axes and at most d rows.
    triangle = torch.linalg.qr(points - points.mean(0), mode="r").R
    _, sizes, axes = torch.linalg.svd(triangle, full_matrices=False)
    # Beside a large mean, rounding alone looks like variation.
    room = eps * torch.maximum(max(points.shape) * sizes[0], points.norm())
    varying = int((sizes > room).sum())
    if rank is None:
        rank = _holding(variance, sizes[:varying])
    if not 1 <= rank <= varying:
        raise TvlensError(
            f"rank {rank} is not possible: {len(points)} points vary in {varying} directions"
        )
    return axes[:rank]


def _holding(variance: float, sizes: Float[Tensor, " r"]) -> int:
    """How many of the first directions hold a share of the variance."""
    if not 0 < variance <= 1:
        raise TvlensError(f"variance is {variance}: it must lie between 0 and 1")
    held = (sizes**2).cumsum(0)
    # All of it is held up to rounding.
    return int((held < variance * held[-1:] * (1 - 1e-9)).sum()) + 1
