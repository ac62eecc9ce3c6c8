"""`TaskMatrix`: an affine map from a base model's states to those of a finetuned model.

`TaskMatrices` are those of several layers, which `TaskMatrix.fit` returns.
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..deprecation import warn_renamed
from ..errors import TvlensError
from ..models.hooks import replace_at, skip_blocks, with_hooks
from ..models.readouts import Readout, ReadoutName
from ..results import Result, construct
from ..saved import read_tensors, reading
from ..sites import Layers, Site
from .affine_map import AffineMap, FitConfig, Method
from .reading import (
    LayerMoments,
    LayerStates,
    PairReader,
    ReadConfig,
    check_same_model,
    resolve_layers,
)
from .ridge import Folds, PenaltyRule, RidgePath

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TaskMatrix(AffineMap, Result):
    """An affine map of row vectors: state of the base model -> state of the finetuned model.

    Attributes:
        layer: block of the base model whose output it reads, if it was fitted on models.
        target: block of the finetuned model whose output it predicts.
        meta: as in `AffineMap`, with the models and their fingerprints.

    Example:
        >>> import torch
        >>> x = torch.randn(200, 8)
        >>> matrix = tv.TaskMatrix.from_states(x, 2 * x + 1)
        >>> matrix.predict(x).shape, matrix.truncate(3).rank
        (torch.Size([200, 8]), 3)
    """

    layer: int | None = None
    target: int | None = None

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
            readout: state that represents an input: "first", "mean" or "last" position, or any
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
        read_config = ReadConfig(layers, targets, readout, progress)
        return fit_models(
            base, {"": tuned}, batches, config, read_config, folds=folds, shard=shard
        )[""]

    @contextlib.contextmanager
    def applied(
        self, model: Any, *, layer: int | None = None, other_model: bool = False
    ) -> Iterator[None]:
        """Predict the model's last states after block `layer` inside the `with` block.

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

        blocks = model.cfg.n_layers
        hook_name = Site("resid_post", blocks - 1).hook(model)
        with (
            skip_blocks(model, range(layer + 1, blocks)),
            with_hooks(model, [replace_at(hook_name, self.predict)]),
        ):
            yield

    def attach(self, model: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
        """Deprecated name of `applied`."""
        warn_renamed("TaskMatrix.attach", "TaskMatrix.applied")
        return self.applied(model, **options)

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
            raise TvlensError(f"give layer=: there are matrices of layers {list(self)}")
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
        config: settings of the fit.
        read: states that are paired.

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
    """Fit every base layer to every target; all targets share the base layer's decomposition."""
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
