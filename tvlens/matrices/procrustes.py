"""The rotation, with a scale, that takes one space of states nearest to another."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .moments import PairMoments


def rotation(moments: PairMoments, *, scale: bool = True) -> Float[Tensor, "d_base d_tuned"]:
    """Orthogonal Procrustes: the W = s R of least squared error, with R'R = I or RR' = I.

    Args:
        moments: of one pair of layers; about the origin for a map without a bias.
        scale: fit one factor s too; otherwise it is 1.

    Raises:
        TvlensError: base states that are all the same.

    Source: Schoenemann 1966; Gower 1975 (the scale).
    """
    spread = float(moments.xx.trace())
    if not spread:
        raise TvlensError(f"all {moments.count} base states are the same: nothing to rotate")
    u, strengths, vt = torch.linalg.svd(moments.xy, full_matrices=False)
    rotated = u @ vt
    if not scale:
        return rotated
    # Where dimensions are lost, only the part that is kept counts.
    kept = float((rotated.T @ moments.xx @ rotated).trace())
    return rotated * (strengths.sum() / kept)
