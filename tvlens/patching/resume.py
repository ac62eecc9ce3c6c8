"""The fast engine: begin at the patched layer and position, and let many patches share a prefix.

A patch at layer l and position p changes nothing below l and nothing before p. So the blocks below
l do not run, the positions before p are read from the base run's keys and values, and many patches
ride in one forward pass, as branches of extra query tokens: each sees the base run up to its own
position, and itself, but no other branch (tree attention). A branch joins at its own layer: those
from below stop there and go on together with it.

Whether a model takes this exactly is found out by running one patch both ways; see `patch`.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.forward import (
    Batch,
    Hook,
    before_unembedding,
    hooked,
    is_bidirectional,
    run,
    skipping,
    unembedding,
)
from ..sites import Site
from .full import edits
from .source import Observed, keeping
from .sweep import Cell
from .tree import Tree, masks, tree


@dataclass(frozen=True)
class Base:
    """The unpatched run, as far as patches need it.

    Attributes:
        prompts: the corrupted prompts.
        seen: the patched component at the swept layers, and the logits that metrics read.
        vocabulary: the tokens whose logits these are; None for all.
        resid: residual stream before every block from the lowest swept one up.
        cache: keys and values of every block, in the model's own kind of cache, if it has one.
    """

    prompts: Batch
    seen: Observed
    vocabulary: Sequence[int] | None
    resid: Mapping[int, Float[Tensor, "batch pos d_model"]]
    cache: Any


def can_resume(model: Any, prompts: Batch) -> bool:
    """Whether a model has what the engine uses: a causal Hugging Face model behind a bridge.

    What a processor says of every token (that it is part of an image) bends masks or positions,
    and what says of a picture where its patches stand bends positions too: no branch is told that.
    """
    adapter = getattr(model, "adapter", None)
    bent = any(
        key.endswith("grid_thw") or value.shape == prompts.inputs.shape
        for key, value in prompts.seen.items()
    )
    return not bent and (
        getattr(adapter, "supports_kv_cache", False)
        and not is_bidirectional(model)
        and "unembed.hook_in" in model.hook_dict
        and hasattr(getattr(model, "original_model", None), "config")
    )


def base_run(
    model: Any,
    prompts: Batch,
    *,
    component: str,
    layers: Sequence[int],
    reads: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> Base:
    """Run the prompts once and keep what patches compare with and resume from."""
    own: dict[int, Tensor] = {}
    resid: dict[int, Tensor] = {}
    rows, at = torch.arange(len(prompts))[:, None], prompts.positions(list(reads))
    hooks = [(Site(component, l).hook(model), keeping(own, l)) for l in layers]
    hooks += [
        (Site("resid_pre", l).hook(model), keeping(resid, l))
        for l in range(min(layers), model.cfg.n_layers)
    ]
    hooks.append((before_unembedding(model), lambda activation, hook: activation[rows, at]))
    cache, options = _new_cache(model, prompts)
    with unembedding(model, vocabulary):
        logits = run(model, prompts, hooks=hooks, **options)
    return Base(prompts, Observed(own, prompts.lengths, logits), vocabulary, resid, cache)


def _new_cache(model: Any, prompts: Batch) -> tuple[Any, dict[str, Any]]:
    """An empty cache of the model's kind, and the options that have a run fill it."""
    if can_resume(model, prompts):
        from transformers import DynamicCache

        # One of our own keeps every position; a model's would drop those behind a window.
        cache = DynamicCache()
        return cache, {"past_key_values": cache, "use_cache": True}
    if type(model).__name__ == "HookedTransformer":
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        device = next(model.parameters()).device
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(prompts))
        # Without a mask it asks the tokenizer for one, which small trained models do not have.
        seen = torch.ones(len(prompts), prompts.inputs.shape[1], dtype=torch.long, device=device)
        return cache, {"past_kv_cache": cache, "attention_mask": seen}
    return None, {}


