"""How near two subspaces are, against random ones: in many dimensions those are far apart too."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from . import checks

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Orthogonality(Result):
    """The angles between two subspaces, and the smallest angle between random ones.

    Attributes:
        angles: principal angles in radians, ascending.
        null: smallest angles between pairs of random subspaces of the same ranks, in radians.
        dim: dimensions of the space around them.
        ranks: dimensions of the two subspaces.
        seed: of the random subspaces.
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
        """How often random subspaces are at least as NEAR as these: small if they overlap.

        One-sided, (1 + number of null angles <= smallest_angle) / (1 + number of draws).
        """
        return self._tail(self.null <= self.smallest_angle)

    @property
    def p_value_far(self) -> float:
        """How often random subspaces are at least as FAR apart: small if these avoid each other.

        Near-orthogonality that chance explains gives a middling value here, not a small one.
        """
        return self._tail(self.null >= self.smallest_angle)

    @property
    def effect_size(self) -> float:
        """Distance of the smallest angle from the mean of the null, in its standard deviations.

        Negative if the subspaces are closer than random ones.
        """
        null = self.null.double()
        return float((self.smallest_angle - null.mean()) / null.std())

    def __repr__(self) -> str:
        return (
            f"Orthogonality(ranks {self.ranks[0]} and {self.ranks[1]} of {self.dim}: smallest "
            f"angle {self.smallest_angle:.3f}, by chance {float(self.null.mean()):.3f}; "
            f"p near {self.p_value:.3g}, far {self.p_value_far:.3g})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per principal angle, with the null of the smallest in the first."""
        import pandas as pd

        frame = pd.DataFrame({"angle": self.angles.tolist()})
        first = {"null_mean": float(self.null.mean()), "null_std": float(self.null.std())}
        first |= {"effect_size": self.effect_size, "p_value": self.p_value}
        for name, value in (first | {"p_value_far": self.p_value_far}).items():
            frame.loc[0, name] = value
        return frame

    def _tail(self, hits: Tensor) -> float:
        return (1 + int(hits.sum())) / (1 + len(hits))


def principal_angles(a: Float[Tensor, "d r"], b: Float[Tensor, "d s"]) -> Float[Tensor, " angle"]:
    """Principal angles between the spans of two bases, in radians, ascending.

    From sines and cosines together, so that angles near 0 and near pi / 2 are exact alike; scipy's
    `subspace_angles` loses half the digits of a small angle beside a large one.
    """
    wide, narrow = sorted((_orthonormal(a), _orthonormal(b)), key=lambda q: -q.shape[1])
    inside = wide.T @ narrow
    cosines = torch.linalg.svdvals(inside)
    sines = torch.linalg.svdvals(narrow - wide @ inside).flip(0)
    return torch.atan2(sines, cosines).to(checks.kept_dtype(a, b))


def _orthonormal(basis: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
    """Columns orthonormal to float64, whatever they were rounded to."""
    return torch.linalg.qr(basis.double().cpu()).Q


def orthogonality(
    a: Float[Tensor, "d r"], b: Float[Tensor, "d s"], *, null: int, seed: int
) -> Orthogonality:
    """Measure two bases against random subspaces of their ranks."""
    dim, ranks = len(a), (a.shape[1], b.shape[1])
    if null < 2:
        raise TvlensError(f"null is {null}: draw at least two random pairs")
    if sum(ranks) > dim:
        raise TvlensError(
            f"subspaces of ranks {ranks[0]} and {ranks[1]} in {dim} dimensions always share a "
            "direction: their smallest angle is 0 and says nothing"
        )
    drawn = torch.from_numpy(smallest_angles(dim, *ranks, draws=null, seed=seed))
    angles = principal_angles(a, b)
    return Orthogonality(angles, drawn.to(angles.dtype), dim, ranks, seed)


def smallest_angles(d: int, r: int, s: int, *, draws: int, seed: int) -> np.ndarray:
    """Smallest principal angles between `draws` pairs of random subspaces of R^d, in radians.

    Turned so that the wider one lies along the first axes, the narrower is the span of a Gaussian
    matrix whose rows split into G1, inside the wider one, and G2, outside; the cotangents of the
    angles are the singular values of G1 G2^-1, and only the triangular factors of G1 and G2
    matter. Those are drawn directly (Bartlett), so that the cost does not depend on d.

    Args:
        d: r + s at least.

    Source: Absil, Edelman and Koev 2006; Muirhead 1982, theorem 3.2.14.
    """
    rng = np.random.default_rng(seed)
    wide, narrow = max(r, s), min(r, s)
    inside = _triangles(rng, draws, wide, narrow)
    outside = _triangles(rng, draws, d - wide, narrow)
    # inside @ outside^-1 by solving the transposed system.
    cotangents = np.linalg.solve(outside.transpose(0, 2, 1), inside.transpose(0, 2, 1))
    return np.arctan2(1, np.linalg.norm(cotangents, ord=2, axis=(1, 2)))


def _triangles(rng: np.random.Generator, draws: int, rows: int, columns: int) -> np.ndarray:
    """Upper triangular QR factors of Gaussian matrices [rows columns], rows >= columns."""
    upper = np.triu(rng.standard_normal((draws, columns, columns)), 1)
    diagonal = np.sqrt(rng.chisquare(rows - np.arange(columns), (draws, columns)))
    return upper + diagonal[:, :, None] * np.eye(columns)
