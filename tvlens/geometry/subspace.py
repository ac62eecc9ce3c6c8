"""`Subspace`: directions of activation space, and what of a point lies in them."""

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
from .axes import principal, spanned
from .orthogonality import Orthogonality, orthogonality, principal_angles
from .removal import Mode, removal


@dataclass(frozen=True)
class Subspace(Result):
    """A linear subspace of activation space, through the origin.

    Attributes:
        basis: orthonormal columns.
        center: mean of the points it was fitted to; only `pca` has one. It takes no part in
            projecting: it is what `ablated` puts in place of the removed part.
    """

    basis: Float[Tensor, "d r"]
    center: Float[Tensor, " d"] | None = None

    def __post_init__(self) -> None:
        basis = checks.exact("basis", self.basis)
        off = (basis.T @ basis - torch.eye(self.rank).to(basis)).abs().max()
        if off > 1e-3:
            raise TvlensError("the columns of basis are not orthonormal: use Subspace.span")
        if self.center is not None:
            checks.exact("center", self.center)
            checks.same_width("center", self.center, "the basis", self.basis.T)

    def __repr__(self) -> str:
        return f"Subspace(rank {self.rank} of {self.dim})"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return self.basis.shape[1]

    @property
    def dim(self) -> int:
        """Number of dimensions of the space around it."""
        return self.basis.shape[0]

    @property
    def share_null(self) -> float:
        """Share of a random direction that is expected inside: rank / dim."""
        return self.rank / self.dim

    @classmethod
    def span(cls, vectors: Float[Tensor, "n d"], *, tolerance: float | None = None) -> "Subspace":
        """Everything that vectors combine to; they may be linearly dependent.

        Args:
            tolerance: directions with a singular value below this share of the largest do not
                count; max(n, d) times the rounding unit of the vectors' dtype by default.

        Raises:
            TvlensError: NaN, or a vector that is zero or too short to count beside the others.
        """
        exact, dtype = checks.exact("vectors", vectors), checks.kept_dtype(vectors)
        if tolerance is None:
            tolerance = max(vectors.shape) * torch.finfo(dtype).eps
        return cls(spanned(exact, tolerance=tolerance).T.to(dtype))

    @classmethod
    def pca(
        cls,
        points: Float[Tensor, "n d"],
        *,
        rank: int | None = None,
        variance: float | None = None,
    ) -> "Subspace":
        """The directions in which points vary most about their mean, which is kept as `center`.

        Args:
            rank: how many directions, or
            variance: as many as hold this share of the variance, between 0 and 1.

        Raises:
            TvlensError: not exactly one of rank and variance, or points that vary in fewer
                directions than asked for.
        """
        if (rank is None) == (variance is None):
            raise TvlensError("give either rank or variance to Subspace.pca")
        exact, dtype = checks.exact("points", points), checks.kept_dtype(points)
        center = exact.mean(0)
        axes = principal(exact, eps=torch.finfo(dtype).eps, rank=rank, variance=variance)
        return cls(axes.T.to(dtype), center.to(dtype))

    @classmethod
    def random(cls, d: int, r: int, *, seed: int = 0) -> "Subspace":
        """A subspace drawn uniformly (Haar) from all those of rank r in d dimensions."""
        if not 1 <= r <= d:
            raise TvlensError(f"rank {r} is not possible in {d} dimensions")
        draw = np.random.default_rng(seed).standard_normal((d, r))
        return cls(torch.from_numpy(np.linalg.qr(draw).Q).float())

    def union(self, other: "Subspace") -> "Subspace":
        """The smallest subspace that holds both."""
        self._check_like(other)
        both = torch.cat([self.basis.T, other.basis.T.to(self.basis)])
        # What the less precise of the two rounded is no direction of its own.
        eps = max(torch.finfo(one.basis.dtype).eps for one in (self, other))
        return Subspace.span(both, tolerance=max(both.shape) * eps)

    def complement(self) -> "Subspace":
        """Everything orthogonal to this subspace.

        Raises:
            TvlensError: this is the whole space, to which nothing is orthogonal.
        """
        if self.rank == self.dim:
            raise TvlensError(f"this subspace is all of {self.dim} dimensions: nothing is left")
        whole = torch.linalg.qr(self.basis.double(), mode="complete").Q
        return Subspace(whole[:, self.rank :].to(self.basis))

    def project(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The part of each point inside, about the origin."""
        checks.same_width("points", points, "the subspace", self.basis.T)
        basis = self.basis.to(points.device, torch.float64)
        inside = checks.exact("points", points) @ basis @ basis.T
        return inside.to(checks.kept_dtype(points))

    def remove(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The part of each point outside: the point less its projection."""
        return points - self.project(points)

    def share(self, points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Share of each point's squared length inside, from 0 to 1; `share_null` is by chance.

        Raises:
            TvlensError: a point is zero.
        """
        length = self._squared(points)
        if (length == 0).any():
            raise TvlensError(f"point {(length == 0).nonzero()[0].tolist()} is zero: no share")
        return (self._squared(self.project(points.double())) / length).to(checks.kept_dtype(points))

    def explained(self, points: Float[Tensor, "n d"]) -> float:
        """Share of the variance of points about their own mean inside, from 0 to 1.

        Raises:
            TvlensError: all points are the same.
        """
        varied = checks.exact("points", points)
        varied = varied - varied.mean(0)
        total = float(self._squared(varied).sum())
        if total == 0:
            raise TvlensError(f"all {len(points)} points are the same: no variance to explain")
        return float(self._squared(self.project(varied)).sum()) / total

    def contains(
        self, points: Float[Tensor, "*n d"], *, tolerance: float = 1e-5
    ) -> Bool[Tensor, "*n"]:
        """Whether each point lies inside but for this share of its length."""
        outside = self._squared(self.remove(points.double()))
        return outside <= tolerance**2 * self._squared(points)

    def angles(self, other: "Subspace") -> Float[Tensor, " angle"]:
        """Principal angles in radians, ascending; as many as the smaller rank.

        Source: Knyazev and Argentati 2002 (accurate for small and large angles alike).
        """
        self._check_like(other)
        return principal_angles(self.basis, other.basis)

    def orthogonality(self, other: "Subspace", *, null: int = 1000, seed: int = 0) -> Orthogonality:
        """The smallest angle to another subspace, against that between random ones.

        Args:
            null: how many pairs of random subspaces of the same ranks to draw.

        Raises:
            TvlensError: the ranks sum to more than dim: any two such subspaces share a direction.
        """
        self._check_like(other)
        return orthogonality(self.basis, other.basis, null=null, seed=seed)

    @contextlib.contextmanager
    def ablated(self, model: Any, *, layer: Integer, **options: Any) -> Iterator[None]:
        """Remove this subspace from every forward pass inside the `with` block.

        Args:
            layer: where; negative layers count from the last.
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
        mean: Float[Tensor, " d"] | None = None,
        positions: Integers | None = None,
        seed: int = 0,
    ) -> Hook:
        """The (name, function) pair that `ablated` installs, for `model.run_with_hooks`.

        Args:
            site: a component of the model's width.
            mode: what replaces the part inside: "mean" that of `mean`, "zero" nothing,
                "resample" that of another row of the batch at the same position.
            mean: the mean activation at this site; `center` by default.
            positions: every position (default), one for all rows (negative: from the end of the
                tensor, right for prompts of one length), or one absolute position per row.
            seed: of the other row, for "resample".

        Raises:
            TvlensError: wrong width, layer, site or mode, or no mean for "mean".
        """
        mean = self.center if mean is None else mean
        return removal(
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
    def _squared(points: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        return points.double().square().sum(-1)

    def _check_like(self, other: "Subspace") -> None:
        checks.same_width("this subspace", self.basis.T, "the other", other.basis.T)
