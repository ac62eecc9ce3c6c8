"""The fast engine: begin at the patched layer and position, and let many patches share a prefix.

A patch at layer l and position p changes nothing below l and nothing before p. So the blocks below
l do not run, the positions before p are read from the base run's keys and values, and many patches
ride in one forward pass, as branches of extra query tokens: each sees the base run up to its own
position, and itself, but no other branch (tree attention).

Whether a model takes this exactly is found out by running one patch both ways; see `patch`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.forward import Batch, hooked, is_bidirectional, run
from ..sites import Site
from .full import Source, edits
from .source import keeping, observe
from .sweep import Cell


@dataclass(frozen=True)
class Base:
    """The unpatched run, as far as patches need it.

    Attributes:
        tokens: the prompts.
        own: the patched component at the swept layers.
        logits: at the positions the metrics read.
        resid: residual stream before every block; empty where the model cannot resume.
        cache: keys and values of every block, the Hugging Face cache object.
    """

    tokens: Int[Tensor, "batch pos"]
    own: Source
    logits: Float[Tensor, "batch position vocab"]
    resid: dict[int, Float[Tensor, "batch pos d_model"]]
    cache: Any


def can_resume(model: Any) -> bool:
    """Whether a model has what the engine uses: a causal Hugging Face model behind a bridge."""
    adapter = getattr(model, "adapter", None)
    return (
        getattr(adapter, "supports_kv_cache", False)
        and not is_bidirectional(model)
        and "unembed.hook_in" in model.hook_dict
        and hasattr(getattr(model, "original_model", None), "config")
    )


def base_run(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    *,
    component: str,
    layers: Sequence[int],
    reads: Sequence[int],
) -> Base:
    """Run the prompts once and keep what patches compare with and resume from."""
    if not can_resume(model):
        seen = observe(model, tokens, component=component, layers=layers, reads=reads)
        return Base(tokens, seen.activations, seen.logits, {}, None)
    own: dict[int, Tensor] = {}
    resid: dict[int, Tensor] = {}
    batch = Batch.of(model, tokens)
    at = batch.positions(list(reads))[0].to(tokens.device)
    hooks = [(Site(component, l).hook(model), keeping(own, l)) for l in layers]
    hooks += [
        (f"blocks.{l}.hook_resid_pre", keeping(resid, l))
        for l in range(min(layers), model.cfg.n_layers)
    ]
    hooks.append(("unembed.hook_in", lambda activation, hook: activation[:, at]))
    logits, cache = run(model, batch, hooks=hooks, return_type="logits_and_cache", use_cache=True)
    return Base(tokens, own, logits, resid, cache)


def resumed(
    model: Any, base: Base, cells: Sequence[Cell], source: Source, positions: Sequence[int]
) -> Float[Tensor, "cell batch position vocab"]:
    """Logits at `positions` under each patch, all in one pass.

    Cost: from the lowest patched layer up, `batch x sum over cells of (length - position)` tokens.
    """
    length, layer = base.tokens.shape[1], min(cell.layer for cell in cells)
    starts = torch.tensor([cell.position or 0 for cell in cells])
    first = (length - starts).cumsum(0) - (length - starts)  # where each branch begins
    owner = torch.arange(len(cells)).repeat_interleave(length - starts)
    place = torch.arange(len(owner)) - first[owner] + starts[owner]  # position in the prompt

    def inside(j: int) -> tuple[slice, Any]:
        begin = int(first[j])
        whole = slice(begin, begin + length)
        return slice(None), whole if cells[j].position is None else begin

    wanted = torch.tensor([p % length for p in positions])
    reads = (first[:, None] + (wanted - starts[:, None]).clamp_min(0)).flatten()
    hidden = base.resid[layer][:, place.to(base.tokens.device)]
    hooks = [
        (f"blocks.{layer}.hook_resid_pre", lambda activation, hook: hidden),
        *edits(model, cells, source, inside),
        ("unembed.hook_in", lambda activation, hook: activation[:, reads.to(activation.device)]),
    ]
    with torch.no_grad(), _skipping(model, layer), hooked(model, hooks):
        logits = model(
            hidden.clone(),
            attention_mask=_tree_mask(starts, owner, place, like=hidden),
            position_ids=place.to(hidden.device).expand(len(hidden), -1),
            past_key_values=_prefix(base.cache, int(starts.max())),
        )
    logits = logits.unflatten(1, (len(cells), len(wanted))).transpose(0, 1)
    early = wanted < starts[:, None]  # what no patch here can change
    if early.any():
        logits = torch.where(early.to(logits.device)[:, None, :, None], base.logits, logits)
    return logits


@contextlib.contextmanager
def _skipping(model: Any, layer: int) -> Iterator[None]:
    """Blocks below `layer` hand their input on; `start_at_layer` of the bridge would run them."""
    blocks = [model.blocks[i] for i in range(layer)]
    for block in blocks:
        block.__dict__["forward"] = lambda hidden, *_, **__: hidden
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _tree_mask(
    starts: Int[Tensor, " cell"],
    owner: Int[Tensor, " token"],
    place: Int[Tensor, " token"],
    *,
    like: Float[Tensor, "batch token d_model"],
) -> Float[Tensor, "batch 1 token key"]:
    """Each token sees the prefix before its branch's start, and its own branch, causally."""
    before = torch.arange(int(starts.max())) < starts[owner][:, None]
    own = (owner[:, None] == owner) & (place[:, None] >= place)
    seen = torch.cat([before, own], dim=1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(like.dtype).min)
    return mask.to(like)[None, None].expand(len(like), 1, -1, -1)


def _prefix(cache: Any, length: int) -> Any:
    """A fresh cache that holds the first `length` positions."""
    from transformers import DynamicCache

    prefix = DynamicCache()
    for i, layer in enumerate(cache.layers):
        prefix.update(layer.keys[:, :, :length], layer.values[:, :, :length], i)
    return prefix
