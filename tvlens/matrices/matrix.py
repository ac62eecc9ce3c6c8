"""`TaskMatrix`: an affine map from a base model's states to those of a finetuned model.

`TaskMatrices` are those of several layers, which `TaskMatrix.fit` returns.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..deprecation import warn_renamed
from ..errors import TvlensError, unknown
from ..models.hooks import replace_at, skip_blocks, with_hooks
from ..models.readouts import Readout, ReadoutName
from ..results import Result, construct
from ..saved import read_tensors, reading
from ..sites import Layers, Site
from .moments import PairMoments
from .reading import (
    LayerMoments,
    LayerStates,
    PairReader,
    ReadConfig,
    check_same_model,
    resolve_layers,
)
from .ridge import (
    Folds,
    PenaltyRule,
    RidgePath,
    check_penalty,
    check_rank,
    choose_penalty,
    fit_procrustes,
    output_axes,
)

if TYPE_CHECKING:
    import pandas

Method = Literal["ridge", "lstsq", "procrustes"]
METHODS = get_args(Method)


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
class TaskMatrix(Result):
    """An affine map of row vectors: state of the base model -> state of the finetuned model.

    Attributes:
        weight: W, in float64.
        bias: b; zero if the map was fitted without one.
        ridge: the penalty it was fitted with; 0 for least squares and Procrustes.
        rank: the rank it was reduced to; None for a full map.
        center: mean of the base states, at which truncation leaves the prediction unchanged.
        factor: explained finetuned states along each axis of the base states, from which the best
            maps of lower rank follow; None for Procrustes.
        layer: block of the base model whose output it reads, if it was fitted on models.
        target: block of the finetuned model whose output it predicts.
        meta: how it was fitted, as JSON: method, rule of the penalty, number of pairs, predicted
            R^2, models and their fingerprints.

    Example:
        >>> import torch
        >>> x = torch.randn(200, 8)
        >>> matrix = tv.TaskMatrix.from_states(x, 2 * x + 1)
        >>> matrix.predict(x).shape, matrix.truncate(3).rank
        (torch.Size([200, 8]), 3)
    """

    weight: Float[Tensor, "d_base d_tuned"]
    bias: Float[Tensor, " d_tuned"]
    ridge: float = 0.0
    rank: int | None = None
    center: Float[Tensor, " d_base"] | None = None
    factor: Float[Tensor, "r d_tuned"] | None = None
    layer: int | None = None
    target: int | None = None
    meta: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        d_base, d_tuned = self.weight.shape
        layer = "" if self.layer is None else f"layer {self.layer}, "
        rank = "" if self.rank is None else f", rank {self.rank}"
        method = self.meta.get("method", "given")
        return f"TaskMatrix({layer}{d_base} to {d_tuned}, {method}, penalty {self.ridge:.3g}{rank})"

    @classmethod
    def fit(
        cls,
        base: Any,
        tuned: Any,
        batches: Iterable[Any],
        *,
        layers: Layers = "all",
        targets: Layers | Literal["last"] = "last",
        ridge: PenaltyRule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Method = "ridge",
        ridges: Iterable[float] | None = None,
        readout: ReadoutName | Readout = "first",
        folds: int = 5,
        shard: int | None = None,
        progress: bool | None = None,
    ) -> "TaskMatrices":
        """Fit a matrix from one or every base layer to the last (or every) finetuned layer.

        Args:
            base, tuned: models that `load` returns, with the same tokenizer or image size.
            batches: batches of texts, token lists or images; several passes (`shard`) need an
                iterable that can be iterated again.
            layers: "all", one base layer or several.
            targets: "last", "all", one finetuned layer or several.
            ridge, bias, rank, method, ridges: as in `FitConfig`; ridge="loo" holds the readout
                states of the shard in memory.
            readout: what represents an input: its "first", "mean" or "last" position, or any
                function of (states, lengths).
            folds: number of folds for ridge="kfold"; the examples are dealt to them in turn.
            shard: number of base layers whose moments are in memory at once; a pass over the
                batches for each shard. All by default. Memory is
                8 (d^2 + targets x d x d_tuned) bytes per layer.
            progress: whether to show a progress bar; by default on a terminal.

        Returns:
            One matrix per base layer and target: `matrices[3]` is that of base layer 3.

        Raises:
            TvlensError: models of different tokenizers or image sizes, unknown layer, rule or
                method, NaN states, or fewer than 2 examples.
        """
        config = FitConfig(ridge, bias, rank, method, ridges)
        read = ReadConfig(layers, targets, readout, progress)
        return fit_models(base, {"": tuned}, batches, config, read, folds=folds, shard=shard)[""]

    @classmethod
    def from_moments(
        cls,
        moments: PairMoments | Sequence[PairMoments],
        *,
        ridge: PenaltyRule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Method = "ridge",
        ridges: Iterable[float] | None = None,
    ) -> "TaskMatrix":
        """The best map for these pairs, from their moments alone.

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
        cls,
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
    ) -> "TaskMatrix":
        """The best map from states x to states y of the same inputs.

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
        cls,
        path: RidgePath,
        config: FitConfig | None = None,
        *,
        fold_errors: Callable[[Float[Tensor, " k"]], Float[Tensor, " k"]] | None = None,
        pairs: Iterable[tuple[Tensor, Tensor]] | None = None,
    ) -> "TaskMatrix":
        """One map of a decomposition, which may serve many targets.

        Args:
            fold_errors, pairs: as in `choose_penalty`, for "kfold" and "loo".
        """
        config = config or FitConfig()
        moments = path.moments
        meta: dict[str, Any] = {"method": config.method, "bias": path.bias, "count": moments.count}
        if config.method == "procrustes":
            weight, penalty, factor = fit_procrustes(moments), 0.0, None
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
        """Width of the states it reads."""
        return self.weight.shape[0]

    @property
    def d_tuned(self) -> int:
        """Width of the states it predicts."""
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
        return torch.linalg.svdvals(self.weight)

    def explained_by_rank(self) -> Float[Tensor, " d_tuned"]:
        """Explained sum of squares of the best map of each rank, as a share of the full map's."""
        squares = self.axes[0].cumsum(0)
        return squares / squares[-1]

    def truncate(self, rank: int) -> "TaskMatrix":
        """The best map of this rank for the same pairs and penalty: W U_r U_r'.

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

    @contextlib.contextmanager
    def applied(
        self, model: Any, *, layer: int | None = None, other_model: bool = False
    ) -> Iterator[None]:
        """Within the `with` block, the model's last states are predicted after block `layer`.

        The states after that block are mapped by the matrix and become the last block's output;
        the blocks between do not run. Every position is mapped: a readout is a position or a mean
        of positions, and an affine map commutes with both. Final norm and head are the model's.

        Args:
            layer: the block whose output is mapped; by default, and at most, the one that the
                matrix was fitted at.
            other_model: allow weights other than those that it was fitted on.

        Raises:
            TvlensError: another layer, model or width than it was fitted for.
        """
        layer = self._resolve_layer(model, layer)
        if not other_model:
            check_same_model(model, self.meta.get("base"))

        def map_states(activation: Tensor) -> Tensor:
            weight, bias = self.weight.to(activation.device), self.bias.to(activation.device)
            return (activation.double() @ weight + bias).to(activation.dtype)

        blocks = model.cfg.n_layers
        hook_name = Site("resid_post", blocks - 1).hook(model)
        with (
            skip_blocks(model, range(layer + 1, blocks)),
            with_hooks(model, [replace_at(hook_name, map_states)]),
        ):
            yield

    def attach(self, model: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
        """Deprecated name of `applied`."""
        warn_renamed("TaskMatrix.attach", "TaskMatrix.applied")
        return self.applied(model, **options)

    @cached_property
    def axes(self) -> tuple[Float[Tensor, " d_tuned"], Float[Tensor, "d_tuned d_tuned"]]:
        """Explained squares along the output directions, and these directions as columns.

        Both in descending order: the first r span the best map of rank r.
        """
        # Without the data's own metric every direction of the base states counts the same.
        return output_axes(self.weight if self.factor is None else self.factor)

    def _resolve_layer(self, model: Any, layer: int | None) -> int:
        layer = self.layer if layer is None else layer
        if layer is None:
            raise TvlensError("this matrix has no layer of its own: use applied(model, layer=...)")
        layer = Site("resid_post", layer).on(model).layer
        if self.layer is not None and layer != self.layer:
            raise TvlensError(f"the matrix was fitted at layer {self.layer}, not at layer {layer}")
        width = model.cfg.d_model
        if self.weight.shape != (width, width):
            raise TvlensError(
                f"the matrix maps {self.d_base} to {self.d_tuned} dimensions; the states of this "
                f"model have {width}"
            )
        return layer


@dataclass(frozen=True)
class TaskMatrices(Result, Mapping):
    """One matrix per base layer, or per pair of a base layer and a finetuned layer.

    `matrices[7]` is that of base layer 7 (to the last of the targets), `matrices[7, 3]` that to
    finetuned layer 3.

    Attributes:
        matrices: each with its `layer` and `target`.
    """

    matrices: tuple[TaskMatrix, ...]

    def __repr__(self) -> str:
        return f"TaskMatrices(layers {list(self)}, targets {self.targets})"

    def __getitem__(self, key: int | tuple[int, int]) -> TaskMatrix:
        layer, target = key if isinstance(key, tuple) else (key, self.targets[-1])
        for matrix in self.matrices:
            if (matrix.layer, matrix.target) == (layer, target):
                return matrix
        raise KeyError(key)

    def __iter__(self) -> Iterator[int]:
        return iter(dict.fromkeys(matrix.layer for matrix in self.matrices))

    def __len__(self) -> int:
        return len(set(self))

    @property
    def targets(self) -> list[int]:
        """Finetuned layers that the matrices predict."""
        return sorted({matrix.target for matrix in self.matrices})

    @contextlib.contextmanager
    def applied(
        self, model: Any, *, layer: int | None = None, other_model: bool = False
    ) -> Iterator[None]:
        """Predict the model's last states after this layer; see `TaskMatrix.applied`.

        Args:
            layer: may be left out if there is only one.

        Raises:
            TvlensError: no matrix of this layer, or it does not fit the model.
        """
        if layer is None and len(self) > 1:
            raise TvlensError(f"which layer: there are matrices of layers {list(self)}")
        number = next(iter(self)) if layer is None else Site("resid_post", layer).on(model).layer
        if number not in self:
            raise TvlensError(f"no matrix of layer {number}; there are layers {list(self)}")
        with self[number].applied(model, other_model=other_model):
            yield

    def attach(self, model: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
        """Deprecated name of `applied`."""
        warn_renamed("TaskMatrices.attach", "TaskMatrices.applied")
        return self.applied(model, **options)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per matrix: layers, penalty, rank, number of pairs, predicted R^2."""
        import pandas as pd

        rows = [
            {
                "layer": m.layer,
                "target": m.target,
                "penalty": m.ridge,
                "rank": m.rank,
                "n": m.meta.get("count"),
                "predicted_r2": m.meta.get("predicted_r2"),
            }
            for m in self.matrices
        ]
        return pd.DataFrame(rows)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TaskMatrices":
        """Read what `save` wrote, or an earlier version.

        Raises:
            TvlensError: no such file, it is damaged, or it holds no task matrices.
        """
        tensors, plain = read_tensors(path, kind="tvlens.TaskMatrices", what="task matrices")
        with reading(path, "task matrices"):
            fields = plain["matrices"] if isinstance(plain, dict) else plain
            # tvlens 0.1 named the tensors of the first matrix "0.weight" and "0.bias".
            prefix = "matrices."
            names = {n: n if n.startswith(prefix) else prefix + n for n in tensors}
            renamed = {names[n]: tensor for n, tensor in tensors.items()}
            return construct(cls, renamed, {"matrices": fields})


