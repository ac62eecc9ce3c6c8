"""How alike vectors and representations are: cosines, CKA, Procrustes, and tables of them."""

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
    """A measure between every two of several named sets of vectors.

    Attributes:
        names: of rows and columns.
        values: the measure.
        measure: its name.
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
    """Cosine between every two vectors.

    Raises:
        TvlensError: NaN, or a zero vector, which has no direction.
    """
    unit = _directions("vectors", vectors)
    return (unit @ unit.T).clamp(-1, 1).to(checks.kept_dtype(vectors))


def similarity_table(
    groups: Mapping[str, Float[Tensor, "n d"]],
    *,
    measure: Callable[[Tensor, Tensor], float] | None = None,
) -> SimilarityTable:
    """Compare every two of several sets of vectors whose rows belong together.

    Args:
        groups: name -> vectors; row i is the same input, task or layer in every group.
        measure: a symmetric function of two sets, such as `cosine`, `cka`, `debiased_cka` or
            `procrustes`; `cka` by default.

    Raises:
        TvlensError: fewer than two groups, or what the measure asks for is missing.
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
    return SimilarityTable(names, checks.exact("values", values), measure.__name__)


def cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> float:
    """Mean cosine between row i of one set and row i of the other, such as layer by layer."""
    checks.same_length("x", x, "y", y)
    checks.same_width("x", x, "y", y)
    return float((_directions("x", x) * _directions("y", y)).sum(1).mean())


def cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """Linear centred kernel alignment of two representations of the same inputs, 0 to 1.

    1 where they are equal up to rotation and scale. With few rows for their widths it is large
    for unrelated representations too: then read `debiased_cka`.

    Args:
        x, y: one row per input; widths may differ.

    Raises:
        TvlensError: different numbers of rows, NaN, or a representation that does not vary.

    Source: Kornblith et al. 2019, equation 5.
    """
    a, b = _centred(x, y)
    return float(_inner(a, b) / (_inner(a, a) * _inner(b, b)).sqrt())


def debiased_cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """Linear CKA with the unbiased estimator of its parts: near 0 for unrelated representations.

    It can be below 0, and is not clipped.

    Args:
        x, y: one row per input, at least 4; widths may differ.

    Raises:
        TvlensError: as `cka`, fewer than 4 rows, or so few that the estimate of a
            representation's own variation is not positive.

    Source: Song et al. 2012, equation 5 (the estimator); Nguyen, Raghu and Kornblith 2021.
    """
    a, b = _centred(x, y)
    if len(a) < 4:
        raise TvlensError(f"debiased CKA needs at least 4 rows, not {len(a)}")
    k, l = (_without_diagonal(z @ z.T) for z in (a, b))
    own = _unbiased(k, k) * _unbiased(l, l)
    if own <= 0:
        raise TvlensError(f"{len(a)} rows are too few: their own variation is estimated below 0")
    return float(_unbiased(k, l) / own.sqrt())


def procrustes(x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]) -> float:
    """What remains between two configurations of points after moving, scaling and rotating.

    From 0, the same shape, to 1: the disparity of `scipy.spatial.procrustes`, for widths that may
    differ.

    Raises:
        TvlensError: different numbers of rows, NaN, or points that are all the same.

    Source: Gower 1975; Williams et al. 2021.
    """
    a, b = _centred(x, y)
    overlap = torch.linalg.svdvals((a / a.norm()).T @ (b / b.norm())).sum()
    return float(1 - overlap**2)


def _directions(name: str, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    exact = checks.exact(name, vectors)
    lengths = exact.norm(dim=1, keepdim=True)
    if (lengths == 0).any():
        i = int((lengths == 0).nonzero()[0, 0])
        raise TvlensError(f"row {i} of {name} is zero: it has no direction")
    return exact / lengths


def _centred(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n width"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n width"]]:
    checks.same_length("x", x, "y", y)
    return _varying("x", x), _varying("y", y)


def _varying(name: str, values: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    exact = checks.exact(name, values)
    centred = exact - exact.mean(0)
    if centred.norm() <= 1e-12 * exact.norm():
        raise TvlensError(f"all {len(values)} rows of {name} are the same")
    return centred


def _inner(a: Float[Tensor, "n d"], b: Float[Tensor, "n width"]) -> Tensor:
    """Inner product of two Gram matrices, on the smaller side."""
    if len(a) < min(a.shape[1], b.shape[1]):
        return ((a @ a.T) * (b @ b.T)).sum()
    return (a.T @ b).square().sum()


def _without_diagonal(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    return gram - gram.diagonal().diag_embed()


def _unbiased(k: Float[Tensor, "n n"], l: Float[Tensor, "n n"]) -> Tensor:
    """Unbiased HSIC, up to a factor, of Gram matrices with a zero diagonal."""
    n = len(k)
    whole = k.sum() * l.sum() / ((n - 1) * (n - 2))
    return (k * l).sum() + whole - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
