"""The engine of tree attention: begin at the patched layer and position, and share the prefix.

A patch at layer l and position p changes nothing below l and nothing before p. So the blocks below
l do not run, the positions before p are read from the base run's keys and values, and many patches
ride in one forward pass, as branches of extra query tokens: each sees the base run up to its own
position, and itself, but no other branch (tree attention). A branch joins at its own layer: those
from below stop there and go on together with it.

Whether the results are exact on a model is verified against full forwards; see `verification`.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.families import family
from ..models.hooks import (
    Hook,
    replace_at,
    restricted_vocabulary,
    skip_blocks,
    unembed_only,
    with_hooks,
)
from .base_run import Base
from .full_forward import edits
from .sweep import Cell


@dataclass(frozen=True)
class Tree:
    """What each token of a pass sees.

    Attributes:
        seen: the prefix before its branch's start, and its own branch, causally.
        distance: how many positions back each key stands.
    """

    seen: Bool[Tensor, "row token key"]
    distance: Int[Tensor, "row token key"]

    @property
    def prefix(self) -> int:
        """How many keys of the prefix there are."""
        return self.seen.shape[2] - self.seen.shape[1]

    def first(self, count: int) -> "Tree":
        """The first tokens alone."""
        keys = self.prefix + count
        return Tree(self.seen[:, :count, :keys], self.distance[:, :count, :keys])


def tree_attention(
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
        unembed_only(model, read),
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

    def enter(layer: int) -> Callable[[Tensor], Tensor]:
        begin = max((end for l, end in joining.items() if l < layer), default=0)

        def join(activation: Tensor) -> Tensor:
            if layer not in entering:  # those from below stop here, and the layer's own join them
                new = base.resid[layer][rows, place[:, begin : joining[layer]]]
                entering[layer] = torch.cat([activation, new], dim=1)
            return entering[layer]

        return join

    hooks = [*(replace_at(f"blocks.{l}.hook_resid_pre", enter(l)) for l in layers), *hooks]
    entering[layers[0]] = base.resid[layers[0]][rows, place[:, : joining[layers[0]]]]
    narrow = restricted_vocabulary(model, base.vocabulary)
    with torch.no_grad(), narrow, with_hooks(model, hooks):
        for layer, above in itertools.zip_longest(layers, layers[1:]):
            hidden, count = entering[layer], joining[layer]
            with skip_blocks(model, range(layer)):
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


def tree(
    starts: Int[Tensor, "batch cell"], owner: Int[Tensor, " token"], step: Int[Tensor, " token"]
) -> Tree:
    """Which keys are seen, the prefix's first and then those of the pass itself."""
    if bool((starts == starts[:1]).all()):
        starts = starts[:1]  # prompts of one length share a mask
    prefix, begun = torch.arange(int(starts.max())), starts[:, owner]
    place = begun + step
    seen = torch.cat(
        [
            prefix < begun[..., None],
            ((owner[:, None] == owner) & (step[:, None] >= step)).expand(len(starts), -1, -1),
        ],
        dim=-1,
    )
    keys = torch.cat([prefix.expand(len(starts), -1), place], dim=-1)
    return Tree(seen, place[..., None] - keys[:, None])


def masks(
    model: Any, branches: Tree, *, like: Float[Tensor, "batch token d_model"]
) -> Tensor | dict[str, Tensor]:
    """A mask for attention to all that is seen; one per kind of layer where some have a window."""

    def additive(seen: Bool[Tensor, "row token key"]) -> Float[Tensor, "batch 1 token key"]:
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(like.dtype).min)
        return mask.to(like)[:, None].expand(len(like), -1, -1, -1)

    window, kinds = family(model).attention_window, family(model).layer_types
    if window is None or kinds == {"full_attention"}:
        return additive(branches.seen)
    near = additive(branches.seen & (branches.distance < window))
    return {"full_attention": additive(branches.seen), "sliding_attention": near} if kinds else near