def fit_models(
    base: Any,
    tuned: Mapping[str, Any],
    batches: Iterable[Any],
    config: FitConfig | None = None,
    read: ReadConfig | None = None,
    *,
    folds: int = 5,
    shard: int | None = None,
) -> dict[str, TaskMatrices]:
    """Fit the matrices of several finetuned models, which share the runs of the base model.

    Args:
        base, batches, folds, shard: as in `TaskMatrix.fit`.
        tuned: finetuned models by name, all of the same shape.
        config: how the matrices are fitted.
        read: which states are paired.

    Raises:
        TvlensError: as `TaskMatrix.fit`.
    """
    config, read = config or FitConfig(), read or ReadConfig()
    shards = _split_shards(resolve_layers(base, read.layers), shard)
    if len(shards) > 1 and iter(batches) is batches:
        raise TvlensError("a pass for each shard needs batches that can be iterated again")
    matrices: dict[str, list[TaskMatrix]] = {name: [] for name in tuned}
    for layers in shards:
        reader = PairReader(base, tuned, replace(read, layers=layers))
        states: Iterable[LayerStates] = reader.read(batches)
        if config.ridge == "loo":
            states = list(states)
        moments = reader.sum_moments(states, folds=folds if config.ridge == "kfold" else 1)
        for name in tuned:
            rows = reader.target_rows(name)
            pairs = [(x, y[rows]) for x, y in states] if config.ridge == "loo" else None
            matrices[name] += _fit_layers(moments[name], config, pairs)
    return {name: TaskMatrices(tuple(entries)) for name, entries in matrices.items()}


