"""Each control of the simplex vertices keeps its documented properties."""

import numpy as np
import pytest
import torch

from tvlens import TvlensError
from tvlens.bayes.mixtures.simplex_controls import (
    CONTROLS,
    rotate_vectors,
    sample_other_tasks,
    sample_states,
    shuffle_tasks,
)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(3, 2, 1, 16, generator=generator)
    return means + torch.randn(3, 2, 40, 16, generator=generator)


def rng():
    return np.random.default_rng(0)


def test_every_control_is_centered_and_reproducible(states):
    for control in CONTROLS.values():
        vertices = control(states, rng())
        assert vertices.shape == (3, 2, 16)
        torch.testing.assert_close(vertices.mean(0), torch.zeros(2, 16), atol=1e-5, rtol=0)
        assert torch.equal(control(states, rng()), vertices)


def test_rotate_vectors_keeps_lengths_and_angles_only(states):
    theta = states.mean(2) - states.mean((0, 2))
    rotated = rotate_vectors(states, rng())
    for layer in range(2):
        torch.testing.assert_close(
            rotated[:, layer] @ rotated[:, layer].T,
            theta[:, layer] @ theta[:, layer].T,
            rtol=1e-4,
            atol=1e-3,
        )
    cosine = torch.nn.functional.cosine_similarity(rotated, theta, dim=-1)
    assert cosine.abs().max() < 0.9
    with pytest.raises(TvlensError, match="no simplex in 1 dimensions"):
        rotate_vectors(states[..., :1], rng())


def test_shuffle_tasks_removes_task_means(states):
    theta = states.mean(2) - states.mean((0, 2))
    shuffled = shuffle_tasks(states, rng())
    assert shuffled.norm() < 0.4 * theta.norm()
    alike = states[:1].expand(3, -1, -1, -1)
    torch.testing.assert_close(shuffle_tasks(alike, rng()), torch.zeros(3, 2, 16))


def test_sampled_vertices_are_among_the_input_states(states):
    flat = states.movedim(2, 1).flatten(0, 1)
    vertices = sample_states(states, rng())
    edge = vertices[1] - vertices[0]
    edges = flat[:, None] - flat[None]
    assert (edges - edge).flatten(2).norm(dim=-1).min() < 1e-4
    others = torch.randn(5, 2, 16, generator=torch.Generator().manual_seed(1))
    sampled = sample_other_tasks(states, rng(), others=others)
    between = (others[:, None] - others[None]).flatten(2)
    assert (between - (sampled[1] - sampled[0]).flatten()).norm(dim=-1).min() < 1e-4
