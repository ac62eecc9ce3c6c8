"""Ridge regression between two spaces of states, for every penalty by one eigendecomposition.

`RidgePath` holds the decomposition, `Folds` cross-validates it, `choose_penalty` applies a rule to
both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from .moments import PairMoments, gram

PenaltyRule = Literal["gcv", "loo", "kfold"]
PENALTY_RULES = get_args(PenaltyRule)

# Penalties to choose from, in units of the mean eigenvalue of X'X.
GRID = tuple(10 ** (k / 4) for k in range(-40, 17))
# Whole decades, where scoring a penalty costs a pass over the states.
COARSE_GRID = GRID[8::4]


@dataclass(frozen=True)
class RidgePath:
    """The ridge solutions W(r) = (X'X + r)^-1 X'Y for every penalty r >= 0.

    With X'X = V S V' and C = V'X'Y, W(r) = V (S + r)^-1 C. At r = 0 it is the least-squares
    solution of minimal norm. A constant feature does not contribute to X'X and has weight 0.

    Attributes:
        moments: moments of the pairs; about the origin if the map has no bias.
        bias: whether the map has a bias, which is not penalized.
        values: eigenvalues of X'X above rounding error, ascending.
        vectors: their eigenvectors.
    """

    moments: PairMoments
    bias: bool
    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "d_base r"]

    @classmethod
    def from_moments(cls, moments: PairMoments, *, bias: bool = True) -> "RidgePath":
        """Decompose the moments of one base layer.

        Raises:
            TvlensError: fewer than 2 pairs, several base layers, or base states that are all the
                same.
        """
        if moments.count < 2:
            raise TvlensError(f"a linear map needs at least 2 pairs, not {moments.count}")
        if moments.mean_x.ndim > 1:
            raise TvlensError("these moments stack several base layers: take one with pair(base=)")
        squares = moments.xx.diagonal() + moments.count * moments.mean_x.square()
        moments = moments if bias else moments.uncentered()
        if float(moments.xx.diagonal().max()) <= 1e-24 * float(squares.max()):
            raise TvlensError(f"all {moments.count} base states are the same: nothing to map from")
        values, vectors = torch.linalg.eigh(moments.xx)
        # Eigenvalues below the rounding error of the largest one are no directions of the data.
        size = max(moments.count, len(values))
        is_kept = values > size * torch.finfo(values.dtype).eps * values[-1]
        # Centering uses one pair, and n pairs span at most n directions.
        is_kept[: max(0, len(values) - (moments.count - bias))] = False
        return cls(moments, bias, values[is_kept], vectors[:, is_kept])

    def for_target(self, index: int) -> "RidgePath":
        """Select one of several stacked finetuned layers; the decomposition stays the same."""
        return RidgePath(self.moments.pair(tuned=index), self.bias, self.values, self.vectors)

    @cached_property
    def cross(self) -> Float[Tensor, "r d_tuned"]:
        """C = V'X'Y."""
        if self.moments.mean_y.ndim > 1:
            raise TvlensError("these moments stack several targets: take one with for_target")
        return self.vectors.T @ self.moments.xy

    def grid(self, units: Sequence[float] = GRID) -> Float[Tensor, " k"]:
        """Convert penalties from units of the mean eigenvalue of X'X, over all dimensions."""
        mean = self.values.sum() / len(self.vectors)
        return torch.tensor(units, dtype=torch.float64, device=mean.device) * mean

    def weight(self, ridge: float) -> Float[Tensor, "d_base d_tuned"]:
        """Compute W at one penalty."""
        return self.vectors @ (self.cross / (self.values + ridge)[:, None])

    def intercept(self, weight: Float[Tensor, "d_base d_tuned"]) -> Float[Tensor, " d_tuned"]:
        """Compute the bias of a weight, which maps mean to mean."""
        return self.moments.mean_y - self.moments.mean_x @ weight

    def factor(self, ridge: float) -> Float[Tensor, "r d_tuned"]:
        """Compute (S + r)^-1/2 C, whose top right singular vectors span the best low-rank map."""
        return self.cross / (self.values + ridge).sqrt()[:, None]

    def squared_errors(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Compute the sum of squared residuals over pairs and dimensions at each penalty."""
        # A sum of nonnegative terms: tr Y'Y minus the fitted part would cancel.
        added = self._cross_squares * ridges[:, None] ** 2
        added = added / (self.values * (self.values + ridges[:, None]) ** 2)
        return self._least_squares_error + added.sum(1)

    def residual_freedom(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Compute the residual degrees of freedom at each penalty: n - df."""
        lost = (ridges[:, None] / (self.values + ridges[:, None])).sum(1)
        return self._least_squares_freedom + lost

    def gcv(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Compute the generalized cross-validation score n SSE / (n - df)^2 at each penalty.

        It estimates the squared error per pair from the moments alone.

        Source: Golub, Heath and Wahba 1979, equation 1.4.
        """
        freedom = self.residual_freedom(ridges)
        score = self.moments.count * self.squared_errors(ridges) / freedom.square()
        # Without a penalty, n pairs in n dimensions leave no residual.
        return torch.where(freedom > 1e-12 * self.moments.count, score, torch.inf)

    def predicted_r2(self, ridge: float) -> float | None:
        """Estimate R^2 on new pairs by generalized cross-validation.

        Below 0 if the map does worse than the mean; None if it interpolates its pairs, or the
        finetuned states do not vary.
        """
        score = float(self.gcv(torch.tensor([ridge]).to(self.values))[0])
        moments = self.moments
        freedom = moments.count - self.bias
        mean_score = moments.count * float(moments.yy.trace()) / freedom**2
        return 1 - score / mean_score if mean_score and score < float("inf") else None

    def leave_one_out(
        self,
        x: Float[Tensor, "n d_base"],
        y: Float[Tensor, "n d_tuned"],
        ridges: Float[Tensor, " k"],
    ) -> Float[Tensor, " k"]:
        """Compute the exact leave-one-out error: each pair predicted from all others.

        Args:
            x, y: all pairs of the moments or some of them; sums over parts add up.

        Source: Allen 1974 (PRESS): e_i / (1 - h_i).
        """
        z = (x.to(self.vectors) - self.moments.mean_x) @ self.vectors
        y = y.to(self.vectors) - self.moments.mean_y
        squares, errors = z.square(), []
        for ridge in ridges:
            shrinkage = 1 / (self.values + ridge)
            leverage = self.bias / self.moments.count + squares @ shrinkage
            residual = (y - (z * shrinkage) @ self.cross).square().sum(1)
            errors.append((residual / (1 - leverage).square()).sum())
        return torch.stack(errors)

    def project_scatter(self, moments: PairMoments) -> Float[Tensor, "r r"]:
        """Compute V'X'XV of other pairs about the mean of these.

        It is all that held-out errors need of the base states, for any target.
        """
        moments = moments if self.bias else moments.uncentered()
        shift = self._project_shift(moments)
        scatter = self.vectors.T @ moments.xx @ self.vectors
        return scatter.addr_(shift, shift, alpha=moments.count)

    def held_out_errors(
        self, moments: PairMoments, ridges: Float[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        """Compute the sum of squared errors on other pairs at each penalty, from their moments."""
        scatter = self.project_scatter(moments)
        moments = moments if self.bias else moments.uncentered()
        held_out = _HeldOut(
            moments,
            self.vectors.T @ moments.xy,
            moments.mean_y - self.moments.mean_y,
            scatter,
        )
        return self._errors_on(held_out, self.cross, ridges)

    def fold_errors(
        self,
        total: PairMoments,
        fold: PairMoments,
        ridges: Float[Tensor, " k"],
        *,
        scatter: Float[Tensor, "r r"],
    ) -> Float[Tensor, " k"]:
        """Compute `held_out_errors` of a fold that this decomposition leaves out.

        Args:
            whole: moments of all pairs, for any target; about the origin without a bias.
            fold: moments of the fold, likewise.
            scatter: `project_scatter` of the fold.
        """
        fold_cross, shift = self.vectors.T @ fold.xy, fold.mean_y - total.mean_y
        count = total.count - fold.count
        # C of the rest is the difference, corrected for the shift of the means.
        cross = (self.vectors.T @ total.xy).sub_(fold_cross)
        base_shift = (fold.mean_x - total.mean_x) @ self.vectors
        cross.addr_(base_shift, shift, alpha=-total.count * fold.count / count)
        held_out = _HeldOut(fold, fold_cross, total.count / count * shift, scatter)
        return self._errors_on(held_out, cross, ridges)

    def _errors_on(
        self, held_out: "_HeldOut", cross: Float[Tensor, "r d_tuned"], ridges: Float[Tensor, " k"]
    ) -> Float[Tensor, " k"]:
        """Evaluate a quadratic in 1 / (S + r), with common coefficients for all penalties."""
        moments, shift = held_out.moments, held_out.shift
        shrinkage = 1 / (self.values + ridges[:, None])
        linear = einsum(held_out.cross, cross, "direction d_tuned, direction d_tuned -> direction")
        linear += moments.count * self._project_shift(moments) * (cross @ shift)
        square = gram(cross.T).mul_(held_out.scatter)
        constant = moments.yy.trace() + moments.count * shift @ shift
        return constant - 2 * shrinkage @ linear + ((shrinkage @ square) * shrinkage).sum(1)

    def _project_shift(self, moments: PairMoments) -> Float[Tensor, " r"]:
        """Difference of the means of other base states and of these, in the eigenbasis."""
        return (moments.mean_x - self.moments.mean_x) @ self.vectors

    @property
    def _least_squares_freedom(self) -> int:
        """Residual degrees of freedom without a penalty."""
        return self.moments.count - self.bias - len(self.values)

    @cached_property
    def _cross_squares(self) -> Float[Tensor, " r"]:
        """Squared norms of the rows of C."""
        return self.cross.square().sum(1)

    @cached_property
    def _least_squares_error(self) -> Float[Tensor, ""]:
        """Squared residuals of least squares; exactly 0 if it interpolates."""
        rest = self.moments.yy.trace() - (self._cross_squares / self.values).sum()
        return rest.clamp_min(0) * (self._least_squares_freedom > 0)


@dataclass(frozen=True)
class _HeldOut:
    """Pairs that a map was not fitted to, in the eigenbasis of those that it was fitted to.

    Attributes:
        moments: their moments.
        cross: their V'X'Y.
        shift: difference of the means of the finetuned states.
        scatter: their V'X'XV, as `RidgePath.project_scatter` returns it.
    """

    moments: PairMoments
    cross: Float[Tensor, "r d_tuned"]
    shift: Float[Tensor, " d_tuned"]
    scatter: Float[Tensor, "r r"]


@dataclass(frozen=True)
class Folds:
    """Folds of the pairs of one base layer; their decompositions serve all targets.

    Attributes:
        parts: moments of each fold; targets can be stacked.
        bias: whether the maps have a bias.
    """

    parts: Sequence[PairMoments]
    bias: bool = True

    @cached_property
    def whole(self) -> PairMoments:
        """Moments of all folds together.

        Raises:
            TvlensError: there are no folds.
        """
        if not self.parts:
            raise TvlensError("no moments to fit a matrix to")
        return PairMoments.total(self.parts)

    def errors(
        self, ridges: Float[Tensor, " k"], *, tuned: int | None = None
    ) -> Float[Tensor, " k"]:
        """Compute the squared error of each fold under the map fitted to all others, by penalty.

        Args:
            tuned: index of the target if several are stacked.

        Raises:
            TvlensError: fewer than two folds with pairs in them, or several targets and no index.
        """
        total, *folds = (part.pair(tuned=tuned) for part in (self.whole, *self._folds))
        if total.mean_y.ndim > 1:
            raise TvlensError("these moments stack several targets: take one with pair(tuned=)")
        if not self.bias:
            total, *folds = (part.uncentered() for part in (total, *folds))
        parts = zip(folds, self._paths, self._scatters, strict=True)
        costs = [path.fold_errors(total, fold, ridges, scatter=s) for fold, path, s in parts]
        return sum(costs[1:], start=costs[0])

    @cached_property
    def _folds(self) -> list[PairMoments]:
        folds = [part for part in self.parts if part.count]
        if len(folds) < 2:
            raise TvlensError(
                f"ridge='kfold' needs the moments of at least 2 folds, not {len(folds)}: give "
                "them as a list, or use TaskMatrix.from_states or .fit with folds="
            )
        return folds

    @cached_property
    def _paths(self) -> list[RidgePath]:
        """Decompositions without each fold, which do not depend on the target."""
        any_target = 0 if self.whole.mean_y.ndim > 1 else None
        total, *folds = (part.pair(tuned=any_target) for part in (self.whole, *self._folds))
        return [RidgePath.from_moments(total - fold, bias=self.bias) for fold in folds]

    @cached_property
    def _scatters(self) -> list[Float[Tensor, "r r"]]:
        """Scatter of the base states of each fold, in the eigenbasis of the others."""
        return [path.project_scatter(f) for path, f in zip(self._paths, self._folds, strict=True)]


def check_penalty(ridge: PenaltyRule | float | None) -> None:
    """Raise TvlensError unless this is a penalty, a rule that chooses one, or None."""
    if isinstance(ridge, str):
        if ridge not in PENALTY_RULES:
            raise unknown("rule for the ridge penalty", ridge, PENALTY_RULES)
    elif ridge is not None and not 0 <= ridge < float("inf"):
        raise TvlensError(f"the ridge penalty must be 0 or more and finite, not {ridge}")


def choose_penalty(
    path: RidgePath,
    ridge: PenaltyRule | float | None,
    *,
    ridges: Iterable[float] | None = None,
    fold_errors: Callable[[Float[Tensor, " k"]], Float[Tensor, " k"]] | None = None,
    pairs: Iterable[tuple[Float[Tensor, "n d_base"], Float[Tensor, "n d_tuned"]]] | None = None,
) -> float:
    """Choose the penalty by a rule; a number is returned unchanged.

    Args:
        ridge: a number; None for least squares; "gcv", "loo" (exact leave-one-out, which needs
            the states again) or "kfold".
        ridges: penalties to choose from; by default a grid in units of the mean eigenvalue.
        fold_errors: errors of held-out folds at given penalties, for "kfold" (`Folds.errors`).
        pairs: the states, for "loo".

    Raises:
        TvlensError: unknown rule, negative penalty, or missing folds or pairs.
    """
    check_penalty(ridge)
    if not isinstance(ridge, str):
        return float(ridge or 0.0)
    if ridge == "gcv":
        candidates = path.grid() if ridges is None else _candidates(path, ridges)
        scores = path.gcv(candidates)
    elif ridge == "loo":
        if pairs is None:
            raise TvlensError(
                "leave-one-out needs the states again: use TaskMatrix.from_states or .fit, or "
                "ridge='gcv', which needs the moments only"
            )
        candidates = _candidates(path, ridges)
        scores = sum(path.leave_one_out(x, y, candidates) for x, y in pairs)
    else:
        candidates = _candidates(path, ridges)
        if fold_errors is None:
            raise TvlensError("ridge='kfold' needs folds: give their moments, or use another rule")
        scores = fold_errors(candidates)
    # The largest of equally good penalties: it is the more conservative map.
    best = (scores <= scores.min() * (1 + 1e-9)).nonzero().max()
    return float(candidates[best])


def _candidates(path: RidgePath, ridges: Iterable[float] | None) -> Float[Tensor, " k"]:
    if ridges is None:
        return path.grid(COARSE_GRID)
    candidates = sorted(map(float, ridges))
    for ridge in candidates:
        check_penalty(ridge)
    if not candidates:
        raise TvlensError("no penalties to choose from")
    return torch.tensor(candidates, dtype=torch.float64).to(path.values)
