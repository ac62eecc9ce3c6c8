"""Similarity of vectors and representations: cosine, CKA, Procrustes, and tables of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from . import checks

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SimilarityTable(Result):
    """A similarity measure between all pairs of several named sets of vectors.

    Attributes:
        names: names of the sets, in order of rows and columns.
        values: the measure for each pair.
        measure: name of the measure.
    """

    names: tuple[str, ...]
    values: Float[Tensor, "k k"]
    measure: str

    def __repr__(self) -> str:
        return f"SimilarityTable({self.measure} of {', '.join(self.names)})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """The table, with the names as index and columns."""
        import pandas as pd

        return pd.DataFrame(self.values.tolist(), index=self.names, columns=self.names)


def cosine_table(vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Compute the cosine between all pairs of vectors.

    Raises:
        TvlensError: a vector contains NaN or is zero.
    """
    unit = _normalize_rows("vectors", vectors)
    return (unit @ unit.T).clamp(-1, 1).to(checks.result_dtype(vectors))


def similarity_table(
    groups: Mapping[str, Float[Tensor, "n d"]],
    *,
    measure: Callable[[Tensor, Tensor], float] | None = None,
) -> SimilarityTable:
    """Compare all pairs of several sets of vectors with corresponding rows.

    Args:
        groups: name -> vectors; row i is the same input, task or layer in every group.
        measure: a symmetric function of two sets, such as `cosine`, `cka`, `debiased_cka` or
            `procrustes`; `cka` by default.

    Raises:
        TvlensError: there are fewer than two groups, or a measure raises it.
    """
    measure = cka if measure is None else measure
    names = tuple(groups)
    if len(names) < 2:
        raise TvlensError(f"{len(names)} groups: a table compares at least two")
    values = torch.zeros(len(names), len(names), dtype=torch.float64)
    for j, b in enumerate(names):
        for i, a in enumerate(names[: j + 1]):
            try:
                values[i, j] = values[j, i] = measure(groups[a], groups[b])
            except TvlensError as error:
                raise TvlensError(f"{a!r} and {b!r}: {error}") from error
    return SimilarityTable(names, checks.as_float64("values", values), measure.__name__)


def cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """Compute the mean cosine between corresponding rows, such as layer by layer."""
    checks.check_same_length("x", x, "y", y)
    checks.check_same_width("x", x, "y", y)
    return float((_normalize_rows("x", x) * _normalize_rows("y", y)).sum(1).mean())


def cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """Compute linear centered kernel alignment of two representations of the same inputs.

    From 0 to 1; 1 if they are equal up to rotation and scale. With few rows relative to the
    widths it is large for unrelated representations too; use `debiased_cka` then.

    Args:
        x, y: one row per input; widths may differ.

    Raises:
        TvlensError: numbers of rows differ, a value is NaN, or a representation is constant.

    Source: Kornblith et al. 2019, equation 5.
    """
    a, b = _center_both(x, y)
    return float(
        _gram_inner_product(a, b) / (_gram_inner_product(a, a) * _gram_inner_product(b, b)).sqrt()
    )


def debiased_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """Compute linear CKA with unbiased HSIC estimates; near 0 for unrelated representations.

    Not clipped, so it can be negative.

    Args:
        x, y: one row per input, at least 4; widths may differ.

    Raises:
        TvlensError: as `cka`, or there are fewer than 4 rows, or so few that the estimated HSIC
            of a representation with itself is not positive.

    Source: Song et al. 2012, equation 5 (the estimator); Nguyen, Raghu and Kornblith 2021.
    """
    a, b = _center_both(x, y)
    if len(a) < 4:
        raise TvlensError(f"debiased CKA needs at least 4 rows, not {len(a)}")
    k, l = (_zero_diagonal(z @ z.T) for z in (a, b))
    self_similarity = _unbiased_hsic(k, k) * _unbiased_hsic(l, l)
    if self_similarity <= 0:
        raise TvlensError(f"{len(a)} rows are too few: their own variation is estimated below 0")
    return float(_unbiased_hsic(k, l) / self_similarity.sqrt())


def procrustes(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """Compute the Procrustes disparity of two sets of points, from 0 (same shape) to 1.

    The residual after optimal translation, scaling and rotation, as in
    `scipy.spatial.procrustes`, for widths that may differ.

    Raises:
        TvlensError: numbers of rows differ, a value is NaN, or all points are the same.

    Source: Gower 1975; Williams et al. 2021.
    """
    a, b = _center_both(x, y)
    overlap = torch.linalg.svdvals((a / a.norm()).T @ (b / b.norm())).sum()
    return float(1 - overlap**2)


def _normalize_rows(name: str, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    vectors = checks.as_float64(name, vectors)
    norms = vectors.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        i = int((norms == 0).nonzero()[0, 0])
        raise TvlensError(f"row {i} of {name} is zero: it has no direction")
    normalized: Tensor = vectors / norms
    return normalized


def _center_both(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n width"]]:
    checks.check_same_length("x", x, "y", y)
    return _center("x", x), _center("y", y)


def _center(name: str, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    values = checks.as_float64(name, values)
    centered = values - values.mean(0)
    if centered.norm() <= 1e-12 * values.norm():
        raise TvlensError(f"all {len(values)} rows of {name} are the same")
    return centered


def _gram_inner_product(a: Float[Tensor, "n d"], b: Float[Tensor, "n width"]) -> Tensor:
    """Compute the inner product of two Gram matrices, by the cheaper of two formulas."""
    if len(a) < min(a.shape[1], b.shape[1]):
        return ((a @ a.T) * (b @ b.T)).sum()
    return (a.T @ b).square().sum()


def _zero_diagonal(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return gram - gram.diagonal().diag_embed()


def _unbiased_hsic(k: Float[Tensor, "n n"], l: Float[Tensor, "n n"]) -> Tensor:
    """Compute unbiased HSIC, up to a factor, of Gram matrices with a zero diagonal."""
    n = len(k)
    product_of_sums = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (k * l).sum() + product_of_sums - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
