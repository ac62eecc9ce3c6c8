"""`Ridge`: every ridge regression between two spaces of states, from one eigendecomposition."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .moments import PairMoments
from .rows import gram

# Penalties to choose from, in units of the mean eigenvalue of X'X.
GRID = tuple(10 ** (k / 4) for k in range(-40, 17))
# Scoring one costs a pass over the states there: only whole decades.
COARSE_GRID = GRID[8::4]


@dataclass(frozen=True)
class Ridge:
    """The solutions W(r) = (X'X + r)^-1 X'Y for every penalty r >= 0.

    With X'X = V S V' and C = V'X'Y, W(r) = V (S + r)^-1 C. At r = 0 it is the least-squares
    solution of least norm. A constant feature has no part in X'X, and gets weight 0.

    Attributes:
        moments: the pairs; about the origin where the map has no bias.
        bias: whether the map has one. It is not penalised.
        values: eigenvalues of X'X above rounding, ascending.
        vectors: their eigenvectors.
    """

    moments: PairMoments
    bias: bool
    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "d_base r"]

    @classmethod
    def of(cls, moments: PairMoments, *, bias: bool = True) -> "Ridge":
        """Decompose the moments of one base layer.

        Raises:
            TvlensError: fewer than 2 pairs, several base layers, or base states that are all the
                same.
        """
        if moments.count < 2:
            raise TvlensError(f"a linear map needs at least 2 pairs, not {moments.count}")
        if moments.mean_x.ndim > 1:
            raise TvlensError("these moments stack several base layers: take one with pair(base=)")
        size = moments.xx.diagonal() + moments.count * moments.mean_x.square()
        moments = moments if bias else moments.about_origin()
        if float(moments.xx.diagonal().max()) <= 1e-24 * float(size.max()):
            raise TvlensError(f"all {moments.count} base states are the same: nothing to map from")
        values, vectors = torch.linalg.eigh(moments.xx)
        # What lies below the rounding of the largest eigenvalue is no direction of the data.
        width = max(moments.count, len(values))
        kept = values > width * torch.finfo(values.dtype).eps * values[-1]
        # Centring spends one pair, and n pairs span no more than n directions.
        kept[: max(0, len(values) - (moments.count - bias))] = False
        return cls(moments, bias, values[kept], vectors[:, kept])

    def to(self, tuned: int) -> "Ridge":
        """The same decomposition, towards one of several stacked targets."""
        return Ridge(self.moments.pair(tuned=tuned), self.bias, self.values, self.vectors)

    @cached_property
    def cross(self) -> Float[Tensor, "r d_tuned"]:
        """C = V'X'Y."""
        if self.moments.mean_y.ndim > 1:
            raise TvlensError("these moments stack several targets: take one with to(tuned)")
        return self.vectors.T @ self.moments.xy

    def grid(self, units: Sequence[float] = GRID) -> Float[Tensor, " k"]:
        """Penalties in units of the mean eigenvalue of X'X, over all dimensions."""
        mean = self.values.sum() / len(self.vectors)
        return torch.tensor(units, dtype=torch.float64, device=mean.device) * mean

    def weight(self, ridge: float) -> Float[Tensor, "d_base d_tuned"]:
        """W at one penalty."""
        return self.vectors @ (self.cross / (self.values + ridge)[:, None])

    def intercept(self, weight: Float[Tensor, "d_base d_tuned"]) -> Float[Tensor, " d_tuned"]:
        """The bias that goes with a weight: it maps mean to mean."""
        return self.moments.mean_y - self.moments.mean_x @ weight

    def factor(self, ridge: float) -> Float[Tensor, "r d_tuned"]:
        """(S + r)^-1/2 C, whose top right singular vectors span the best map of reduced rank."""
        return self.cross / (self.values + ridge).sqrt()[:, None]

    def errors(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Sum of squared residuals over pairs and dimensions at each penalty."""
        # As a sum of what cannot be negative: tr Y'Y less the fitted part would cancel.
        added = self._size * ridges[:, None] ** 2
        added = added / (self.values * (self.values + ridges[:, None]) ** 2)
        return self._unreachable + added.sum(1)

    def freedom(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Degrees of freedom left to the residuals at each penalty: n - df."""
        lost = (ridges[:, None] / (self.values + ridges[:, None])).sum(1)
        return self._spare + lost

    def gcv(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Generalised cross-validation, n SSE / (n - df)^2: squared error per pair, no second pass.

        Source: Golub, Heath and Wahba 1979, equation 1.4.
        """
        freedom = self.freedom(ridges)
        score = self.moments.count * self.errors(ridges) / freedom.square()
        # Without a penalty, n pairs in n dimensions leave no residual to judge by.
        return torch.where(freedom > 1e-12 * self.moments.count, score, torch.inf)

    def leave_one_out(
        self,
        x: Float[Tensor, "n d_base"],
        y: Float[Tensor, "n d_tuned"],
        ridges: Float[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        """Sum of squared errors of these pairs, each predicted from all others, exactly.

        Args:
            x, y: all the pairs of the moments or some of them; sums over parts add up.

        Source: Allen 1974 (PRESS): e_i / (1 - h_i).
        """
        z = (x.to(self.vectors) - self.moments.mean_x) @ self.vectors
        y = y.to(self.vectors) - self.moments.mean_y
        squares, found = z.square(), []
        for ridge in ridges:
            shrunk = 1 / (self.values + ridge)
            leverage = self.bias / self.moments.count + squares @ shrunk
            left = (y - (z * shrunk) @ self.cross).square().sum(1) / (1 - leverage).square()
            found.append(left.sum())
        return torch.stack(found)

    def spread(self, moments: PairMoments) -> Float[Tensor, "r r"]:
        """V'X'XV of other pairs, centered on the mean of these.

        It is all that `held_out` needs of their base states, for any target.
        """
        moments = moments if self.bias else moments.about_origin()
        moved = self._moved(moments)
        turned = self.vectors.T @ moments.xx @ self.vectors
        return turned.addr_(moved, moved, alpha=moments.count)

    def held_out(self, moments: PairMoments, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Sum of squared errors on other pairs at each penalty, from their moments alone.

        A quadratic in 1 / (S + r), whose coefficients are computed once for all penalties.
        """
        spread = self.spread(moments)
        moments = moments if self.bias else moments.about_origin()
        theirs, shift = self.vectors.T @ moments.xy, moments.mean_y - self.moments.mean_y
        return self._missed(moments, self.cross, theirs, shift, spread, ridges)

    def left_out(
        self,
        whole: PairMoments,
        held: PairMoments,
        ridges: Float[Tensor, " k"],
        *,
        spread: Float[Tensor, "r r"],
    ) -> Float[Tensor, " k"]:
        """What `held_out` says of a fold, where this decomposition is of the whole without it.

        Args:
            whole: moments of all pairs, towards any target; about the origin without a bias.
            held: the same of the fold.
            spread: what the method of this name gives for the fold.
        """
        theirs, shift = self.vectors.T @ held.xy, held.mean_y - whole.mean_y
        left = whole.count - held.count
        # C of what is left is the difference, with the shift of the means.
        cross = (self.vectors.T @ whole.xy).sub_(theirs)
        between = (held.mean_x - whole.mean_x) @ self.vectors
        cross.addr_(between, shift, alpha=-whole.count * held.count / left)
        return self._missed(held, cross, theirs, whole.count / left * shift, spread, ridges)

    def _missed(
        self,
        held: PairMoments,
        cross: Float[Tensor, "r d_tuned"],
        theirs: Float[Tensor, "r d_tuned"],
        shift: Float[Tensor, " d_tuned"],
        spread: Float[Tensor, "r r"],
        ridges: Float[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        """Squared errors on other pairs: their own C, the shift of their means, their spread."""
        shrunk = 1 / (self.values + ridges[:, None])
        linear = einsum(theirs, cross, "direction d_tuned, direction d_tuned -> direction")
        linear += held.count * self._moved(held) * (cross @ shift)
        square = gram(cross.T).mul_(spread)
        constant = held.yy.trace() + held.count * shift @ shift
        return constant - 2 * shrunk @ linear + ((shrunk @ square) * shrunk).sum(1)

    def _moved(self, moments: PairMoments) -> Float[Tensor, " r"]:
        """How far the mean of other base states lies from that of these."""
        return (moments.mean_x - self.moments.mean_x) @ self.vectors

    @property
    def _spare(self) -> int:
        """Pairs that no direction and no bias can fit."""
        return self.moments.count - self.bias - len(self.values)

    @cached_property
    def _size(self) -> Float[Tensor, " r"]:
        """Squared lengths of the rows of C."""
        return self.cross.square().sum(1)

    @cached_property
    def _unreachable(self) -> Float[Tensor, ""]:
        """Squared residuals of least squares; exactly none where it interpolates."""
        rest = self.moments.yy.trace() - (self._size / self.values).sum()
        return rest.clamp_min(0) * (self._spare > 0)
