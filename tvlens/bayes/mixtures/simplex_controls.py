"""Controls for simplices of task vectors: other simplices with equally many vertices.

A control is a function of the states that define the task vectors and a random generator; it
returns centered vertices.
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


def shuffle_tasks(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """Average the states after permuting task labels among contexts with the same inputs."""
    tasks, _, contexts, _ = states.shape
    order = torch.from_numpy(rng.permuted(np.tile(np.arange(tasks), (contexts, 1)), axis=1))
    shuffled = torch.stack([states[order[c], :, c] for c in range(contexts)])
    return _center(shuffled.mean(0))  # of [context task layer d]


def rotate_vectors(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """Rotate the simplex of the task vectors at random, which keeps all norms and angles."""
    vertices = _center(states.mean(2)).double()
    tasks, layers, width = vertices.shape
    if tasks - 1 > width:
        raise TvlensError(f"{tasks} tasks have no simplex in {width} dimensions")
    basis, _ = np.linalg.qr(rng.standard_normal((layers, width, tasks - 1)))
    by_layer = rearrange(vertices, "task layer d_model -> layer task d_model")
    axes = torch.linalg.svd(by_layer, full_matrices=False).Vh
    coordinates = by_layer @ axes.mT[..., : tasks - 1]  # [layer task tasks-1]
    rotated = coordinates @ torch.from_numpy(basis).mT
    vectors: Tensor = rearrange(rotated, "layer task d_model -> task layer d_model").to(states)
    return vectors


def sample_states(
    states: Float[Tensor, "task layer context d_model"], rng: np.random.Generator
) -> Float[Tensor, "task layer d_model"]:
    """Sample states of single pure prompts from all tasks."""
    tasks, _, contexts, _ = states.shape
    indices = rng.choice(tasks * contexts, size=tasks, replace=False)
    single = rearrange(states, "task layer context d_model -> (task context) layer d_model")
    return _center(single[torch.from_numpy(indices)])


def sample_other_tasks(
    states: Float[Tensor, "task layer context d_model"],
    rng: np.random.Generator,
    *,
    others: Float[Tensor, "other layer d_model"],
) -> Float[Tensor, "task layer d_model"]:
    """Sample vectors of unrelated tasks, in random order."""
    indices = rng.choice(len(others), size=len(states), replace=False)
    return _center(others[torch.from_numpy(indices)])


# `sample_other_tasks` requires vectors of other tasks, which `retrieval_check` binds.
CONTROLS: dict[str, Control] = {
    "shuffled tasks": shuffle_tasks,
    "rotated vectors": rotate_vectors,
    "random states": sample_states,
}


def _center(vertices: Float[Tensor, "task layer d_model"]) -> Float[Tensor, "task layer d_model"]:
    return vertices - vertices.mean(0)
