"""`states`: what stands for each input, after every block of a model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import TvlensError
from ..models.forward import Batch, run
from ..models.hooks import read_at, without_logits
from ..models.prompts import read_prompts
from ..models.readouts import Readout, ReadoutName
from ..models.readouts import readout as readout_called
from ..sites import Layers, sites


def states(
    model: Any,
    batches: Iterable[Any],
    *,
    layers: Layers = "all",
    readout: ReadoutName | Readout = "first",
    progress: bool = True,
) -> Float[Tensor, "layer n d_model"]:
    """The readout state of every input after each asked block, on the CPU.

    Args:
        batches: batches of texts, token lists or pictures.
        layers: "all", one layer or several.
        readout: "first", "mean" or "last" position of an input, or a function as in
            `tvlens.models.readouts`.

    Cost: one forward per batch, up to the last asked layer; memory layers x n x d_model.

    Raises:
        TvlensError: unknown layer, no batches, a prompt beyond the context length.
    """
    wanted, read_out = layer_numbers(model, layers), readout_called(readout)
    read = (states_of(model, b, wanted, read_out) for b in shown(batches, progress))
    found = [one.cpu() for one in read]
    if not found:
        raise TvlensError("no batches to run")
    return torch.cat(found, dim=1)


def states_of(
    model: Any, inputs: Any, layers: Sequence[int], readout: Readout
) -> Float[Tensor, "layer row d_model"]:
    """The readout states of one batch after these blocks."""
    batch = Batch.of(model, read_prompts(model, inputs))
    by_layer: dict[int, Tensor] = {}

    def read(activation: Tensor) -> Tensor:
        return readout(activation, batch.lengths.to(activation.device)).clone()

    hooks = [
        read_at(site.hook(model), by_layer, site.layer, read)
        for site in sites(model, "resid_post", layers=layers)
    ]
    if max(layers) + 1 < model.cfg.n_layers:
        run(model, batch, hooks=hooks, stop_at_layer=max(layers) + 1)
    else:
        run(model, batch, hooks=[*hooks, *without_logits(model)])
    return torch.stack([by_layer[layer] for layer in layers])


def layer_numbers(model: Any, layers: Layers | Literal["last"]) -> list[int]:
    """Asked layers as numbers from 0: "all", "last", one or several, negative ones from the end.

    Raises:
        TvlensError: no layers, or one that the model does not have.
    """
    found = sites(model, "resid_post", layers=-1 if layers == "last" else layers)
    if not found:
        raise TvlensError("no layers to read")
    return list(dict.fromkeys(site.layer for site in found))


def shown(batches: Iterable[Any], progress: bool) -> Iterator[Any]:
    """The batches with a progress bar."""
    return iter(tqdm(batches, desc="reading states", disable=None if progress else True))
