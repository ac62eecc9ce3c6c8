"""`AffineMap`: the best affine map between two spaces of states, from pairs of states.

It is fitted by ridge regression, least squares or Procrustes, and reduced to a rank.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from .moments import PairMoments
from .ridge import Folds, PenaltyRule, RidgePath, check_penalty, choose_penalty

Method = Literal["ridge", "lstsq", "procrustes"]
METHODS = get_args(Method)

Map = TypeVar("Map", bound="AffineMap")


@dataclass(frozen=True)
class FitConfig:
    """How a task matrix is fitted.

    Attributes:
        ridge: penalty on the squared weights; "gcv" chooses it by generalized cross-validation,
            "loo" by exact leave-one-out, "kfold" by cross-validation over folds; None for least
            squares (of minimal norm if samples are fewer than dimensions).
        bias: fit a bias too, which is not penalized.
        rank: reduce the map to this rank.
        method: "ridge"; "lstsq", least squares whatever `ridge` is (the paper's own fit with
            bias=False); or "procrustes", a rotation and a scale.
        ridges: penalties to choose from, in scikit-learn's units (`Ridge`'s alpha); by default a
            grid in units of the mean eigenvalue.

    Raises:
        TvlensError: unknown rule or method, or a negative penalty.
    """

    ridge: PenaltyRule | float | None = "gcv"
    bias: bool = True
    rank: int | None = None
    method: Method = "ridge"
    ridges: Iterable[float] | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        check_penalty(self.ridge)
        if self.ridges is not None:
            object.__setattr__(self, "ridges", tuple(self.ridges))


@dataclass(frozen=True)
class AffineMap:
    """An affine map of row vectors, fitted to pairs of states.

    Attributes:
        weight: W, in float64.
        bias: b; zero if the map was fitted without one.
        ridge: the penalty it was fitted with; 0 for least squares and Procrustes.
        rank: the rank it was reduced to; None for a full map.
        center: mean of the base states, at which truncation leaves the prediction unchanged.
        factor: explained finetuned states along each axis of the base states, from which the best
            maps of lower rank follow; None for Procrustes.
        meta: settings of the fit, as JSON: method, rule of the penalty, number of pairs, predicted
            R^2.
    """

    weight: Float[Tensor, "d_base d_tuned"]
    bias: Float[Tensor, " d_tuned"]
    ridge: float = 0.0
    rank: int | None = None
    center: Float[Tensor, " d_base"] | None = None
    factor: Float[Tensor, "r d_tuned"] | None = None
    meta: dict = field(default_factory=dict)

    @classmethod
    def from_moments(
        cls: type[Map],
        moments: PairMoments | Sequence[PairMoments],
        *,
        ridge: PenaltyRule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Method = "ridge",
        ridges: Iterable[float] | None = None,
    ) -> Map:
        """Fit the best map for these pairs, from their moments alone.

        Args:
            moments: moments of one base layer and one target. Several are summed: the folds of one
                task, or several tasks that share one matrix.
            ridge, bias, rank, method, ridges: as in `FitConfig`; "kfold" uses the given folds.

        Raises:
            TvlensError: fewer than 2 pairs, unknown rule or method, an impossible rank, base
                states that are all the same, or least squares with constant features.
        """
        config = FitConfig(ridge, bias, rank, method, ridges)
        folds = Folds([moments] if isinstance(moments, PairMoments) else list(moments), bias)
        path = RidgePath.from_moments(folds.whole, bias=bias)
        return cls.from_path(path, config, fold_errors=folds.errors)

    @classmethod
    def from_states(
        cls: type[Map],
        x: Float[Tensor, "n d_base"],
        y: Float[Tensor, "rows d_tuned"],
        *,
        ridge: PenaltyRule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Method = "ridge",
        ridges: Iterable[float] | None = None,
        folds: int = 5,
        seed: int = 0,
    ) -> Map:
        """Fit the best map from states x to states y of the same inputs.

        Args:
            x, y: base and finetuned states, one row per input.
            ridge, bias, rank, method, ridges: as in `FitConfig`.
            folds: number of random folds for ridge="kfold".
            seed: seed of the folds.

        Raises:
            TvlensError: as `from_moments`, and different numbers of rows or NaN.
        """
        config = FitConfig(ridge, bias, rank, method, ridges)
        whole = PairMoments().update(x, y)
        if ridge != "kfold":
            path = RidgePath.from_moments(whole, bias=bias)
            return cls.from_path(path, config, pairs=[(x, y)])
        order = np.random.default_rng(seed).permutation(len(x))
        rows = [torch.from_numpy(p) for p in np.array_split(order, min(folds, len(x)))]
        parts = Folds([PairMoments().update(x[p], y[p]) for p in rows], bias)
        path = RidgePath.from_moments(parts.whole, bias=bias)
        return cls.from_path(path, config, fold_errors=parts.errors)

    @classmethod
    def from_path(
        cls: type[Map],
        path: RidgePath,
        config: FitConfig | None = None,
        *,
        fold_errors: Callable[[Float[Tensor, " k"]], Float[Tensor, " k"]] | None = None,
        pairs: Iterable[tuple[Tensor, Tensor]] | None = None,
    ) -> Map:
        """Fit a map to a decomposition, which may serve many targets.

        Args:
            fold_errors, pairs: as in `choose_penalty`, for "kfold" and "loo".
        """
        config = config or FitConfig()
        moments = path.moments
        meta: dict[str, Any] = {"method": config.method, "bias": path.bias, "count": moments.count}
        if config.method == "procrustes":
            weight, penalty, factor = _fit_procrustes(moments), 0.0, None
        else:
            rule = config.ridge if config.method == "ridge" else None
            if not rule:
                _check_constant_features(moments)
            penalty = choose_penalty(
                path, rule, ridges=config.ridges, fold_errors=fold_errors, pairs=pairs
            )
            weight, factor = path.weight(penalty), path.factor(penalty)
            meta |= {"ridge": rule, "predicted_r2": path.predicted_r2(penalty)}
        bias, center = path.intercept(weight), moments.mean_x.clone()
        matrix = cls(weight, bias, penalty, center=center, factor=factor, meta=meta)
        return matrix if config.rank is None else matrix.truncate(config.rank)

    @property
    def d_base(self) -> int:
        """Width of the base states."""
        return self.weight.shape[0]

    @property
    def d_tuned(self) -> int:
        """Width of the finetuned states."""
        return self.weight.shape[1]

    def predict(self, states: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_tuned"]:
        """Compute states @ W + b in float64; returns the dtype of the states.

        Raises:
            TvlensError: states of another width.
        """
        if states.shape[-1] != self.d_base:
            raise TvlensError(f"the states have width {states.shape[-1]}, not {self.d_base}")
        mapped = states.double() @ self.weight.to(states.device) + self.bias.to(states.device)
        return mapped.to(states.dtype)

    def spectrum(self) -> Float[Tensor, " rank"]:
        """Singular values of W, in descending order."""
        singular_values: Tensor = torch.linalg.svdvals(self.weight)
        return singular_values

    def explained_by_rank(self) -> Float[Tensor, " d_tuned"]:
        """Explained sum of squares of the best map of each rank, as a share of the full map's."""
        squares = self.axes[0].cumsum(0)
        return squares / squares[-1]

    def truncate(self: Map, rank: int) -> Map:
        """Compute the best map of this rank for the same pairs and penalty: W U_r U_r'.

        Raises:
            TvlensError: an impossible rank.
        """
        check_rank(rank, self.weight)
        axes = self.axes[1][:, :rank]
        weight = (self.weight @ axes) @ axes.T
        center = torch.zeros_like(self.weight[:, 0]) if self.center is None else self.center
        bias = self.bias + center @ (self.weight - weight)
        new_rank = rank if self.rank is None else min(rank, self.rank)
        return replace(self, weight=weight, bias=bias, rank=new_rank)

    @cached_property
    def axes(self) -> tuple[Float[Tensor, " d_tuned"], Float[Tensor, "d_tuned d_tuned"]]:
        """Explained squares along the output directions, and these directions as columns.

        Both in descending order: the first r span the best map of rank r.
        """
        # Without the data's own metric every direction of the base states counts the same.
        return output_axes(self.weight if self.factor is None else self.factor)


