"""Distributions over a finite vocabulary: rows that sum to 1, draws, counts, evidence."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import TvlensError


def rows_on_simplex(
    rows: Float[Tensor, "*rows vocab"], *, name: str = "row"
) -> Float[Tensor, "*rows vocab"]:
    """The rows, divided by sums that rounding has left beside 1.

    Raises:
        TvlensError: a row that is negative, not finite, or sums to something else than 1.
    """
    sums = rows.sum(-1, keepdim=True)
    wrong = ~((rows >= 0).all(-1) & ((sums[..., 0] - 1).abs() < 1e-5))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        row = rows[tuple(place)]
        raise TvlensError(
            f"{' '.join(map(str, (name, *place)))} is no distribution: it sums to "
            f"{float(row.sum()):.6g}, with smallest entry {float(row.min()):.6g}"
        )
    return rows / sums


def drawn(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Indices by inverting the cumulative distribution along the last axis.

    An entry of probability 0 is never drawn: its piece of [0, 1) is empty.
    """
    ends = probabilities.cumsum(-1)
    ends /= ends[..., -1:]
    return (uniform[..., None] >= ends[..., :-1]).sum(-1)


def running_counts(tokens: Int[Tensor, "n length"], size: int) -> Float[Tensor, "n length size"]:
    """How often each value has occurred up to and including every position."""
    return one_hot(tokens, size).to(torch.float64).cumsum_(1)


def smoothed(counts: Float[Tensor, "... vocab"], alpha: float) -> Float[Tensor, "... vocab"]:
    """Predictive of Dirichlet(alpha, ..., alpha) after counts: (n + a) / (n_total + V a)."""
    return (counts + alpha) / (counts.sum(-1, keepdim=True) + alpha * counts.shape[-1])


def log_evidence(
    tokens: Int[Tensor, "n length"],
    first: Float[Tensor, " vocab"],
    predictive: Float[Tensor, "n length vocab"],
) -> Float[Tensor, "n length"]:
    """Log-probability of every prefix, as the product of the predictives of its tokens.

    Args:
        first: distribution of the first token, before anything is seen.
        predictive: entry t is the distribution of token t + 1 after tokens 0..t.
    """
    start = first.expand(len(tokens), 1, -1)
    told = torch.cat([start, predictive[:, :-1]], dim=1).gather(-1, tokens[..., None])[..., 0]
    return told.log().cumsum_(1)
