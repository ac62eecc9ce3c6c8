"""Fitting task matrices to models: shard by shard of base layers, one decomposition each."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..errors import TvlensError
from ..integers import is_integer
from ..models.readouts import Readout, ReadoutName
from ..sites import Layers
from .folds import Folds
from .gathering import LayerMoments, Pairs, stream, summed
from .layers import TaskMatrices
from .matrix import TaskMatrix
from .penalty import Rule, check_rule
from .readout_states import layer_numbers
from .ridge import Ridge


def fit(
    base: Any,
    tuned: Any,
    batches: Iterable[Any],
    *,
    layers: Layers,
    targets: Layers | Literal["last"],
    ridge: Rule | float | None,
    readout: ReadoutName | Readout,
    folds: int,
    shard: int | None,
    progress: bool,
    **options: Any,
) -> Any:
    """What `TaskMatrix.fit` does, and says."""
    check_rule(ridge)
    shards = _shards(layer_numbers(base, layers), shard)
    if len(shards) > 1 and iter(batches) is batches:
        raise TvlensError("a pass for each shard needs batches that can be gone through again")
    named = tuned if isinstance(tuned, Mapping) else {"": tuned}
    found: dict[str, list[TaskMatrix]] = {name: [] for name in named}
    for part in shards:
        reading = dict(layers=part, targets=targets, readout=readout)
        pairs = stream(base, named, batches, progress=progress, **reading)
        if ridge == "loo":
            pairs = list(pairs)
        gathered = summed(pairs, base, named, folds=folds if ridge == "kfold" else 1, **reading)
        for i, (name, moments) in enumerate(gathered.items()):
            kept = _kept(pairs, i * len(moments.targets)) if ridge == "loo" else None
            found[name] += _matrices(moments, kept, ridge=ridge, **options)
    single = is_integer(layers)
    results = {name: _result(matrices, single) for name, matrices in found.items()}
    return results if isinstance(tuned, Mapping) else results[""]


def _matrices(
    moments: LayerMoments,
    kept: Callable | None,
    *,
    ridge: Rule | float | None,
    bias: bool,
    **options: Any,
) -> Iterator[TaskMatrix]:
    """Every base layer with every target; a decomposition per base layer serves all targets."""
    for i, layer in enumerate(moments.layers):
        folds = Folds(moments.parts(layer), bias)
        solution = Ridge.of(folds.whole, bias=bias)
        for j, target in enumerate(moments.targets):
            yield TaskMatrix.of(
                solution.to(j),
                ridge=ridge,
                folds=functools.partial(folds.errors, tuned=j),
                pairs=kept and functools.partial(kept, i, j),
                layer=layer,
                target=target,
                meta=moments.meta,
                **options,
            )


def _kept(pairs: Sequence[Pairs], begin: int) -> Callable:
    """Gives the states of one base layer and one target of the model whose targets begin here."""
    return lambda i, j: ((x[i], y[begin + j]) for x, y in pairs)


def _shards(layers: Sequence[int], size: int | None) -> list[Sequence[int]]:
    size = len(layers) if size is None else size
    if size < 1:
        raise TvlensError(f"a shard of {size} layers: it must hold at least 1")
    return [layers[start : start + size] for start in range(0, len(layers), size)]


def _result(matrices: Sequence[TaskMatrix], single: bool) -> TaskMatrix | TaskMatrices:
    return matrices[0] if single and len(matrices) == 1 else TaskMatrices(tuple(matrices))