def output_axes(
    factor: Float[Tensor, "r d_tuned"],
) -> tuple[Float[Tensor, " d_tuned"], Float[Tensor, "d_tuned d_tuned"]]:
    """Compute the output directions of a map, as columns, and the squares explained along them.

    Both in descending order; the first r directions span the best map of rank r.

    Source: Izenman 1975; with a ridge penalty Mukherjee and Zhu 2011.
    """
    squares, axes = torch.linalg.eigh(factor.T @ factor)
    return squares.flip(0).clamp_min(0), axes.flip(1)


def check_rank(rank: int, weight: Float[Tensor, "d_base d_tuned"]) -> None:
    """Raise TvlensError unless the weight can have this rank."""
    if not 1 <= rank <= min(weight.shape):
        raise TvlensError(
            f"rank {rank} is not possible for a map from {weight.shape[0]} to {weight.shape[1]} "
            f"dimensions: choose 1 to {min(weight.shape)}"
        )


def _fit_procrustes(moments: PairMoments) -> Float[Tensor, "d_base d_tuned"]:
    """Fit orthogonal Procrustes: W = s R of least squared error, with R'R = I or RR' = I.

    Args:
        moments: moments of one pair of layers; about the origin for a map without a bias.

    Raises:
        TvlensError: base states that are all the same.

    Source: Schoenemann 1966; Gower 1975 (the scale s).
    """
    if not float(moments.xx.trace()):
        raise TvlensError(f"all {moments.count} base states are the same: nothing to rotate")
    u, singular_values, vt = torch.linalg.svd(moments.xy, full_matrices=False)
    rotation = u @ vt
    # If dimensions are lost, only the retained part counts.
    retained = float((rotation.T @ moments.xx @ rotation).trace())
    weight: Tensor = rotation * (singular_values.sum() / retained)
    return weight


def _check_constant_features(moments: PairMoments) -> None:
    """Raise TvlensError for constant features, whose weight least squares does not determine."""
    scatter = moments.xx.diagonal()
    squares = scatter + moments.count * moments.mean_x.square()
    constant = (scatter <= 1e-24 * squares).nonzero().flatten().tolist()
    if constant:
        names = ", ".join(map(str, constant[:8])) + (" ..." if len(constant) > 8 else "")
        raise TvlensError(
            f"{len(constant)} of {len(scatter)} base features are constant ({names}): least "
            "squares is not determined there; use a ridge penalty, which gives them weight 0"
        )