def resumed(
    model: Any, base: Base, cells: Sequence[Cell], parts: Sequence[Tensor], reads: Sequence[int]
) -> Float[Tensor, "cell batch position vocab"]:
    """Logits at `reads` with each patch's part written in; cells stand in the order of layers.

    Cost: from each cell's layer up, `batch x (length - position)` tokens.
    """
    lengths, count = base.prompts.lengths, len(cells)
    starts = torch.stack([cell.start(lengths) for cell in cells], dim=1)  # [batch, cell]
    widths = (lengths[:, None] - starts).amax(0)
    ends = widths.cumsum(0)
    first = ends - widths  # where each branch begins
    owner = torch.arange(count).repeat_interleave(widths)
    step = torch.arange(len(owner)) - first[owner]  # how far into its branch a token stands
    # Position in the prompt; behind a short prompt's end it is padding, which nobody reads.
    place = (starts[:, owner] + step).clamp_max(int(lengths.max()) - 1)
    rows = torch.arange(len(lengths))[:, None]

    def inside(j: int) -> tuple:
        begin = int(first[j])
        whole = slice(begin, int(ends[j]))
        return rows[:, 0], whole if cells[j].position is None else begin

    wanted = base.prompts.positions(list(reads))[:, None]  # [batch, 1, read]
    read = (first[:, None] + (wanted - starts[..., None]).clamp_min(0)).flatten(1)
    hooks = [
        *edits(model, cells, parts, inside),
        ("unembed.hook_in", lambda activation, hook: activation[rows, read]),
    ]
    joining = {cell.layer: int(end) for cell, end in zip(cells, ends, strict=True)}
    branches = tree(starts, owner, step)
    logits = _upwards(model, base, place, branches, joining, hooks).unflatten(1, (count, -1))
    early = wanted < starts[..., None]  # what no patch here can change
    if early.any():
        logits = torch.where(early[..., None].to(logits.device), base.seen.logits[:, None], logits)
    return logits.transpose(0, 1)


def _upwards(
    model: Any,
    base: Base,
    place: Int[Tensor, "batch token"],
    branches: Tree,
    joining: Mapping[int, int],
    hooks: Sequence[Hook],
) -> Float[Tensor, "batch read vocab"]:
    """Logits of branches that enter at their own layers: no block runs for those from above it.

    Args:
        joining: layers where branches enter, upwards -> how many tokens there are from there on.
    """
    rows, layers = torch.arange(len(place))[:, None], list(joining)
    entering: dict[int, Tensor] = {}

    def enter(layer: int) -> Callable:
        begin = max((end for l, end in joining.items() if l < layer), default=0)

        def hook(activation: Tensor, hook_point: Any) -> Tensor:
            if layer not in entering:  # those from below stop here, and the layer's own join them
                new = base.resid[layer][rows, place[:, begin : joining[layer]]]
                entering[layer] = torch.cat([activation, new], dim=1)
            return entering[layer]

        return hook

    hooks = [*((f"blocks.{l}.hook_resid_pre", enter(l)) for l in layers), *hooks]
    entering[layers[0]] = base.resid[layers[0]][rows, place[:, : joining[layers[0]]]]
    narrow = unembedding(model, base.vocabulary)
    with torch.no_grad(), narrow, hooked(model, hooks):
        for layer, above in itertools.zip_longest(layers, layers[1:]):
            hidden, count = entering[layer], joining[layer]
            with skipping(model, range(layer)):
                logits = model(
                    hidden.clone(),
                    attention_mask=masks(model, branches.first(count), like=hidden),
                    position_ids=place[:, :count].to(hidden.device),
                    past_key_values=_prefix(base.cache, branches.prefix),
                    stop_at_layer=above,
                )
            del entering[layer]
    return logits


def _prefix(cache: Any, length: int) -> Any:
    """A fresh cache that holds the first `length` positions."""
    from transformers import DynamicCache

    prefix = DynamicCache()
    for layer in cache.layers:
        prefix.layers.append(short := copy.copy(layer))  # what comes is joined to it, not into it
        short.keys, short.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return prefix
