"""Where the projector begins: it tells things apart by ridge regression, and says their names."""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...models.tiny_vlm import Projector

# Ridge penalty for each row. Views of one drawing are alike, so little is enough.
_PENALTY = 5e-3

# How sharply the regression's outputs, between 0 and 1, are turned into shares.
_SHARPNESS = 100.0


def padded(name: Sequence[int], count: int, filler: int) -> list[int]:
    """A name's tokens at the end of `count` places, behind fillers; a longer name is cut."""
    return [*[filler] * (count - len(name)), *name[:count]]


@torch.no_grad()
def begin(
    projector: Projector,
    states: Float[Tensor, "row seen state"],
    things: Int[Tensor, " row"],
    words: Float[Tensor, "thing token d_model"],
) -> None:
    """Give the projector a hidden unit for every thing, which knows it and says its name.

    Args:
        states: of the encoder, of many views of named pictures.
        things: which thing each row shows.
        words: embeddings of every thing's name, as soft tokens should be.
    """
    seen = projector.norm(rearrange(states, "row seen state -> row (seen state)"))
    shown = torch.nn.functional.one_hot(things, len(words)).to(seen)
    seen_mean, shown_mean = seen.mean(0), shown.mean(0)
    seen, shown = seen - seen_mean, shown - shown_mean
    penalty = _PENALTY * len(seen) * torch.eye(seen.shape[1]).to(seen)
    weight = torch.linalg.solve(seen.T @ seen + penalty, seen.T @ shown)
    projector.inner.weight.copy_(_SHARPNESS * weight.T)
    projector.inner.bias.copy_(_SHARPNESS * (shown_mean - seen_mean @ weight))
    projector.outer.weight.copy_(rearrange(words, "thing token d_model -> (token d_model) thing"))
    projector.outer.bias.zero_()
