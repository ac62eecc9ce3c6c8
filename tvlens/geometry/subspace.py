"""`Subspace`: a linear subspace of activation space."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integer, Integers
from ..models.hooks import Hook, with_hooks
from ..results import Result
from ..sites import SiteName
from . import checks
from .ablation import Mode, make_ablation_hook
from .orthogonality import Orthogonality, compare_with_random, principal_angles


@dataclass(frozen=True)
class Subspace(Result):
    """A linear subspace of activation space, through the origin.

    Attributes:
        basis: orthonormal columns.
        center: mean of the points that `pca` was fitted to, otherwise None. Projections ignore
            it; `ablated` uses it as the replacement of mode "mean".

    Example:
        >>> subspace = tv.Subspace.span(torch.eye(3)[:2])
        >>> subspace.angles(tv.Subspace.span(torch.eye(3)[1:]))
        tensor([0.0000, 1.5708])
    """

    basis: Float[Tensor, "d r"]
    center: Float[Tensor, " d"] | None = None

    def __post_init__(self) -> None:
        basis = checks.as_float64("basis", self.basis)
        deviation = (basis.T @ basis - torch.eye(self.rank).to(basis)).abs().max()
        if deviation > 1e-3:
            raise TvlensError("the columns of basis are not orthonormal: use Subspace.span")
        if self.center is not None:
            checks.as_float64("center", self.center)
            checks.check_same_width("center", self.center, "the basis", self.basis.T)

    def __repr__(self) -> str:
        return f"Subspace(rank {self.rank} of {self.dim})"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.basis.shape[1]

    @property
    def dim(self) -> int:
        """Number of dimensions of the ambient space."""
        return self.basis.shape[0]

    @property
    def share_null(self) -> float:
        """Expected share of a random direction inside: rank / dim."""
        return self.rank / self.dim

    @classmethod
    def span(cls, vectors: Float[Tensor, "n d"], *, tolerance: float | None = None) -> "Subspace":
        """Compute the span of vectors, which may be linearly dependent.

        Args:
            tolerance: singular values below this share of the largest are treated as 0; by default
                max(n, d) times the machine epsilon of the vectors' dtype.

        Raises:
            TvlensError: a vector contains NaN, or is zero or negligible next to the others.
        """
        dtype = checks.result_dtype(vectors)
        if tolerance is None:
            tolerance = max(vectors.shape) * torch.finfo(dtype).eps
        axes = _span_axes(checks.as_float64("vectors", vectors), tolerance=tolerance)
        return cls(axes.T.to(dtype))

    @classmethod
    def pca(
        cls,
        points: Float[Tensor, "n d"],
        *,
        rank: int | None = None,
        variance: float | None = None,
    ) -> "Subspace":
        """Compute the first principal components of points; stores their mean as `center`.

        Args:
            rank: number of components.
            variance: alternatively, the share of variance to explain, between 0 and 1.

        Raises:
            TvlensError: not exactly one of rank and variance is given, or the points vary in
                fewer directions than requested.
        """
        if (rank is None) == (variance is None):
            raise TvlensError("give either rank or variance to Subspace.pca")
        states, dtype = checks.as_float64("points", points), checks.result_dtype(points)
        center = states.mean(0)
        axes = _principal_axes(states, eps=torch.finfo(dtype).eps, rank=rank, variance=variance)
        return cls(axes.T.to(dtype), center.to(dtype))

    @classmethod
    def random(cls, d: int, r: int, *, seed: int = 0) -> "Subspace":
        """Draw a random subspace of rank r in d dimensions, uniform (Haar)."""
        if not 1 <= r <= d:
            raise TvlensError(f"rank {r} is not possible in {d} dimensions")
        gaussian = np.random.default_rng(seed).standard_normal((d, r))
        return cls(torch.from_numpy(np.linalg.qr(gaussian).Q).float())

    def union(self, other: "Subspace") -> "Subspace":
        """Compute the smallest subspace that contains both."""
        self._check_same_dim(other)
        both = torch.cat([self.basis.T, other.basis.T.to(self.basis)])
        # Rounding errors of the less precise basis must not count as a direction.
        eps = max(torch.finfo(subspace.basis.dtype).eps for subspace in (self, other))
        return Subspace.span(both, tolerance=max(both.shape) * eps)

    def complement(self) -> "Subspace":
        """Compute the orthogonal complement.

        Raises:
            TvlensError: this subspace is the whole space.
        """
        if self.rank == self.dim:
            raise TvlensError(
                f"this subspace spans all {self.dim} dimensions: its complement is empty"
            )
        full_basis = torch.linalg.qr(self.basis.double(), mode="complete").Q
        return Subspace(full_basis[:, self.rank :].to(self.basis))

    def project(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Project points onto the subspace."""
        checks.check_same_width("points", points, "the subspace", self.basis.T)
        basis = self.basis.to(points.device, torch.float64)
        inside = checks.as_float64("points", points) @ basis @ basis.T
        return inside.to(checks.result_dtype(points))

    def remove(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Project points onto the orthogonal complement: each point minus its projection."""
        return points - self.project(points)

    def share(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Share of each point's squared norm inside; `share_null` is expected by chance.

        Raises:
            TvlensError: a point is zero.
        """
        total = self._squared_norm(points)
        if (total == 0).any():
            raise TvlensError(
                f"point {(total == 0).nonzero()[0].tolist()} is zero: its share is undefined"
            )
        inside = self._squared_norm(self.project(points.double()))
        return (inside / total).to(checks.result_dtype(points))

    def explained_variance(self, points: Float[Tensor, "n d"]) -> float:
        """Share of the variance of points inside, from 0 to 1.

        Raises:
            TvlensError: all points are the same.
        """
        states = checks.as_float64("points", points)
        centered = states - states.mean(0)
        total = float(self._squared_norm(centered).sum())
        if total == 0:
            raise TvlensError(f"all {len(points)} points are the same: no variance to explain")
        return float(self._squared_norm(self.project(centered)).sum()) / total

    def contains(
        self, points: Float[Tensor, "*n d"], *, tolerance: float = 1e-5
    ) -> Bool[Tensor, "*n"]:
        """Whether each point lies inside, up to a share `tolerance` of its norm."""
        outside = self._squared_norm(self.remove(points.double()))
        return outside <= tolerance**2 * self._squared_norm(points)

    def angles(self, other: "Subspace") -> Float[Tensor, " angle"]:
        """Principal angles in radians, ascending; as many as the smaller rank.

        Source: Knyazev and Argentati 2002 (accurate for both small and large angles).
        """
        self._check_same_dim(other)
        return principal_angles(self.basis, other.basis)

    def orthogonality(self, other: "Subspace", *, null: int = 1000, seed: int = 0) -> Orthogonality:
        """Compare the smallest angle to another subspace with that between random subspaces.

        Args:
            null: number of pairs of random subspaces of the same ranks.
            seed: seed of the random subspaces.

        Raises:
            TvlensError: the ranks sum to more than dim, so that any two subspaces intersect.
        """
        self._check_same_dim(other)
        return compare_with_random(self.basis, other.basis, null=null, seed=seed)

    @contextlib.contextmanager
    def ablated(self, model: Any, *, layer: Integer, **options: Any) -> Iterator[None]:
        """Ablate this subspace in every forward pass inside the `with` block.

        Args:
            layer: the layer; negative layers count from the last.
            options: site, mode, mean, positions, seed, as for `hook`.

        Raises:
            TvlensError: as `hook` does, or the hook never fired.
        """
        with with_hooks(model, [self.hook(model, layer, **options)]):
            yield

    def hook(
        self,
        model: Any,
        layer: Integer,
        *,
        site: SiteName | str = "resid_post",
        mode: Mode = "mean",
        mean: Float[Tensor, "*pos d"] | None = None,
        positions: Integers | None = None,
        seed: int = 0,
    ) -> Hook:
        """The (name, function) pair that `ablated` installs, for `model.run_with_hooks`.

        Args:
            layer: the layer; negative layers count from the last.
            site: a component of width d_model.
            mode: replacement of the part inside: "mean" the part of ``mean``, "zero" zero,
                "resample" the part of another row of the batch at the same position.
            mean: mean activation at this site, or one for each row and position of the batch;
                `center` by default.
            positions: all positions (default), one for all rows (negative positions count from
                the end of the tensor), or one absolute position per row.
            seed: chooses the other row of "resample".

        Raises:
            TvlensError: wrong width, layer, site or mode, or no mean for mode "mean".
        """
        mean = self.center if mean is None else mean
        return make_ablation_hook(
            model,
            self.basis,
            layer,
            site=site,
            mode=mode,
            mean=mean,
            positions=positions,
            seed=seed,
        )

    @staticmethod
    def _squared_norm(points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        return points.double().square().sum(-1)

    def _check_same_dim(self, other: "Subspace") -> None:
        checks.check_same_width("this subspace", self.basis.T, "the other", other.basis.T)


def _span_axes(vectors: Float[Tensor, "n d"], *, tolerance: float) -> Float[Tensor, "r d"]:
    """Compute orthonormal axes of the span of vectors.

    Args:
        tolerance: singular values below this share of the largest are treated as 0.

    Raises:
        TvlensError: a vector is zero or negligible next to the others.
    """
    _, sizes, axes = torch.linalg.svd(vectors, full_matrices=False)
    norms = vectors.norm(dim=1)
    is_short = norms <= tolerance * sizes[0]
    if is_short.any():
        i = int(is_short.nonzero()[0])
        raise TvlensError(
            f"vector {i} is negligible beside the others (norm {float(norms[i]):.2g}, the largest "
            f"{float(norms.max()):.2g}): it adds no direction"
        )
    span: Tensor = axes[: int((sizes > tolerance * sizes[0]).sum())]
    return span


def _principal_axes(
    points: Float[Tensor, "n d"], *, eps: float, rank: int | None, variance: float | None
) -> Float[Tensor, "r d"]:
    """Compute the first principal axes of points: `rank` of them, or enough for `variance`.

    Args:
        eps: machine epsilon of the dtype of the points.

    Raises:
        TvlensError: the points vary in fewer directions than requested.
    """
    # The triangular factor has the same axes and at most d rows.
    triangular = torch.linalg.qr(points - points.mean(0), mode="r").R
    _, sizes, axes = torch.linalg.svd(triangular, full_matrices=False)
    # If the mean is large, rounding errors look like variation.
    tolerance = eps * torch.maximum(max(points.shape) * sizes[0], points.norm())
    n_varying = int((sizes > tolerance).sum())
    if rank is None:
        rank = _rank_for_variance(variance, sizes[:n_varying])
    if not 1 <= rank <= n_varying:
        raise TvlensError(
            f"rank {rank} is not possible: {len(points)} points vary in {n_varying} directions"
        )
    principal: Tensor = axes[:rank]
    return principal


def _rank_for_variance(variance: float, sizes: Float[Tensor, " r"]) -> int:
    """Return the number of leading directions that explain a share of the variance."""
    if not 0 < variance <= 1:
        raise TvlensError(f"variance is {variance}: it must lie between 0 and 1")
    explained = (sizes**2).cumsum(0)
    # The tolerance allows for rounding if variance is 1.
    return int((explained < variance * explained[-1:] * (1 - 1e-9)).sum()) + 1
