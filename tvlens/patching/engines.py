"""Three engines that compute the logits of a group of patches, equal up to rounding.

- `full_forward`, the reference: every patch is a set of rows of a full forward pass.
- `batched`: each patch is a copy of the prompts, computed from its layer up. It needs a model that
  runs its blocks one after the other. `HookedTransformer` also keeps keys and values, so that its
  rows begin at the first position that any patch of the group can change.
- `tree_attention`: a patch at layer l and position p changes nothing below l and nothing before p.
  Blocks below l are skipped, positions before p are read from the base run's keys and values, and
  patches are branches of extra query tokens in one pass: each attends to the base run up to its own
  position and to itself, but to no other branch. A branch joins at its own layer.

Whether the fast engines are exact on a model is verified against full forwards; see
`verification`.
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
from ..models.forward import Batch, logits_at
from ..models.hooks import (
    Hook,
    replace_at,
    restricted_vocabulary,
    skip_blocks,
    unembed_only,
    with_hooks,
    write_at,
)
from .grid import Patch
from .setup import BaseRun


@dataclass(frozen=True)
class PatchGroup:
    """Patches that run in one pass, with their replacements.

    Attributes:
        patches: in the order of layers.
        replacements: for each patch, the activation that it writes, `[batch, ...]`.
    """

    patches: Sequence[Patch]
    replacements: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.patches)

    def take(self, indices: Sequence[int]) -> "PatchGroup":
        """Select patches by index."""
        return PatchGroup(
            [self.patches[i] for i in indices], [self.replacements[i] for i in indices]
        )

    def hooks(self, model: Any, place: Callable[[int], tuple]) -> list[Hook]:
        """Create one hook per layer that writes each replacement into its rows and positions.

        Args:
            place: number of a patch -> (rows, positions) in the running activation.
        """
        by_layer: dict[int, list[int]] = {}
        for j, patch in enumerate(self.patches):
            by_layer.setdefault(patch.layer, []).append(j)
        return [
            write_at(
                self.patches[members[0]].site.hook(model),
                *((self.patches[j].index(*place(j)), self.replacements[j]) for j in members),
            )
            for members in by_layer.values()
        ]


def full_forward(
    model: Any, base: BaseRun, group: PatchGroup
) -> Float[Tensor, "patch batch position vocab"]:
    """Compute the logits under each patch by a full forward pass per patch."""
    return _full_forward(model, base, group, base.vocabulary)


def _full_forward(
    model: Any, base: BaseRun, group: PatchGroup, vocabulary: Sequence[int] | None
) -> Float[Tensor, "patch batch position vocab"]:
    prompts, batch = base.prompts, len(base.prompts)
    rows = prompts.repeat(len(group))

    def place(j: int) -> tuple:
        positions = group.patches[j].positions(prompts.lengths)
        return torch.arange(j * batch, (j + 1) * batch), positions

    hooks = group.hooks(model, place)
    absolute = rows.positions(list(base.positions))
    logits = logits_at(model, rows, absolute, hooks=hooks, vocabulary=vocabulary)
    by_patch: Tensor = logits.unflatten(0, (len(group), batch))
    return by_patch


def full_forward_of_examples(
    model: Any, base: BaseRun, group: PatchGroup, examples: Sequence[int]
) -> Float[Tensor, "patch position vocab"]:
    """Compute full forward passes with each patch on one example, for the whole vocabulary.

    Args:
        examples: for each patch, the index of its prompt.
    """
    prompts = base.prompts
    if prompts.processor_outputs:  # only the processor assigns images to prompts
        logits = _full_forward(model, base, group, None)
        return logits[range(len(group)), list(examples)]
    index = torch.tensor(list(examples))
    rows = Batch(prompts.inputs[index.to(prompts.inputs.device)], prompts.lengths[index])
    pairs = zip(group.replacements, examples, strict=True)
    single = PatchGroup(group.patches, [value[i : i + 1] for value, i in pairs])

    def place(j: int) -> tuple:
        positions = group.patches[j].positions(rows.lengths)
        row = torch.tensor([j])
        return row, positions if isinstance(positions, slice) else positions[j : j + 1]

    absolute = rows.positions(list(base.positions))
    return logits_at(model, rows, absolute, hooks=single.hooks(model, place))


def batched(
    model: Any, base: BaseRun, group: PatchGroup
) -> Float[Tensor, "patch batch position vocab"]:
    """Logits at the metrics' positions under each patch.

    Cost: from the lowest patched layer up, `patches x batch x (length - first position)` tokens.
    """
    prompts, layer = base.prompts, min(patch.layer for patch in group.patches)
    batch, count = len(prompts), len(group)
    first = min(first_position(model, patch, prompts) for patch in group.patches)
    absolute = prompts.positions(list(base.positions))
    ends = (absolute - first).clamp_min(0).repeat(count, 1)

    def place(j: int) -> tuple:
        positions = group.patches[j].positions(prompts.lengths)
        shifted = positions if group.patches[j].position is None else positions - first
        return torch.arange(j * batch, (j + 1) * batch), shifted

    hidden = base.resid[layer][:, first:].repeat(count, 1, 1)
    hooks = [
        *group.hooks(model, place),
        unembed_only(model, ends),
    ]
    forward = _forward_from_cache if family(model).is_hooked_transformer else _forward_from_layer
    with torch.no_grad(), restricted_vocabulary(model, base.vocabulary):
        logits = forward(model, base, hidden, hooks, layer=layer, first=first, count=count)
    logits = logits.unflatten(0, (count, batch))
    unchanged = absolute < first  # no patch here can change these
    if unchanged.any():
        logits = torch.where(
            unchanged[..., None].to(logits.device), base.site_activations.logits, logits
        )
    return logits


def first_position(model: Any, patch: Patch, prompts: Batch) -> int:
    """Return the first position that the rows of a patch compute."""
    return (
        int(patch.first_position(prompts.lengths).min())
        if family(model).is_hooked_transformer
        else 0
    )


def _forward_from_layer(
    model: Any, base: BaseRun, hidden: Tensor, hooks: list, *, layer: int, first: int, count: int
) -> Tensor:
    """Run the model's forward method with its lower blocks skipped."""
    prompts = base.prompts
    rows = prompts.repeat(count)
    enter = replace_at(f"blocks.{layer}.hook_resid_pre", lambda activation: hidden)
    with skip_blocks(model, range(layer)), with_hooks(model, [enter, *hooks]):
        logits: Tensor = model(rows.inputs, **rows.options(model))
        return logits


