"""Paired readout states of a base model and its finetuned models, and their moments."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, run
from ..models.hooks import read_at, without_logits
from ..models.loading import model_name
from ..models.prompts import read_prompts
from ..models.readouts import Readout, ReadoutName
from ..models.readouts import readout as get_readout
from ..progress import progress_bar
from ..results import Result
from ..sites import Layers, sites
from .moments import PairMoments

# States of the base layers and, one model after the other, of the finetuned layers.
LayerStates = tuple[Float[Tensor, "layer n d_base"], Float[Tensor, "target n d_tuned"]]

# Sampled values per parameter that suffice to tell two trained models apart.
_SAMPLES = 16


@dataclass(frozen=True)
class ReadConfig:
    """Which states of a base model and of a finetuned model are paired.

    Attributes:
        layers: base layers: "all", one or several.
        targets: finetuned layers: "last", "all", one or several.
        readout: "first", "mean" or "last" position of an input, or a function of
            (states, lengths) as in `tvlens.models.readouts`.
        progress: whether to show a progress bar; by default on a terminal.
    """

    layers: Layers = "all"
    targets: Layers | Literal["last"] = "last"
    readout: ReadoutName | Readout = "first"
    progress: bool | None = None


@dataclass(frozen=True)
class LayerMoments(Result):
    """Moments of several base layers with several finetuned layers, in one part or in folds.

    Attributes:
        layers: blocks of the base model.
        targets: blocks of the finetuned model.
        folds: moments of each fold of the examples, stacked `[base layer, finetuned layer]`.
        meta: the models, as JSON.
    """

    layers: tuple[int, ...]
    targets: tuple[int, ...]
    folds: tuple[PairMoments, ...]
    meta: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"LayerMoments({self.count} pairs, base layers {list(self.layers)}, "
            f"finetuned layers {list(self.targets)}, {len(self.folds)} fold(s))"
        )

    @property
    def count(self) -> int:
        """Number of pairs."""
        return sum(fold.count for fold in self.folds)

    def parts(self, layer: int, target: int | None = None) -> list[PairMoments]:
        """Select the moments of one base layer by fold, with one finetuned layer or all of them.

        Raises:
            TvlensError: no moments of that layer.
        """
        for name, number, numbers in (
            ("base", layer, self.layers),
            ("finetuned", target, self.targets),
        ):
            if number is not None and number not in numbers:
                raise TvlensError(f"no moments of {name} layer {number}; there are {list(numbers)}")
        base = self.layers.index(layer)
        tuned = None if target is None else self.targets.index(target)
        return [fold.pair(base, tuned) for fold in self.folds]

    def pair(self, layer: int, target: int | None = None) -> PairMoments:
        """Select the moments of one base layer over all folds, otherwise as `parts`."""
        return PairMoments.total(self.parts(layer, target))


def collect_states(
    model: Any,
    batches: Iterable[Any],
    *,
    layers: Layers = "all",
    readout: ReadoutName | Readout = "first",
    progress: bool | None = None,
) -> Float[Tensor, "layer n d_model"]:
    """Compute the readout state of every input after each of these blocks, on the CPU.

    One forward pass per batch, up to the last of the layers.

    Args:
        batches: batches of texts, token lists or images.
        layers: "all", one layer or several.
        readout: "first", "mean" or "last" position of an input, or a function of
            (states, lengths) as in `tvlens.models.readouts`.
        progress: whether to show a progress bar; by default on a terminal.

    Raises:
        TvlensError: unknown layer, no batches, or a prompt beyond the context length.
    """
    numbers, readout_function = resolve_layers(model, layers), get_readout(readout)
    bar = progress_bar(batches, desc="reading states", progress=progress)
    states = [_read_batch(model, batch, numbers, readout_function).cpu() for batch in bar]
    if not states:
        raise TvlensError("no batches to run")
    return torch.cat(states, dim=1)


def collect_moments(
    base: Any,
    tuned: Any,
    batches: Iterable[Any],
    *,
    layers: Layers = "all",
    targets: Layers | Literal["last"] = "last",
    readout: ReadoutName | Readout = "first",
    folds: int = 1,
    progress: bool | None = None,
) -> LayerMoments:
    """Compute moments of base and finetuned states of the same inputs, in one pass.

    Memory: 8 bytes x folds x layers x (d^2 + targets x d x d_tuned).

    Args:
        base: the model whose states a matrix will read.
        tuned: its finetuned version.
        batches: batches of texts, token lists or images.
        layers, targets, readout, progress: as in `ReadConfig`.
        folds: number of folds; the examples are dealt to them in turn.

    Raises:
        TvlensError: different tokenizers or image sizes, unknown layers, NaN states, or no batches.
    """
    if folds < 1:
        raise TvlensError(f"{folds} folds: there must be at least 1")
    reader = PairReader(base, {"": tuned}, ReadConfig(layers, targets, readout, progress))
    return reader.sum_moments(reader.read(batches), folds=folds)[""]


class PairReader:
    """Reads a base model and its finetuned models on the same inputs.

    The base model runs once per batch for all layers and any number of finetuned models.

    Args:
        base: model with named hook points.
        tuned: its finetuned versions, by name.
        config: states to read.

    Raises:
        TvlensError: no finetuned model, different tokenizers or image sizes, unknown layers, or
            finetuned models of different shapes.
    """

    def __init__(self, base: Any, tuned: Mapping[str, Any], config: ReadConfig):
        if not tuned:
            raise TvlensError("no finetuned model")
        for model in tuned.values():
            check_pair(base, model)
        widths = {name: model.cfg.d_model for name, model in tuned.items()}
        if len(set(widths.values())) > 1:
            raise TvlensError(f"finetuned models of different widths cannot share a pass: {widths}")
        self.base, self.tuned, self.config = base, tuned, config
        self.layers = resolve_layers(base, config.layers)
        self.targets = {name: resolve_layers(m, config.targets) for name, m in tuned.items()}
        if len({len(targets) for targets in self.targets.values()}) > 1:
            raise TvlensError(
                "finetuned models of different depths cannot share a pass over all layers"
            )
        self.readout = get_readout(config.readout)

    def read(self, batches: Iterable[Any]) -> Iterator[LayerStates]:
        """Yield the states of each batch."""
        for batch in progress_bar(batches, desc="reading states", progress=self.config.progress):
            x = _read_batch(self.base, batch, self.layers, self.readout)
            y = [
                _read_batch(model, batch, self.targets[name], self.readout)
                for name, model in self.tuned.items()
            ]
            yield x, torch.cat([states.to(x.device) for states in y])

    def sum_moments(
        self, states: Iterable[LayerStates], *, folds: int = 1
    ) -> dict[str, LayerMoments]:
        """Sum the moments of the states that `read` yields, by finetuned model.

        Raises:
            TvlensError: no batches.
        """
        parts, count = [PairMoments() for _ in range(folds)], 0
        for x, y in states:
            for fold, part in enumerate(parts):
                rows = slice((fold - count) % folds, None, folds)
                if x[:, rows].shape[1]:
                    part.update(x[:, rows], y[:, rows])
            count += x.shape[1]
        if not count:
            raise TvlensError("no batches to run")
        readout = self.config.readout
        name_of_readout = getattr(readout, "__name__", "custom")
        meta = {
            "base": identify(self.base),
            "readout": readout if isinstance(readout, str) else name_of_readout,
        }
        return {
            name: LayerMoments(
                tuple(self.layers),
                tuple(self.targets[name]),
                tuple(part.pair(tuned=self.target_rows(name)) for part in parts if part.count),
                meta | {"tuned": identify(model)},
            )
            for name, model in self.tuned.items()
        }

    def target_rows(self, name: str) -> slice:
        """Rows of one finetuned model's states among all finetuned states."""
        count = len(self.targets[name])
        begin = list(self.tuned).index(name) * count
        return slice(begin, begin + count)


