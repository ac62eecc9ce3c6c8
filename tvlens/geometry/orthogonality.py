"""Principal angles between subspaces, compared with those between random subspaces."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from ..stats import effect_size, permutation_p_value
from . import checks

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Orthogonality(Result):
    """Principal angles between two subspaces, with a null of random subspaces.

    Attributes:
        angles: principal angles in radians, ascending.
        null: smallest angles between pairs of random subspaces of the same ranks, in radians.
        dim: dimension of the ambient space.
        ranks: dimensions of the two subspaces.
        seed: seed of the random subspaces.
    """

    angles: Float[Tensor, " angle"]
    null: Float[Tensor, " draw"]
    dim: int
    ranks: tuple[int, int]
    seed: int

    @property
    def smallest_angle(self) -> float:
        """In radians: 0 for subspaces that share a direction, pi / 2 for orthogonal ones."""
        return float(self.angles[0])

    @property
    def p_value(self) -> float:
        """One-sided p-value that random subspaces are at least as close; small if these overlap."""
        return permutation_p_value(self.null, self.smallest_angle, alternative="less")

    @property
    def p_value_far(self) -> float:
        """One-sided p-value that random subspaces are at least as far apart.

        Small only if these subspaces are farther apart than chance; near-orthogonality of random
        subspaces in high dimension is not small here.
        """
        return permutation_p_value(self.null, self.smallest_angle)

    @property
    def effect_size(self) -> float:
        """Distance of the smallest angle from the null's mean, in its standard deviations.

        Negative if the subspaces are closer than random ones.
        """
        return effect_size(self.null.double(), self.smallest_angle)

    def __repr__(self) -> str:
        return (
            f"Orthogonality(ranks {self.ranks[0]} and {self.ranks[1]} of {self.dim}: smallest "
            f"angle {self.smallest_angle:.3f}, by chance {float(self.null.mean()):.3f}; "
            f"p near {self.p_value:.3g}, far {self.p_value_far:.3g})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per principal angle; the first row also has the null of the smallest angle."""
        import pandas as pd

        frame = pd.DataFrame({"angle": self.angles.tolist()})
        first = {"null_mean": float(self.null.mean()), "null_std": float(self.null.std())}
        first |= {"effect_size": self.effect_size, "p_value": self.p_value}
        for name, value in (first | {"p_value_far": self.p_value_far}).items():
            frame.loc[0, name] = value
        return frame


def principal_angles(a: Float[Tensor, "d r"], b: Float[Tensor, "d s"]) -> Float[Tensor, " angle"]:
    """Compute principal angles between the spans of two bases, in radians, ascending.

    Sines and cosines are combined, so that angles near 0 and near pi / 2 are equally accurate;
    `scipy.linalg.subspace_angles` loses half the digits of a small angle next to a large one.
    """
    wide, narrow = sorted((_orthonormalize(a), _orthonormalize(b)), key=lambda q: -q.shape[1])
    inside = wide.T @ narrow
    cosines = torch.linalg.svdvals(inside)
    sines = torch.linalg.svdvals(narrow - wide @ inside).flip(0)
    return torch.atan2(sines, cosines).to(checks.result_dtype(a, b))


def _orthonormalize(basis: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
    """Orthonormalize the columns to float64 precision."""
    axes: Tensor = torch.linalg.qr(basis.double().cpu()).Q
    return axes


def compare_with_random(
    a: Float[Tensor, "d r"], b: Float[Tensor, "d s"], *, null: int, seed: int
) -> Orthogonality:
    """Compute angles between two bases and the null of random subspaces of the same ranks."""
    dim, ranks = len(a), (a.shape[1], b.shape[1])
    if null < 2:
        raise TvlensError(f"null is {null}: draw at least two random pairs")
    if sum(ranks) > dim:
        raise TvlensError(
            f"subspaces of ranks {ranks[0]} and {ranks[1]} in {dim} dimensions always share a "
            "direction: their smallest angle is always 0"
        )
    null_angles = torch.from_numpy(sample_smallest_angles(dim, *ranks, draws=null, seed=seed))
    angles = principal_angles(a, b)
    return Orthogonality(angles, null_angles.to(angles.dtype), dim, ranks, seed)


def sample_smallest_angles(d: int, r: int, s: int, *, draws: int, seed: int) -> np.ndarray:
    """Sample smallest principal angles between pairs of random subspaces of R^d, in radians.

    In coordinates in which the wider subspace spans the first axes, the narrower one is the span
    of a Gaussian matrix whose rows split into G1 (inside the wider one) and G2 (outside); the
    cotangents of the angles are the singular values of G1 G2^-1, which depend only on the
    triangular factors of G1 and G2. These are sampled directly (Bartlett decomposition), so that
    the cost does not depend on d.

    Args:
        d: r + s at least.

    Source: Absil, Edelman and Koev 2006; Muirhead 1982, theorem 3.2.14.
    """
    rng = np.random.default_rng(seed)
    wide, narrow = max(r, s), min(r, s)
    inside = _sample_triangular_factors(rng, draws, wide, narrow)
    outside = _sample_triangular_factors(rng, draws, d - wide, narrow)
    # inside @ outside^-1 by solving the transposed system.
    cotangents = np.linalg.solve(outside.transpose(0, 2, 1), inside.transpose(0, 2, 1))
    angles: np.ndarray = np.arctan2(1, np.linalg.norm(cotangents, ord=2, axis=(1, 2)))
    return angles


def _sample_triangular_factors(
    rng: np.random.Generator, draws: int, rows: int, columns: int
) -> np.ndarray:
    """Sample upper triangular QR factors of Gaussian matrices [rows columns], rows >= columns."""
    upper = np.triu(rng.standard_normal((draws, columns, columns)), 1)
    diagonal = np.sqrt(rng.chisquare(rows - np.arange(columns), (draws, columns)))
    return upper + diagonal[:, :, None] * np.eye(columns)
