"""How far a model's predictive is from a reference's, and which of two it is nearer to."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .categorical import rows_on_simplex
from .pool import above_zero


def kl(
    p: Float[Tensor, "*position vocab"], q: Float[Tensor, "*position vocab"]
) -> Float[Tensor, "*position"]:
    """KL(p || q) in nats at every position; infinite where p gives mass and q none.

    Args:
        p: distributions over the vocabulary, usually a model's.
        q: distributions over the same vocabulary, usually a reference's `predictive`.

    Raises:
        TvlensError: other shapes, or rows that are no distributions.
    """
    if p.shape != q.shape:
        raise TvlensError(f"distributions of shapes {list(p.shape)} and {list(q.shape)}")
    p, q = (rows_on_simplex(rows.double()) for rows in (p, q))
    # Rounding can leave the sum a hair below 0.
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).clamp(min=0)


def gaussian_kl(
    mean: Float[Tensor, "*position"], reference: Float[Tensor, "*position"], *, noise: float
) -> Float[Tensor, "*position"]:
    """KL in nats between normal predictions of one noise: (mean - reference)^2 / (2 sigma^2).

    Raises:
        TvlensError: other shapes, numbers that are not finite, or noise of 0 or less.
    """
    above_zero(noise=noise)
    if mean.shape != reference.shape:
        raise TvlensError(f"predictions of shapes {list(mean.shape)} and {list(reference.shape)}")
    if not bool(mean.isfinite().all() and reference.isfinite().all()):
        raise TvlensError("predictions hold NaN or infinity")
    return (mean.double() - reference.double()).square() / (2 * noise**2)


def entropy(p: Float[Tensor, "*position vocab"]) -> Float[Tensor, "*position"]:
    """Entropy in nats at every position.

    Raises:
        TvlensError: rows that are no distributions.
    """
    return torch.special.entr(rows_on_simplex(p.double())).sum(-1)


def relative_distance(
    to_first: Float[Tensor, "*point"],
    to_second: Float[Tensor, "*point"],
    between: Float[Tensor, "*point"],
) -> Float[Tensor, "*point"]:
    """Where a model stands between two references: (d_second - d_first) / d_between.

    1 is at the first, -1 at the second; (r + 1) / 2 is the first one's weight in the blend that
    fits. Values beyond that range are kept: they say that the model is neither.

    Raises:
        TvlensError: the two references are the same somewhere.

    Source: Wurgaft et al. 2025.
    """
    if not bool((between > 0).all()):
        raise TvlensError("the two references are the same: nothing lies between them")
    return (to_second - to_first) / between
