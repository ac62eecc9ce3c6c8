"""Controls for task vectors as vertices: other simplices with as many corners.

Each is a function of the states behind the task vectors and a generator; it gives vertices less
their mean, as the task vectors are used.
"""

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError

Control = Callable[
    [Float[Tensor, "task layer context d_model"], np.random.Generator],
    Float[Tensor, "task layer d_model"],
]


def shuffled_tasks(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """Means of the same states with the task labels permuted among contexts on the same inputs."""
    tasks, _, contexts, _ = states.shape
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(tasks), (contexts, 1)), axis=1))
    mixed = torch.stack([states[order[c], :, c] for c in range(contexts)])  # [context task layer d]
    return _centred(mixed.mean(0))


def turned_vectors(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """The task vectors' own simplex, all lengths and angles kept, in a random orientation."""
    vertices = _centred(states.mean(2)).double()
    tasks, layers, width = vertices.shape
    if tasks - 1 > width:
        raise TvlensError(f"{tasks} tasks have no simplex in {width} dimensions")
    basis, _ = np.linalg.qr(rng.standard_normal((layers, width, tasks - 1)))
    by_layer = rearrange(vertices, "task layer d_model -> layer task d_model")
    axes = torch.linalg.svd(by_layer, full_matrices=False).Vh
    own = by_layer @ axes.mT[..., : tasks - 1]  # [layer task tasks-1]
    turned = own @ torch.from_numpy(basis).mT
    return rearrange(turned, "layer task d_model -> task layer d_model").to(states)


def random_states(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """States of single pure prompts, drawn from all tasks alike."""
    tasks, _, contexts, _ = states.shape
    drawn = rng.choice(tasks * contexts, size=tasks, replace=False)
    single = rearrange(states, "task layer context d_model -> (task context) layer d_model")
    return _centred(single[torch.from_numpy(drawn)])


def other_tasks(
    states: Float[Tensor, "task layer context d_model"],
    rng: np.random.Generator,
    *,
    others: Float[Tensor, "other layer d_model"],
) -> Float[Tensor, "task layer d_model"]:
    """As many vectors of unrelated tasks, in random order."""
    drawn = rng.choice(len(others), size=len(states), replace=False)
    return _centred(others[torch.from_numpy(drawn)])


# By name; `other_tasks` needs vectors of its own and joins where they are at hand.
CONTROLS: dict[str, Control] = {
    "shuffled tasks": shuffled_tasks,
    "turned vectors": turned_vectors,
    "random states": random_states,
}


def _centred(vertices: Float[Tensor, "task layer d_model"]) -> Float[Tensor, "task layer d_model"]:
    return vertices - vertices.mean(0)
