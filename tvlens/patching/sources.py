"""Sources of the activations that patches write: a run, a cache, a vector, or a statistic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..models.hooks import read_at
from ..sites import Site


@dataclass(frozen=True)
class SiteActivations:
    """The patched component at the swept layers, and the logits at the metrics' positions.

    Attributes:
        activations: layer -> the whole activation, `[batch, ...]`, as the model computes it.
        lengths: lengths of the prompts, which are padded on the right.
        logits: at the positions read; None where the source is no run.
    """

    activations: Mapping[int, Tensor]
    lengths: Int[Tensor, " batch"]
    logits: Float[Tensor, "batch position vocab"] | None = None


def run_source(
    model: Any,
    prompts: Batch,
    *,
    component: str,
    layers: Sequence[int],
    positions: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> SiteActivations:
    """Run prompts once; returns one component at some layers and the logits at `positions`."""
    activations: dict[int, Tensor] = {}
    hooks = [read_at(Site(component, l).hook(model), activations, l) for l in layers]
    absolute = prompts.positions(list(positions))
    logits = logits_at(model, prompts, absolute, hooks=hooks, vocabulary=vocabulary)
    return SiteActivations(activations, prompts.lengths, logits)


def load_source(
    model: Any, source: Any, base: SiteActivations, *, component: str, seed: int
) -> SiteActivations:
    """Load the activations that patches write from a source other than prompts.

    Args:
        source: an activation cache or mapping with the model's hook names, whose batch and
            position may be of size 1 for all; a `TaskVector`; "zero"; "mean" (over the batch); or
            "resample" (each example takes another one's).
        base: the activations of the corrupted run.
    """
    if isinstance(source, str):
        return _load_named_source(source, base, seed)
    layers = base.activations
    if hasattr(source, "site"):
        activations = {l: _expand_vector(source, l, layers[l], component) for l in layers}
    else:
        activations = {l: _from_cache(model, source, component, l, layers[l]) for l in layers}
    return SiteActivations(activations, base.lengths)


def _load_named_source(source: str, base: SiteActivations, seed: int) -> SiteActivations:
    activations, lengths = base.activations, base.lengths
    if source == "zero":
        return SiteActivations({l: torch.zeros_like(a) for l, a in activations.items()}, lengths)
    if source == "mean":
        if len(lengths.unique()) > 1:
            raise TvlensError("prompts of different lengths have no mean at each position")
        means = {l: a.mean(0, keepdim=True).expand_as(a) for l, a in activations.items()}
        return SiteActivations(means, lengths)
    if source == "resample":
        count = len(lengths)
        if count < 2:
            raise TvlensError("resampling needs at least two prompts")
        shift = int(np.random.default_rng(seed).integers(1, count))
        rolled = {l: a.roll(shift, dims=0) for l, a in activations.items()}
        return SiteActivations(rolled, lengths.roll(shift))
    raise TvlensError(f"unknown source {source!r}: choose from mean, zero, resample, or prompts")


def _expand_vector(vector: Any, layer: int, like: Tensor, component: str) -> Tensor:
    """Expand a task vector to every position."""
    if vector.site != component:
        raise TvlensError(f"the vector is for {vector.site}, not for {component}")
    layers, width = vector.values.shape
    if layer >= layers or width != like.shape[-1]:
        raise TvlensError(
            f"the vector has {layers} layers of width {width}; it has none for layer {layer} of "
            f"width {like.shape[-1]}"
        )
    value: Tensor = vector.values[layer]
    return value.to(like.device).expand_as(like)


def _from_cache(model: Any, cache: Any, component: str, layer: int, like: Tensor) -> Tensor:
    name = Site(component, layer).hook(model)
    alias = f"blocks.{layer}.{name.split('.', 2)[2]}"
    for key in (name, alias, str(Site(component, layer)), (component, layer)):
        try:
            activation = cache[key]
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
        if not isinstance(activation, Tensor):
            raise TvlensError(f"{name} in the cache is no tensor but {type(activation).__name__}")
        try:
            return activation.to(like.device).expand_as(like)
        except RuntimeError:
            raise TvlensError(
                f"{name} in the cache is {list(activation.shape)}, not {list(like.shape)}"
            ) from None
    raise TvlensError(f"the cache has no {name}")