def _forward_from_cache(
    model: Any, base: BaseRun, hidden: Tensor, hooks: list, *, layer: int, first: int, count: int
) -> Tensor:
    """Run a HookedTransformer from a layer on, with the frozen keys of the base run."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    prefix = TransformerLensKeyValueCache.init_cache(model.cfg, hidden.device, len(hidden))
    for entry, base_entry in zip(prefix.entries, base.cache.entries, strict=True):
        entry.past_keys = base_entry.past_keys[:, :first].repeat(count, 1, 1, 1)
        entry.past_values = base_entry.past_values[:, :first].repeat(count, 1, 1, 1)
    prefix.freeze()
    mask = torch.ones(len(hidden), first + hidden.shape[1], device=hidden.device, dtype=torch.long)
    with with_hooks(model, hooks):
        logits: Tensor = model(
            hidden, start_at_layer=layer, past_kv_cache=prefix, attention_mask=mask
        )
        return logits


@dataclass(frozen=True)
class Tree:
    """The keys that each token of a pass attends to.

    Attributes:
        visible: the prefix before its branch's start, and its own branch, causally.
        distance: number of positions between each token and its key.
    """

    visible: Bool[Tensor, "row token key"]
    distance: Int[Tensor, "row token key"]

    @property
    def prefix(self) -> int:
        """Number of keys of the prefix."""
        return self.visible.shape[2] - self.visible.shape[1]

    def first(self, count: int) -> "Tree":
        """Select the first tokens."""
        keys = self.prefix + count
        return Tree(self.visible[:, :count, :keys], self.distance[:, :count, :keys])


def tree_attention(
    model: Any, base: BaseRun, group: PatchGroup
) -> Float[Tensor, "patch batch position vocab"]:
    """Logits at the metrics' positions under each patch.

    Cost: from each patch's layer up, `batch x (length - position)` tokens.
    """
    patches, lengths, count = group.patches, base.prompts.lengths, len(group)
    starts = torch.stack([p.first_position(lengths) for p in patches], dim=1)  # [batch, patch]
    widths = (lengths[:, None] - starts).amax(0)
    ends = widths.cumsum(0)
    first = ends - widths  # where each branch begins
    owner = torch.arange(count).repeat_interleave(widths)
    step = torch.arange(len(owner)) - first[owner]  # position of a token in its branch
    # Position in the prompt; after the end of a short prompt it is padding, which is not read.
    positions = (starts[:, owner] + step).clamp_max(int(lengths.max()) - 1)
    rows = torch.arange(len(lengths))[:, None]

    def place(j: int) -> tuple:
        begin = int(first[j])
        branch = slice(begin, int(ends[j]))
        return rows[:, 0], branch if patches[j].position is None else begin

    absolute = base.prompts.positions(list(base.positions))[:, None]  # [batch, 1, read]
    read = (first[:, None] + (absolute - starts[..., None]).clamp_min(0)).flatten(1)
    hooks = [
        *group.hooks(model, place),
        unembed_only(model, read),
    ]
    joining = {patch.layer: int(end) for patch, end in zip(patches, ends, strict=True)}
    branches = build_tree(starts, owner, step)
    logits: Tensor = _forward_branches(model, base, positions, branches, joining, hooks).unflatten(
        1, (count, -1)
    )
    unchanged = absolute < starts[..., None]  # no patch here can change these
    if unchanged.any():
        logits = torch.where(
            unchanged[..., None].to(logits.device), base.site_activations.logits[:, None], logits
        )
    return logits.transpose(0, 1)


def _forward_branches(
    model: Any,
    base: BaseRun,
    positions: Int[Tensor, "batch token"],
    branches: Tree,
    joining: Mapping[int, int],
    hooks: Sequence[Hook],
) -> Float[Tensor, "batch read vocab"]:
    """Compute the logits of branches that start at different layers.

    Args:
        joining: layers where branches enter, upwards -> how many tokens there are from there on.
    """
    rows, layers = torch.arange(len(positions))[:, None], list(joining)
    entering: dict[int, Tensor] = {}

    def enter(layer: int) -> Callable[[Tensor], Tensor]:
        begin = max((end for l, end in joining.items() if l < layer), default=0)

        def join(activation: Tensor) -> Tensor:
            if layer not in entering:  # those from below stop here, and the layer's own join them
                new = base.resid[layer][rows, positions[:, begin : joining[layer]]]
                entering[layer] = torch.cat([activation, new], dim=1)
            return entering[layer]

        return join

    hooks = [*(replace_at(f"blocks.{l}.hook_resid_pre", enter(l)) for l in layers), *hooks]
    entering[layers[0]] = base.resid[layers[0]][rows, positions[:, : joining[layers[0]]]]
    restricted = restricted_vocabulary(model, base.vocabulary)
    with torch.no_grad(), restricted, with_hooks(model, hooks):
        for layer, above in itertools.zip_longest(layers, layers[1:]):
            hidden, count = entering[layer], joining[layer]
            with skip_blocks(model, range(layer)):
                logits: Tensor = model(
                    hidden.clone(),
                    attention_mask=build_attention_masks(model, branches.first(count), like=hidden),
                    position_ids=positions[:, :count].to(hidden.device),
                    past_key_values=_copy_prefix(base.cache, branches.prefix),
                    stop_at_layer=above,
                )
            del entering[layer]
    return logits


def _copy_prefix(cache: Any, length: int) -> Any:
    """Copy the first `length` positions of a cache."""
    from transformers import DynamicCache

    prefix = DynamicCache()
    for layer in cache.layers:
        prefix.layers.append(short := copy.copy(layer))  # what comes is joined to it, not into it
        short.keys, short.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return prefix


def build_tree(
    starts: Int[Tensor, "batch patch"], owner: Int[Tensor, " token"], step: Int[Tensor, " token"]
) -> Tree:
    """List the keys that each token attends to: those of the prefix, then those of the pass."""
    if bool((starts == starts[:1]).all()):
        starts = starts[:1]  # prompts of one length share a mask
    prefix, branch_starts = torch.arange(int(starts.max())), starts[:, owner]
    positions = branch_starts + step
    visible = torch.cat(
        [
            prefix < branch_starts[..., None],
            ((owner[:, None] == owner) & (step[:, None] >= step)).expand(len(starts), -1, -1),
        ],
        dim=-1,
    )
    keys = torch.cat([prefix.expand(len(starts), -1), positions], dim=-1)
    return Tree(visible, positions[..., None] - keys[:, None])


def build_attention_masks(
    model: Any, branches: Tree, *, like: Float[Tensor, "batch token d_model"]
) -> Tensor | dict[str, Tensor]:
    """Build attention masks, one per kind of layer if some have a sliding window."""

    def additive(visible: Bool[Tensor, "row token key"]) -> Float[Tensor, "batch 1 token key"]:
        mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(like.dtype).min)
        return mask.to(like)[:, None].expand(len(like), -1, -1, -1)

    window, layer_types = family(model).attention_window, family(model).layer_types
    if window is None or layer_types == {"full_attention"}:
        return additive(branches.visible)
    near = additive(branches.visible & (branches.distance < window))
    return (
        {"full_attention": additive(branches.visible), "sliding_attention": near}
        if layer_types
        else near
    )
