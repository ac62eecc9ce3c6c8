"""Maps of reduced rank: every rank from one eigendecomposition."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError


def output_axes(
    factor: Float[Tensor, "r d_tuned"],
) -> tuple[Float[Tensor, " d_tuned"], Float[Tensor, "d_tuned d_tuned"]]:
    """What a map explains along its output directions, and these directions as columns.

    Both in descending order; the first r directions span the best map of rank r.
    """
    strengths, axes = torch.linalg.eigh(factor.T @ factor)
    return strengths.flip(0).clamp_min(0), axes.flip(1)


def reduced(
    weight: Float[Tensor, "d_base d_tuned"], axes: Float[Tensor, "d_tuned d_tuned"], rank: int
) -> Float[Tensor, "d_base d_tuned"]:
    """W U_r U_r', the weight of the best map of rank r.

    Source: Izenman 1975; with a ridge penalty Mukherjee and Zhu 2011.
    """
    check_rank(rank, weight)
    return (weight @ axes[:, :rank]) @ axes[:, :rank].T


def check_rank(rank: int, weight: Float[Tensor, "d_base d_tuned"]) -> None:
    """Raise TvlensError unless the weight can have this rank."""
    if not 1 <= rank <= min(weight.shape):
        raise TvlensError(
            f"rank {rank} is not possible for a map from {weight.shape[0]} to {weight.shape[1]} "
            f"dimensions: choose 1 to {min(weight.shape)}"
        )
