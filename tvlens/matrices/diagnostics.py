"""Diagnostics from moments and weights: R^2, CKA, layer maps, distances."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..results import Result
from .matrix import TaskMatrix
from .moments import PairMoments
from .reading import LayerMoments
from .ridge import Folds, PenaltyRule, RidgePath, choose_penalty

if TYPE_CHECKING:
    import pandas


def cka(moments: PairMoments) -> float:
    """Compute linear centered kernel alignment (CKA) of base and finetuned states, from 0 to 1.

    Raises:
        TvlensError: the states of one side do not vary.

    Source: Kornblith et al. 2019, equation 5, in the space of features.
    """
    norms = moments.xx.norm() * moments.yy.norm()
    if not norms:
        raise TvlensError("one side's states are all the same: no CKA")
    return float(moments.xy.square().sum() / norms)


def squared_errors(moments: PairMoments, matrix: TaskMatrix) -> Float[Tensor, " d_tuned"]:
    """Compute the sum of squared errors of a matrix on the pairs of these moments, by dimension."""
    w = matrix.weight.to(moments.xx.device)
    shift = moments.mean_y - moments.mean_x @ w - matrix.bias.to(w.device)
    fitted = (w * (moments.xx @ w)).sum(0) - 2 * (w * moments.xy).sum(0)
    return (moments.yy.diagonal() + fitted + moments.count * shift.square()).clamp_min(0)


def r2_by_dimension(moments: PairMoments, matrix: TaskMatrix) -> Float[Tensor, " d_tuned"]:
    """Compute R^2 of a matrix for every finetuned dimension, on the pairs of these moments.

    A dimension that does not vary has R^2 1 if it is predicted exactly and 0 otherwise, as in
    scikit-learn.
    """
    errors, scatter = squared_errors(moments, matrix), moments.yy.diagonal()
    squares = scatter + moments.count * moments.mean_y.square()
    is_constant = scatter <= 1e-24 * squares
    is_exact = (errors <= 1e-20 * squares).to(scatter)
    return torch.where(is_constant, is_exact, 1 - errors / torch.where(is_constant, 1.0, scatter))


def r2(moments: PairMoments, matrix: TaskMatrix) -> float:
    """Compute R^2 of a matrix over all dimensions; below 0 if the mean does better.

    Raises:
        TvlensError: the finetuned states do not vary.
    """
    scatter = float(moments.yy.trace())
    if not scatter:
        raise TvlensError("the finetuned states are all the same: no R^2")
    return 1 - float(squared_errors(moments, matrix).sum()) / scatter


@dataclass(frozen=True)
class LayerMap(Result):
    """R^2 and CKA of every finetuned layer, predicted from every base layer.

    Attributes:
        layers: base layers, the rows.
        targets: finetuned layers, the columns.
        r2: R^2 of the best ridge map, on held-out pairs or as cross-validation predicts it.
        cka: linear CKA of the pairs the maps were fitted to.
        settings: ridge, bias, and how R^2 was estimated.
    """

    layers: tuple[int, ...]
    targets: tuple[int, ...]
    r2: Float[Tensor, "base tuned"]
    cka: Float[Tensor, "base tuned"]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        best = float(self.r2.max())
        return f"LayerMap({len(self.layers)} x {len(self.targets)} layers, best R^2 {best:.3f})"

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
    ridge: PenaltyRule | float | None = "gcv",
    bias: bool = True,
) -> LayerMap:
    """Compute R^2 and CKA of every base layer with every finetuned layer.

    One eigendecomposition per base layer.

    Args:
        moments: from `collect_moments(..., targets="all")`; or a generator of those of shards of
            base layers, of which only one is in memory at a time.
        held_out: moments of other examples, on which R^2 is computed; by default it is
            predicted by generalized cross-validation.
        ridge: "gcv", "kfold" or a number.

    Raises:
        TvlensError: no moments, or finetuned states that do not vary.
    """
    shards = [moments] if isinstance(moments, LayerMoments) else moments
    rows, layers, targets = [], [], ()
    for shard in shards:
        targets = shard.targets
        for layer in shard.layers:
            layers.append(layer)
            rows.append(_map_layer(shard, layer, held_out, ridge, bias))
    if not rows:
        raise TvlensError("no moments to map")
    values = torch.tensor(rows, dtype=torch.float64)
    settings = {"ridge": ridge, "bias": bias, "r2": "held out" if held_out else "predicted (GCV)"}
    return LayerMap(tuple(layers), targets, values[..., 0], values[..., 1], settings)


def _map_layer(
    shard: LayerMoments,
    layer: int,
    held_out: LayerMoments | None,
    ridge: PenaltyRule | float | None,
    bias: bool,
) -> list[tuple[float, float]]:
    """Compute R^2 and CKA of one base layer with every target."""
    folds, row = Folds(shard.parts(layer), bias), []
    layer_path = RidgePath.from_moments(folds.whole, bias=bias)
    for j, target in enumerate(shard.targets):
        path = layer_path.for_target(j)
        penalty = choose_penalty(path, ridge, fold_errors=functools.partial(folds.errors, tuned=j))
        if held_out is None:
            score = path.predicted_r2(penalty)
        else:
            other = held_out.pair(layer, target)
            errors = path.held_out_errors(other, torch.tensor([penalty]).to(path.values))
            score = 1 - float(errors[0]) / float(other.yy.trace())
        if score is None:
            raise TvlensError(
                f"no R^2 from base layer {layer} to finetuned layer {target}: the map "
                "interpolates, or the states do not vary"
            )
        row.append((score, cka(folds.whole.pair(tuned=j))))
    return row


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
class WeightDistance(Result):
    """Norm of the weight-space task vector, finetuned - base.

    Attributes:
        norm: Euclidean norm over all shared parameters.
        relative: the same divided by the norm of the base weights.
        by_layer: norm in every block.
        relative_by_layer: the same divided by the norm of the block.
        left_out: parameters that only one model has, or of different shapes (such as heads).
    """

    norm: float
    relative: float
    by_layer: Float[Tensor, " layer"]
    relative_by_layer: Float[Tensor, " layer"]
    left_out: tuple[str, ...]

    def __repr__(self) -> str:
        return f"WeightDistance({self.norm:.4g}, {self.relative:.2%} of the base weights)"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per block: layer, norm, relative."""
        import pandas as pd

        columns = {"norm": self.by_layer, "relative": self.relative_by_layer}
        rows = {name: values.tolist() for name, values in columns.items()}
        return pd.DataFrame({"layer": range(len(self.by_layer)), **rows})


