"""Distributions over a finite vocabulary: sampling, counts, evidence, entropy and divergences."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import TvlensError


def normalize_rows(
    rows: Float[Tensor, "*rows vocab"], *, name: str = "row"
) -> Float[Tensor, "*rows vocab"]:
    """Divide rows by their sums, which rounding leaves close to 1.

    Raises:
        TvlensError: a row has a negative or non-finite entry, or does not sum to 1.
    """
    sums = rows.sum(-1, keepdim=True)
    invalid = ~((rows >= 0).all(-1) & ((sums[..., 0] - 1).abs() < 1e-5))
    if bool(invalid.any()):
        index = invalid.nonzero()[0].tolist()
        row = rows[tuple(index)]
        raise TvlensError(
            f"{' '.join(map(str, (name, *index)))} is not a distribution: it sums to "
            f"{float(row.sum()):.6g}, with smallest entry {float(row.min()):.6g}"
        )
    return rows / sums


def require_positive(**values: float) -> None:
    """Raise TvlensError unless every value is finite and positive."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise TvlensError(f"{name} is a number above 0, not {value!r}")


def sample_categorical(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Sample indices by inverting the cumulative distribution along the last axis.

    An entry of probability 0 is never sampled: its interval in [0, 1) is empty.
    """
    ends = probabilities.cumsum(-1)
    ends /= ends[..., -1:]
    indices: np.ndarray = (uniform[..., None] >= ends[..., :-1]).sum(-1)
    return indices


def cumulative_counts(tokens: Int[Tensor, "n length"], size: int) -> Float[Tensor, "n length size"]:
    """Count the occurrences of each value up to and including every position."""
    return one_hot(tokens, size).to(torch.float64).cumsum_(1)


def dirichlet_predictive(
    counts: Float[Tensor, "... vocab"], alpha: float
) -> Float[Tensor, "... vocab"]:
    """Compute the predictive of Dirichlet(alpha, ..., alpha): (n + a) / (n_total + V a)."""
    return (counts + alpha) / (counts.sum(-1, keepdim=True) + alpha * counts.shape[-1])


def cumulative_log_evidence(
    tokens: Int[Tensor, "n length"],
    first: Float[Tensor, " vocab"],
    predictive: Float[Tensor, "n length vocab"],
) -> Float[Tensor, "n length"]:
    """Compute the log-probability of every prefix as the product of its tokens' predictives.

    Args:
        first: distribution of the first token.
        predictive: entry t is the distribution of token t + 1 after tokens 0..t.
    """
    start = first.expand(len(tokens), 1, -1)
    distributions = torch.cat([start, predictive[:, :-1]], dim=1)
    likelihoods = distributions.gather(-1, tokens[..., None])[..., 0]
    return likelihoods.log().cumsum_(1)


def kl(
    p: Float[Tensor, "*position vocab"], q: Float[Tensor, "*position vocab"]
) -> Float[Tensor, "*position"]:
    """Compute KL(p || q) in nats at every position; infinite where q is 0 and p is not.

    Args:
        p: distributions over the vocabulary, usually a model's.
        q: distributions over the same vocabulary, usually a reference's `predictive`.

    Raises:
        TvlensError: the shapes differ, or a row is not a distribution.
    """
    if p.shape != q.shape:
        raise TvlensError(f"distributions of shapes {list(p.shape)} and {list(q.shape)}")
    p, q = (normalize_rows(rows.double()) for rows in (p, q))
    # Rounding can make the sum slightly negative.
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).clamp(min=0)


def gaussian_kl(
    mean: Float[Tensor, "*position"], reference: Float[Tensor, "*position"], *, noise: float
) -> Float[Tensor, "*position"]:
    """Compute the KL in nats between normals of equal noise: (mean - reference)^2 / (2 sigma^2).

    Raises:
        TvlensError: the shapes differ, a number is not finite, or the noise is not positive.
    """
    require_positive(noise=noise)
    if mean.shape != reference.shape:
        raise TvlensError(f"predictions of shapes {list(mean.shape)} and {list(reference.shape)}")
    if not bool(mean.isfinite().all() and reference.isfinite().all()):
        raise TvlensError("predictions hold NaN or infinity")
    return (mean.double() - reference.double()).square() / (2 * noise**2)


def entropy(p: Float[Tensor, "*position vocab"]) -> Float[Tensor, "*position"]:
    """Compute the entropy in nats at every position.

    Raises:
        TvlensError: a row is not a distribution.
    """
    entropies: Tensor = torch.special.entr(normalize_rows(p.double())).sum(-1)
    return entropies


def relative_distance(
    to_first: Float[Tensor, "*point"],
    to_second: Float[Tensor, "*point"],
    between: Float[Tensor, "*point"],
) -> Float[Tensor, "*point"]:
    """Locate a model between two references: (d_second - d_first) / d_between.

    The value is 1 at the first reference and -1 at the second; (r + 1) / 2 is the weight of the
    first in the best-fitting blend. Values outside [-1, 1] are kept: the model matches neither.

    Raises:
        TvlensError: the two references coincide at some point.

    Source: Wurgaft et al. 2025.
    """
    if not bool((between > 0).all()):
        raise TvlensError("the two references are the same: relative distance is undefined")
    return (to_second - to_first) / between