def _fit_layers(
    moments: LayerMoments, config: FitConfig, states: Sequence[LayerStates] | None
) -> Iterator[TaskMatrix]:
    """Every base layer with every target; a decomposition per base layer serves all targets."""
    for i, layer in enumerate(moments.layers):
        folds = Folds(moments.parts(layer), config.bias)
        path = RidgePath.from_moments(folds.whole, bias=config.bias)
        for j, target in enumerate(moments.targets):
            matrix = TaskMatrix.from_path(
                path.for_target(j),
                config,
                fold_errors=functools.partial(folds.errors, tuned=j),
                pairs=states and [(x[i], y[j]) for x, y in states],
            )
            meta = matrix.meta | moments.meta
            yield replace(matrix, layer=layer, target=target, meta=meta)


def _split_shards(layers: Sequence[int], size: int | None) -> list[Sequence[int]]:
    size = len(layers) if size is None else size
    if size < 1:
        raise TvlensError(f"a shard of {size} layers: it must hold at least 1")
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def _check_constant_features(moments: PairMoments) -> None:
    """Least squares does not determine the weight of a feature that never varies."""
    scatter = moments.xx.diagonal()
    squares = scatter + moments.count * moments.mean_x.square()
    constant = (scatter <= 1e-24 * squares).nonzero().flatten().tolist()
    if constant:
        names = ", ".join(map(str, constant[:8])) + (" ..." if len(constant) > 8 else "")
        raise TvlensError(
            f"{len(constant)} of {len(scatter)} base features are constant ({names}): least "
            "squares is not determined there; use a ridge penalty, which gives them weight 0"
        )
