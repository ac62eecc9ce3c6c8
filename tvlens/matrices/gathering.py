"""`LayerMoments`: moments of every asked pair of layers of twins, from one pass over the data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..models.readouts import Readout, ReadoutName
from ..models.readouts import readout as readout_called
from ..sites import Layers
from .moments import PairMoments
from .readout_states import layer_numbers, shown, states_of
from .twins import check_twins, identity

# States of the base layers and, one model after the other, of the tuned layers.
Pairs = tuple[Float[Tensor, "layer n d_base"], Float[Tensor, "target n d_tuned"]]


@dataclass(frozen=True)
class LayerMoments:
    """Moments of several base layers with several tuned ones, in one part or in folds.

    Attributes:
        layers: blocks of the base model.
        targets: blocks of the tuned model.
        folds: moments of each part of the examples, stacked `[base layer, tuned layer]`.
        meta: the models, as JSON.
    """

    layers: tuple[int, ...]
    targets: tuple[int, ...]
    folds: tuple[PairMoments, ...]
    meta: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"LayerMoments({self.count} pairs, base layers {list(self.layers)}, "
            f"tuned layers {list(self.targets)}, {len(self.folds)} fold(s))"
        )

    @property
    def count(self) -> int:
        """Number of pairs."""
        return sum(fold.count for fold in self.folds)

    def parts(self, layer: int, target: int | None = None) -> list[PairMoments]:
        """Moments of one base layer, fold by fold; with all tuned layers, stacked, or with one."""
        for name, asked, known in (("base", layer, self.layers), ("tuned", target, self.targets)):
            if asked is not None and asked not in known:
                raise TvlensError(f"no moments of {name} layer {asked}; there are {list(known)}")
        places = (
            self.layers.index(layer),
            None if target is None else self.targets.index(target),
        )
        return [fold.pair(*places) for fold in self.folds]

    def pair(self, layer: int, target: int | None = None) -> PairMoments:
        """The same over all folds."""
        return PairMoments.total(self.parts(layer, target))


def gather(
    base: Any,
    tuned: Any,
    batches: Iterable[Any],
    *,
    layers: Layers = "all",
    targets: Layers | Literal["last"] = "last",
    readout: ReadoutName | Readout = "first",
    folds: int = 1,
    progress: bool = True,
) -> LayerMoments | dict[str, LayerMoments]:
    """Moments of base states with tuned states of the same inputs, in one pass.

    The base model runs once per batch for all layers and any number of tuned models.

    Args:
        base: the model whose states a matrix will read.
        tuned: its finetuned twin, or several by name.
        batches: batches of texts, token lists or pictures.
        layers: base layers: "all", one or several.
        targets: tuned layers: "last", "all", one or several.
        readout: "first", "mean" or "last" position of an input, or a function (see `states`).
        folds: parts that the examples go to in turn.

    Memory: 8 bytes x folds x layers x (d^2 + targets x tuned models x d x d_tuned).

    Raises:
        TvlensError: different tokenizers, image sizes or (among the tuned models) widths, unknown
            layers, NaN states, no batches.
    """
    if folds < 1:
        raise TvlensError(f"{folds} folds: there must be at least 1")
    named = tuned if isinstance(tuned, Mapping) else {"": tuned}
    reading = dict(layers=layers, targets=targets, readout=readout)
    pairs = stream(base, named, batches, progress=progress, **reading)
    found = summed(pairs, base, named, folds=folds, **reading)
    return found if isinstance(tuned, Mapping) else found[""]


def summed(
    pairs: Iterable[Pairs],
    base: Any,
    tuned: Mapping[str, Any],
    *,
    layers: Layers,
    targets: Layers | Literal["last"],
    readout: ReadoutName | Readout,
    folds: int,
) -> dict[str, LayerMoments]:
    """The moments of what `stream` gave, by tuned model."""
    parts, seen = [PairMoments() for _ in range(folds)], 0
    for x, y in pairs:
        for fold, part in enumerate(parts):
            mine = slice((fold - seen) % folds, None, folds)
            if x[:, mine].shape[1]:
                part.update(x[:, mine], y[:, mine])
        seen += x.shape[1]
    if not seen:
        raise TvlensError("no batches to run")
    found = {}
    for i, (name, model) in enumerate(tuned.items()):
        predicted = layer_numbers(model, targets)
        mine = slice(i * len(predicted), (i + 1) * len(predicted))
        found[name] = LayerMoments(
            tuple(layer_numbers(base, layers)),
            tuple(predicted),
            tuple(part.pair(tuned=mine) for part in parts if part.count),
            {"base": identity(base), "tuned": identity(model), "readout": name_of(readout)},
        )
    return found


def stream(
    base: Any,
    tuned: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    layers: Layers,
    targets: Layers | Literal["last"],
    readout: ReadoutName | Readout,
    progress: bool,
) -> Iterator[Pairs]:
    """Batch by batch the states of the base layers and, one model after the other, of the tuned."""
    if not tuned:
        raise TvlensError("no tuned model")
    for model in tuned.values():
        check_twins(base, model)
    widths = {name: model.cfg.d_model for name, model in tuned.items()}
    if len(set(widths.values())) > 1:
        raise TvlensError(f"tuned models of different widths cannot share a pass: {widths}")
    read = layer_numbers(base, layers)
    predicted = [(model, layer_numbers(model, targets)) for model in tuned.values()]
    if len({len(numbers) for _, numbers in predicted}) > 1:
        raise TvlensError("tuned models of different depths cannot share a pass over all layers")
    return _states(base, read, predicted, batches, readout_called(readout), progress)


def _states(
    base: Any,
    layers: Sequence[int],
    tuned: Sequence[tuple[Any, Sequence[int]]],
    batches: Iterable[Any],
    readout: Readout,
    progress: bool,
) -> Iterator[Pairs]:
    for batch in shown(batches, progress):
        x = states_of(base, batch, layers, readout)
        y = [states_of(model, batch, targets, readout) for model, targets in tuned]
        yield x, torch.cat([one.to(x.device) for one in y])


def name_of(readout: ReadoutName | Readout) -> str:
    """What a readout is called in results."""
    return readout if isinstance(readout, str) else getattr(readout, "__name__", "given")