def weight_distance(base: Any, tuned: Any) -> WeightDistance:
    """Compute the distance between the weights of two models.

    Raises:
        TvlensError: the models share no parameter.

    Source: Ilharco et al. 2023 (task vectors of weights).
    """
    changes, norms, left_out = _square_norms(_get_trunk(base), _get_trunk(tuned))
    if not changes:
        raise TvlensError("the two models have no parameter in common")
    blocks = [_square_norms(a, b)[:2] for a, b in zip(base.blocks, tuned.blocks, strict=False)]
    by_layer = torch.tensor([[sum(c), sum(n)] for c, n in blocks], dtype=torch.float64).sqrt()
    return WeightDistance(
        norm=sum(changes) ** 0.5,
        relative=(sum(changes) / sum(norms)) ** 0.5,
        by_layer=by_layer[:, 0],
        relative_by_layer=by_layer[:, 0] / by_layer[:, 1],
        left_out=tuple(left_out),
    )


def _get_trunk(model: Any) -> Any:
    """Return the model without its head, whose parameters have the same names under any head."""
    source = getattr(model, "original_model", model)
    return getattr(source, "base_model", source)


def _square_norms(base: Any, tuned: Any) -> tuple[list[float], list[float], list[str]]:
    """Compute squared norms of changes and of the base by shared parameter; name the others."""
    a, b = ({n: p.detach() for n, p in m.named_parameters()} for m in (base, tuned))
    shared = [name for name in a if name in b and a[name].shape == b[name].shape]
    changes = [float((b[n].double() - a[n].double()).square().sum()) for n in shared]
    norms = [float(a[n].double().square().sum()) for n in shared]
    return changes, norms, [name for name in {**a, **b} if name not in shared]
