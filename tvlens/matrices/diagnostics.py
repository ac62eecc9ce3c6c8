"""What moments and weights tell about twins: R^2, CKA, maps over layers, distances."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..saved import Saved
from .folds import Folds
from .gathering import LayerMoments
from .matrix import TaskMatrix
from .moments import PairMoments
from .penalty import Rule, penalty
from .ridge import Ridge
from .solve import predicted_r2

if TYPE_CHECKING:
    import pandas


def cka(moments: PairMoments) -> float:
    """Linear centred kernel alignment of the two sides, from 0 to 1.

    Raises:
        TvlensError: one side does not vary.

    Source: Kornblith et al. 2019, equation 5, on the side of the features.
    """
    own = moments.xx.norm() * moments.yy.norm()
    if not own:
        raise TvlensError("one side's states are all the same: no CKA")
    return float(moments.xy.square().sum() / own)


def squared_errors(moments: PairMoments, matrix: TaskMatrix) -> Float[Tensor, " d_tuned"]:
    """Sum of squared errors of a matrix on the pairs of these moments, by dimension."""
    w = matrix.weight.to(moments.xx.device)
    shift = moments.mean_y - moments.mean_x @ w - matrix.bias.to(w.device)
    fitted = (w * (moments.xx @ w)).sum(0) - 2 * (w * moments.xy).sum(0)
    return (moments.yy.diagonal() + fitted + moments.count * shift.square()).clamp_min(0)


def r2_by_dimension(moments: PairMoments, matrix: TaskMatrix) -> Float[Tensor, " d_tuned"]:
    """R^2 of a matrix for every tuned dimension, on the pairs it was fitted to or on others.

    A dimension that does not vary has 1 where it is predicted exactly and 0 otherwise, as in
    scikit-learn.
    """
    errors, spread = squared_errors(moments, matrix), moments.yy.diagonal()
    size = spread + moments.count * moments.mean_y.square()
    still = spread <= 1e-24 * size
    exact = (errors <= 1e-20 * size).to(spread)
    return torch.where(still, exact, 1 - errors / torch.where(still, 1.0, spread))


def r2(moments: PairMoments, matrix: TaskMatrix) -> float:
    """R^2 of a matrix over all dimensions together; below 0 where the mean does better.

    Raises:
        TvlensError: the tuned states do not vary.
    """
    spread = float(moments.yy.trace())
    if not spread:
        raise TvlensError("the tuned states are all the same: no R^2")
    return 1 - float(squared_errors(moments, matrix).sum()) / spread


@dataclass(frozen=True)
class LayerMap(Saved):
    """How well each tuned layer follows from each base layer.

    Attributes:
        layers: base layers, the rows.
        targets: tuned layers, the columns.
        r2: R^2 of the best ridge map; on held-out pairs, or as cross-validation expects it.
        cka: linear CKA of the pairs the maps were fitted to.
        settings: what made it.
    """

    layers: tuple[int, ...]
    targets: tuple[int, ...]
    r2: Float[Tensor, "base tuned"]
    cka: Float[Tensor, "base tuned"]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        best = float(self.r2.max())
        return f"LayerMap({len(self.layers)} x {len(self.targets)} layers, best R^2 {best:.3f})"

    def _repr_html_(self) -> str:
        from .show import map_figure

        return map_figure(self)._repr_html_()

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per pair of layers: layer, target, r2, cka."""
        import pandas as pd

        pairs = pd.MultiIndex.from_product([self.layers, self.targets], names=["layer", "target"])
        columns = {"r2": self.r2.flatten().tolist(), "cka": self.cka.flatten().tolist()}
        return pd.DataFrame(columns, index=pairs).reset_index()


def layer_map(
    moments: LayerMoments | Iterable[LayerMoments],
    *,
    held_out: LayerMoments | None = None,
    ridge: Rule | float | None = "gcv",
    bias: bool = True,
) -> LayerMap:
    """R^2 and CKA of every base layer with every tuned layer.

    Args:
        moments: from `gather(..., targets="all")`; or one after the other for shards of base
            layers, as a generator, so that only one shard is held.
        held_out: moments of other examples, on which R^2 is taken; by default it is what
            generalised cross-validation expects.
        ridge: "gcv", "kfold" or a number.

    Cost: one eigendecomposition per base layer.

    Raises:
        TvlensError: no moments, or tuned states that do not vary.
    """
    shards = [moments] if isinstance(moments, LayerMoments) else moments
    rows, layers, targets = [], [], ()
    for shard in shards:
        targets = shard.targets
        for layer in shard.layers:
            layers.append(layer)
            rows.append(_row(shard, layer, held_out, ridge, bias))
    if not rows:
        raise TvlensError("no moments to map")
    values = torch.tensor(rows, dtype=torch.float64)
    settings = {"ridge": ridge, "bias": bias, "r2": "held out" if held_out else "expected (GCV)"}
    return LayerMap(tuple(layers), targets, values[..., 0], values[..., 1], settings)


