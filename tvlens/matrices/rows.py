"""Paired states as rows: checked, centred, and what is summed of them."""

import math

import torch
from jaxtyping import Float
from scipy.linalg.blas import dsyrk
from torch import Tensor

from ..errors import TvlensError

# Narrower blocks of X'X cost more to start than their half saves.
_BLOCK = 64


def check_rows(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> None:
    """Raise TvlensError unless both have as many rows, and one at least."""
    if x.ndim < 2 or y.ndim < 2:
        raise TvlensError("x and y need a row per pair: give them two axes or more")
    if x.shape[-2] != y.shape[-2]:
        raise TvlensError(
            f"x has {x.shape[-2]} rows and y has {y.shape[-2]}: row i of both must be one input"
        )
    if not x.shape[-2]:
        raise TvlensError("x and y have no rows")


def centred(
    name: str, states: Float[Tensor, "*stack n d"]
) -> tuple[Float[Tensor, "*stack d"], Float[Tensor, "*stack more d"]]:
    """Mean and deviations in float64, on the states' device where it has that; a row to spare."""
    states = states.detach().cpu() if states.device.type == "mps" else states.detach()
    *stack, n, width = states.shape
    # In memory the layers of an input lie side by side.
    rows = states.new_empty(n + 1, *stack, width, dtype=torch.float64).movedim(0, -2)
    deviations = rows[..., :-1, :].copy_(states)
    mean = deviations.mean(-2)
    # Nearly always the mean tells at a glance; one that overflows is looked at closely.
    if not mean.isfinite().all() and (bad := ~states.isfinite()).any():
        first = bad.nonzero()[0].tolist()
        raise TvlensError(
            f"{int(bad.sum())} of {bad.numel()} numbers in {name} are NaN or infinite, "
            f"first at {first}"
        )
    deviations -= mean.unsqueeze(-2)
    return mean, rows


def side_by_side(states: Float[Tensor, "*stack n d"]) -> Float[Tensor, "n stack_d"]:
    """One matrix with a row per pair, the stacked layers beside each other in it."""
    return states.movedim(-2, 0).reshape(states.shape[-2], -1)


def add_grams(sums: Float[Tensor, "*stack d d"], states: Float[Tensor, "*stack n d"]) -> None:
    """Add X'X of every layer in place: the sums are larger than a batch, so they are not copied."""
    layers = states.reshape(-1, *states.shape[-2:])
    for own, layer in zip(sums.view(-1, *sums.shape[-2:]), layers, strict=True):
        _add_gram(own, layer)


def gram(x: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """X'X, in little more than half the operations of a product of any two matrices."""
    sums = x.new_zeros(x.shape[1], x.shape[1])
    _add_gram(sums, x)
    return sums


def add_squares(
    sums: Float[Tensor, "*stack d d"], x: Float[Tensor, "*stack d"], *, weight: float
) -> None:
    """Add the weighted outer product of every layer's vector with itself in place."""
    width = x.shape[-1]
    for own, one in zip(sums.view(-1, width, width), x.reshape(-1, width), strict=True):
        own.add_(torch.outer(one, one), alpha=weight)


def _add_gram(sums: Float[Tensor, "d d"], x: Float[Tensor, "n d"]) -> None:
    """It is symmetric: what lies below the diagonal is copied, not computed."""
    if x.device.type == "cpu" and torch.get_num_threads() == 1:
        _add_gram_alone(sums, x)
        return
    width = len(sums)
    step = max(_BLOCK, math.ceil(width / 4))
    for begin in range(0, width, step):
        end = begin + step
        sums[begin:end, begin:].addmm_(x[:, begin:end].T, x[:, begin:])
        sums[end:, begin:end] = sums[begin:end, end:].T


def _add_gram_alone(sums: Float[Tensor, "d d"], x: Float[Tensor, "n d"]) -> None:
    """The same by the symmetric product below SciPy, which is a quarter faster.

    On one thread only: the threads of SciPy and of PyTorch wait for each other busily, and by turns
    take twice as long.
    """
    # Fortran goes through memory the other way: rows are columns there, and above is below.
    turned = x.T.is_contiguous()
    a = x.numpy() if turned else x.contiguous().numpy().T
    dsyrk(1.0, a, trans=turned, beta=1.0, c=sums.numpy().T, lower=True, overwrite_c=True)
    for begin in range(0, len(sums), _BLOCK):
        end = begin + _BLOCK
        sums[end:, begin:end] = sums[begin:end, end:].T
        corner = sums[begin:end, begin:end]
        corner.copy_(corner.triu() + corner.triu(1).T)
