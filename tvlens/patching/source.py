"""Where a patch's activations come from: another run, a vector, means, zeros, other prompts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..sites import Site
from .full import Source


@dataclass(frozen=True)
class Observed:
    """One run: the patched component at the swept layers, and the logits that metrics read.

    Attributes:
        activations: layer -> the whole activation, as the model computes it.
        logits: at the positions read; None where the source is no run.
    """

    activations: Source
    logits: Float[Tensor, "batch position vocab"] | None = None


def observe(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    *,
    component: str,
    layers: Sequence[int],
    reads: Sequence[int],
) -> Observed:
    """Run prompts once, keeping one component at some layers and the logits at `reads`."""
    kept: dict[int, Tensor] = {}
    batch = Batch.of(model, tokens)
    hooks = [(Site(component, l).hook(model), keeping(kept, l)) for l in layers]
    logits = logits_at(model, batch, batch.positions(list(reads)), hooks=hooks)
    return Observed(kept, logits)


def keeping(kept: dict[int, Tensor], layer: int) -> Callable:
    """A hook that keeps an activation under its layer; a copy, for models that reuse memory."""

    def hook(activation: Tensor, hook_point: Any) -> None:
        kept[layer] = activation.clone()

    return hook


def source_of(
    model: Any,
    source: Any,
    own: Source,
    tokens: Int[Tensor, "batch pos"],
    *,
    component: str,
    reads: Sequence[int],
    seed: int,
) -> Observed:
    """The activations that patches write, from any kind of source.

    Args:
        source: prompts of the same shape as `tokens`; an activation cache or mapping with the
            model's hook names; a `TaskVector`; "zero"; "mean" (over the batch); or "resample"
            (each example takes another one's).
        own: the corrupted run's activations, by layer.
    """
    layers = list(own)
    if isinstance(source, str):
        return Observed({l: _made(source, activation, seed) for l, activation in own.items()})
    if isinstance(source, Tensor):
        if source.shape != tokens.shape:
            raise TvlensError(
                f"clean is {list(source.shape)} and corrupted {list(tokens.shape)}: patching "
                "needs prompts of the same length, token by token"
            )
        return observe(model, source, component=component, layers=layers, reads=reads)
    if hasattr(source, "site"):
        return Observed({l: _spread(source, l, tokens, component) for l in layers})
    return Observed({l: _from_cache(model, source, component, l, tokens) for l in layers})


def _made(source: str, activation: Tensor, seed: int) -> Tensor:
    if source == "zero":
        return torch.zeros_like(activation)
    if source == "mean":
        return activation.mean(0, keepdim=True).expand_as(activation)
    if source == "resample":
        count = len(activation)
        if count < 2:
            raise TvlensError("resampling needs at least two prompts")
        shift = int(np.random.default_rng(seed).integers(1, count))
        return activation.roll(shift, dims=0)
    raise TvlensError(f"unknown source {source!r}: choose from mean, zero, resample, or prompts")


def _spread(vector: Any, layer: int, tokens: Tensor, component: str) -> Tensor:
    """A task vector as the activation at every position."""
    if vector.site != component:
        raise TvlensError(f"the vector belongs at {vector.site}, not at {component}")
    return vector.values[layer].expand(*tokens.shape, -1)


def _from_cache(model: Any, cache: Any, component: str, layer: int, tokens: Tensor) -> Tensor:
    name = Site(component, layer).hook(model)
    alias = f"blocks.{layer}.{name.split('.', 2)[2]}"
    for key in (name, alias, str(Site(component, layer)), (component, layer)):
        try:
            found = cache[key]
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
        wanted = Site(component, layer).shape(model, batch=len(tokens), pos=tokens.shape[1])
        if tuple(found.shape) != wanted:
            raise TvlensError(f"{name} in the cache is {list(found.shape)}, not {list(wanted)}")
        return found
    raise TvlensError(f"the cache has no {name}")
