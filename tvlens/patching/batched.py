"""The engine of batched rows: each patch is a copy of the prompts, from its layer up.

It needs a model that runs its blocks one after the other. HookedTransformer also keeps keys and
values, so that its rows begin at the first position that any patch of the group can change.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.families import family
from ..models.forward import Batch
from ..models.hooks import (
    replace_at,
    restricted_vocabulary,
    skip_blocks,
    unembed_only,
    with_hooks,
)
from .base_run import Base
from .full_forward import edits
from .sweep import Cell


def batched(
    model: Any, base: Base, cells: Sequence[Cell], parts: Sequence[Tensor], reads: Sequence[int]
) -> Float[Tensor, "cell batch position vocab"]:
    """Logits at `reads` with each patch's part written in.

    Cost: from the lowest patched layer up, `cells x batch x (length - first position)` tokens.
    """
    prompts, layer = base.prompts, min(cell.layer for cell in cells)
    batch, count = len(prompts), len(cells)
    first = min(first_position(model, cell, prompts) for cell in cells)
    wanted = prompts.positions(list(reads))
    ends = (wanted - first).clamp_min(0).repeat(count, 1)

    def where(j: int) -> tuple:
        place = cells[j].place(prompts.lengths)
        shifted = place if cells[j].position is None else place - first
        return torch.arange(j * batch, (j + 1) * batch), shifted

    hidden = base.resid[layer][:, first:].repeat(count, 1, 1)
    hooks = [
        *edits(model, cells, parts, where),
        unembed_only(model, ends),
    ]
    start = _from_cache if family(model).is_hooked_transformer else _skipping_blocks
    with torch.no_grad(), restricted_vocabulary(model, base.vocabulary):
        logits = start(model, base, hidden, hooks, layer=layer, first=first, count=count)
    logits = logits.unflatten(0, (count, batch))
    early = wanted < first  # what no patch here can change
    if early.any():
        logits = torch.where(early[..., None].to(logits.device), base.seen.logits, logits)
    return logits


def first_position(model: Any, cell: Cell, prompts: Batch) -> int:
    """The first position that a patch's rows must run."""
    return int(cell.start(prompts.lengths).min()) if family(model).is_hooked_transformer else 0


def _skipping_blocks(
    model: Any, base: Base, hidden: Tensor, hooks: list, *, layer: int, first: int, count: int
) -> Tensor:
    """The model's own forward, whose lower blocks hand on what they get."""
    prompts = base.prompts
    rows = prompts.repeat(count)
    enter = replace_at(f"blocks.{layer}.hook_resid_pre", lambda activation: hidden)
    with skip_blocks(model, range(layer)), with_hooks(model, [enter, *hooks]):
        return model(rows.inputs, **rows.options(model))


def _from_cache(
    model: Any, base: Base, hidden: Tensor, hooks: list, *, layer: int, first: int, count: int
) -> Tensor:
    """HookedTransformer's own way: begin at a layer, behind the frozen keys of the base run."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    prefix = TransformerLensKeyValueCache.init_cache(model.cfg, hidden.device, len(hidden))
    for entry, kept in zip(prefix.entries, base.cache.entries, strict=True):
        entry.past_keys = kept.past_keys[:, :first].repeat(count, 1, 1, 1)
        entry.past_values = kept.past_values[:, :first].repeat(count, 1, 1, 1)
    prefix.freeze()
    seen = torch.ones(len(hidden), first + hidden.shape[1], device=hidden.device, dtype=torch.long)
    with with_hooks(model, hooks):
        return model(hidden, start_at_layer=layer, past_kv_cache=prefix, attention_mask=seen)
