"""Where the projector begins: at the best linear map from pictures to the words for them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.tiny_vlm import Projector

# Ridge penalty for each row. Views of one drawing are alike, so little is enough.
_PENALTY = 2e-4


def spread(name: Sequence[int], count: int) -> list[int]:
    """A name's tokens over `count` places: repeated where it is shorter, thinned where longer.

    Soft tokens that say the same are each surer of it than one alone.
    """
    return [name[place * len(name) // count] for place in range(count)]


@torch.no_grad()
def begin(
    projector: Projector,
    states: Float[Tensor, "row seen state"],
    words: Float[Tensor, "row token d_model"],
) -> None:
    """Set the projector to the reduced-rank ridge regression from states to embeddings.

    The rank is half the hidden width, since gelu(z) - gelu(-z) = z: two hidden units are one
    linear one.

    Args:
        states: of the encoder, of many views of named pictures.
        words: embeddings of their names, as soft tokens should be.

    Source: Izenman 1975, for the regression.
    """
    seen = projector.norm(states.flatten(1))
    wanted = words.flatten(1)
    seen_mean, wanted_mean = seen.mean(0), wanted.mean(0)
    seen, wanted = seen - seen_mean, wanted - wanted_mean
    gram, cross = seen.T @ seen, seen.T @ wanted
    penalty = _PENALTY * len(seen) * torch.eye(len(gram)).to(gram)
    weight = torch.linalg.solve(gram + penalty, cross)
    # The directions in which predictions vary most, and how much they do.
    spectrum, directions = torch.linalg.eigh(weight.T @ (gram @ weight))
    rank = min(projector.inner.out_features // 2, directions.shape[1])
    directions = directions[:, -rank:]
    scale = (spectrum[-rank:] / len(seen)).clamp(min=1e-12).sqrt()
    first = (weight @ directions / scale).T
    second = directions * scale
    for layer in (projector.inner, projector.outer):
        layer.weight.zero_()
        layer.bias.zero_()
    half = projector.inner.out_features // 2
    for sign, start in ((1, 0), (-1, half)):
        units = slice(start, start + rank)
        projector.inner.weight[units] = sign * first
        projector.inner.bias[units] = -sign * (first @ seen_mean)
        projector.outer.weight[:, units] = sign * second
    projector.outer.bias.copy_(wanted_mean)
