"""Initialization of the projector by ridge regression."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from .augmentation import States
from .captions import name_ids
from .model import Projector

# Ridge penalty per row. Views of one image are similar, so a small one is enough.
_PENALTY = 5e-3

# Factor from the regression's outputs, between 0 and 1, to the inputs of the softmax.
_SHARPNESS = 100.0


def pad_name(ids: Sequence[int], length: int, pad_id: int) -> list[int]:
    """Pad a name's token ids on the left, or cut them on the right, to `length`."""
    return [*[pad_id] * (length - len(ids)), *ids[:length]]


@torch.no_grad()
def initialize_projector(
    projector: Projector,
    states: Float[Tensor, "row state d_vision"],
    categories: Int[Tensor, " row"],
    name_embeddings: Float[Tensor, "category token d_model"],
) -> None:
    """Set one hidden unit per category: a classifier of the states whose output is the name.

    Args:
        projector: changed in place.
        states: states of the encoder, for views of named images.
        categories: index of each row's category.
        name_embeddings: soft tokens of each category: the embeddings of its name.
    """
    inputs = projector.norm(rearrange(states, "row state d_vision -> row (state d_vision)"))
    targets = torch.nn.functional.one_hot(categories, len(name_embeddings)).to(inputs)
    input_mean, target_mean = inputs.mean(0), targets.mean(0)
    inputs, targets = inputs - input_mean, targets - target_mean
    penalty = _PENALTY * len(inputs) * torch.eye(inputs.shape[1]).to(inputs)
    weight = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    projector.inner.weight.copy_(_SHARPNESS * weight.T)
    projector.inner.bias.copy_(_SHARPNESS * (target_mean - input_mean @ weight))
    outer = rearrange(name_embeddings, "category token d_model -> (token d_model) category")
    projector.outer.weight.copy_(outer)
    projector.outer.bias.zero_()


def initialize_from_views(model: Any, tokenizer: Any, states: States, names: Sequence[str]) -> None:
    """Initialize a model's projector from all views of the training images.

    Args:
        model: the vision-language model.
        tokenizer: tokenizer of its language model.
        states: states of the views of every image.
        names: names of the images.
    """
    categories = sorted(set(names))
    (space,) = tokenizer(" ", add_special_tokens=False)["input_ids"]
    length = model.projector.tokens
    ids = [pad_name(name_ids(tokenizer, category), length, space) for category in categories]
    embeddings = model.get_input_embeddings()(torch.tensor(ids, device=model.device)).float()
    indices = torch.tensor([categories.index(name) for name in names])
    indices = indices.repeat_interleave(states.shape[1])
    views = states.flatten(0, 1).to(model.device).float()
    initialize_projector(model.projector, views, indices, embeddings)