def _row(
    shard: LayerMoments,
    layer: int,
    held_out: LayerMoments | None,
    ridge: Rule | float | None,
    bias: bool,
) -> list[tuple[float, float]]:
    folds, found = Folds(shard.parts(layer), bias), []
    solution = Ridge.of(folds.whole, bias=bias)
    for j, target in enumerate(shard.targets):
        here = solution.to(j)
        chosen = penalty(here, ridge, folds=functools.partial(folds.errors, tuned=j))
        if held_out is None:
            score = predicted_r2(here, chosen)
        else:
            other = held_out.pair(layer, target)
            errors = here.held_out(other, torch.tensor([chosen]).to(here.values))
            score = 1 - float(errors[0]) / float(other.yy.trace())
        if score is None:
            raise TvlensError(
                f"no R^2 from base layer {layer} to tuned layer {target}: the map interpolates, "
                "or the states do not vary"
            )
        found.append((score, cka(folds.whole.pair(tuned=j))))
    return found


def distance_from_identity(matrix: TaskMatrix) -> float:
    """||W - I|| / ||I|| (Frobenius): 0 for a map that changes nothing.

    Raises:
        TvlensError: the two widths differ.
    """
    if matrix.d_base != matrix.d_tuned:
        raise TvlensError(f"no identity from {matrix.d_base} to {matrix.d_tuned} dimensions")
    eye = torch.eye(matrix.d_base).to(matrix.weight)
    return float((matrix.weight - eye).norm() / eye.norm())


@dataclass(frozen=True)
class WeightDistance(Saved):
    """The task vector of the weights, tuned - base, by its length.

    Attributes:
        norm: Euclidean length over all shared parameters.
        relative: the same as a share of the base weights' length.
        by_layer: length in every block.
        relative_by_layer: the same as a share of the block's own length.
        left_out: parameters that only one model has, or of different shapes (such as heads).
    """

    norm: float
    relative: float
    by_layer: Float[Tensor, " layer"]
    relative_by_layer: Float[Tensor, " layer"]
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WeightDistance({self.norm:.4g}, {self.relative:.2%} of the base weights)"

    def _repr_html_(self) -> str:
        from .show import distance_figure

        return distance_figure(self)._repr_html_()

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per block: layer, norm, relative."""
        import pandas as pd

        columns = {"norm": self.by_layer, "relative": self.relative_by_layer}
        rows = {name: values.tolist() for name, values in columns.items()}
        return pd.DataFrame({"layer": range(len(self.by_layer)), **rows})


def weight_distance(base: Any, tuned: Any) -> WeightDistance:
    """How far finetuning moved the weights.

    Raises:
        TvlensError: the models share no parameter.

    Source: Ilharco et al. 2023 (the task vector of weights).
    """
    moved, own, left_out = _squares(_trunk(base), _trunk(tuned))
    if not moved:
        raise TvlensError("the two models have no parameter in common")
    blocks = [_squares(a, b)[:2] for a, b in zip(base.blocks, tuned.blocks, strict=False)]
    by_layer = torch.tensor([[sum(m), sum(o)] for m, o in blocks], dtype=torch.float64).sqrt()
    return WeightDistance(
        norm=sum(moved) ** 0.5,
        relative=(sum(moved) / sum(own)) ** 0.5,
        by_layer=by_layer[:, 0],
        relative_by_layer=by_layer[:, 0] / by_layer[:, 1],
        left_out=tuple(left_out),
    )


def _trunk(model: Any) -> Any:
    """The model without its head, as Hugging Face names it: heads call their trunks differently."""
    source = getattr(model, "original_model", model)
    return getattr(source, "base_model", source)


def _squares(base: Any, tuned: Any) -> tuple[list[float], list[float], list[str]]:
    """Squared lengths of what moved and of the base, over shared parameters; names of the rest."""
    a, b = ({n: p.detach() for n, p in m.named_parameters()} for m in (base, tuned))
    shared = [name for name in a if name in b and a[name].shape == b[name].shape]
    moved = [float((b[n].double() - a[n].double()).square().sum()) for n in shared]
    own = [float(a[n].double().square().sum()) for n in shared]
    return moved, own, [name for name in {**a, **b} if name not in shared]