def _read_batch(
    model: Any, inputs: Any, layers: list[int], readout: Readout
) -> Float[Tensor, "layer row d_model"]:
    """Compute the readout states of one batch after these blocks."""
    batch = Batch.of(model, read_prompts(model, inputs))
    states: dict[int, Tensor] = {}

    def read(activation: Tensor) -> Tensor:
        return readout(activation, batch.lengths.to(activation.device)).clone()

    hooks = [
        read_at(site.hook(model), states, site.layer, read)
        for site in sites(model, "resid_post", layers=layers)
    ]
    if max(layers) + 1 < model.cfg.n_layers:
        run(model, batch, hooks=hooks, stop_at_layer=max(layers) + 1)
    else:
        run(model, batch, hooks=[*hooks, *without_logits(model)])
    return torch.stack([states[layer] for layer in layers])


def resolve_layers(model: Any, layers: Layers | Literal["last"]) -> list[int]:
    """Convert layers ("all", "last", one or several, also negative) to numbers from 0.

    Raises:
        TvlensError: no layers, or one that the model does not have.
    """
    layer_sites = sites(model, "resid_post", layers=-1 if layers == "last" else layers)
    if not layer_sites:
        raise TvlensError("no layers to read")
    return list(dict.fromkeys(site.layer for site in layer_sites))


def identify(model: Any) -> dict[str, str]:
    """Return the model's name and a fingerprint of its weights."""
    return {"name": model_name(model), "fingerprint": _fingerprint(model)}


def check_same_model(model: Any, identity: dict[str, str] | None) -> None:
    """Raise TvlensError if `identity` (of `identify`) is of other weights than the model's."""
    if identity and identity["fingerprint"] != _fingerprint(model):
        raise TvlensError(
            f"the matrix was fitted on the weights of {identity['name']!r}; this "
            f"{model_name(model)!r} has other weights: pass other_model=True to use it anyway"
        )


def check_pair(base: Any, tuned: Any) -> None:
    """Raise TvlensError unless both models read the same inputs in the same way."""
    names = f"base {model_name(base)!r} and finetuned {model_name(tuned)!r}"
    for size in ("image_size", "patch_size", "num_channels"):
        a, b = _get_config(base, size), _get_config(tuned, size)
        if a != b:
            raise TvlensError(f"{names} differ in {size.replace('_', ' ')}: {a} and {b}")
    vocabularies = [_get_vocabulary(model) for model in (base, tuned)]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise TvlensError(f"{names} have different tokenizers: they read other tokens of one text")
    a, b = (getattr(model.cfg, "d_vocab", None) for model in (base, tuned))
    if None in vocabularies and a and b and a > 0 and b > 0 and a != b:
        raise TvlensError(f"{names} have vocabularies of {a} and {b} tokens")


def _fingerprint(model: Any) -> str:
    """Hash a few values of every parameter of the blocks; heads may differ."""
    fingerprint = hashlib.sha256()
    for parameter in model.blocks.parameters():
        values = parameter.detach().flatten()
        step = max(1, len(values) // _SAMPLES)
        samples = values[::step][: _SAMPLES + 1].float().cpu()
        fingerprint.update(f"{tuple(parameter.shape)}".encode() + samples.numpy().tobytes())
    return fingerprint.hexdigest()[:16]


def _get_vocabulary(model: Any) -> dict[str, int] | None:
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None


def _get_config(model: Any, name: str) -> Any:
    for config in (model.cfg, getattr(getattr(model, "original_model", None), "config", None)):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None
