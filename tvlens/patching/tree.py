"""`Tree`: which tokens see which where many branches share one pass."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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

    config = model.original_model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window is None or kinds == {"full_attention"}:
        return additive(branches.seen)
    near = additive(branches.seen & (branches.distance < window))
    return {"full_attention": additive(branches.seen), "sliding_attention": near} if kinds else near
