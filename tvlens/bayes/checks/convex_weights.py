"""Task vectors at the end of the context, and states as their convex combinations."""

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from ...errors import TvlensError
from ...geometry.cells import Cells
from ..regression import LinearRegression
from .probing import allowed_last_tokens, probes
from .simplex_projection import nearest_combination
from .states import StateSource, fit_by_position, last_features

# Task vectors as a function of the intercept, or of all features of the last observation.
TaskCoefficients = Float[Tensor, "major used d"]


def fit_task_vectors(
    source: StateSource, sequences: int, seed: int
) -> tuple[Float[Tensor, "major 1 d"], Float[Tensor, "major f d"]]:
    """Fit shared task vectors, and those that depend on the last observation; both sum to 0.

    Args:
        source: the states.
        sequences: number of sequences, with the last token forced in equal numbers; of a
            regression, natural sequences.
        seed: seed of the sequences.

    Raises:
        TvlensError: there are fewer than two sequences for every effect.
    """
    family = source.family
    is_regression = isinstance(family, LinearRegression)
    levels = family.dim + 1 if is_regression else len(allowed_last_tokens(family))
    if sequences < 2 * family.majors * levels:
        raise TvlensError(
            f"{sequences} sequences cannot fit {family.majors * levels} effects of task and last "
            f"observation: give at least {2 * family.majors * levels}"
        )
    if is_regression:
        task = torch.arange(family.majors).repeat_interleave(sequences // family.majors)
        data = family.sample_tasks(task, source.length, seed=seed)
        # A separate regression on the last input for every task.
        by_task = [source.read_last(data).double(), last_features(family, data)[:, -1]]
        states, features = (rearrange(x, "(k n) f -> n k f", k=family.majors) for x in by_task)
        vectors = fit_by_position(features, states)
    else:
        per_cell = sequences // (family.majors * levels)
        probed = probes(family, observations=source.length, per_cell=per_cell, seed=seed)
        cells = Cells.from_labels(probed.task, probed.token)
        means = cells.means(source.read_last(probed.data).double())
        shared = means.mean(1, keepdim=True)
        # Tokens that cannot be forced have the shared task vectors.
        vectors = torch.cat([shared, pad(means - shared, (0, 0, 0, family.vocabulary - levels))], 1)
    vectors = vectors - vectors.mean(0)
    return vectors[:, :1], vectors


def combine_task_vectors(
    weights: Float[Tensor, "n position major"], features: Tensor, vectors: TaskCoefficients
) -> Float[Tensor, "n position d"]:
    """Combine task vectors with these weights."""
    used = features[..., : vectors.shape[1]]
    return (weights[..., None] * used[..., None, :]).flatten(2) @ vectors.flatten(0, 1)


def fit_convex_weights(
    residual: Float[Tensor, "n position d"],
    features: Float[Tensor, "n position f"],
    vectors: TaskCoefficients,
    task: Int[Tensor, " n"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Fit the nearest convex combination of task vectors to every state.

    Args:
        residual: states minus mean and token effects.
        features: intercept and last observation.
        vectors: shared task vectors, or those that depend on the last observation.
        task: true task of each sequence.

    Returns:
        The weights, the squared distance from the combination, and that from the true task's
        vector.
    """
    k, used = vectors.shape[:2]
    axes = torch.linalg.svd(vectors.flatten(0, 1), full_matrices=False).Vh
    vectors, inside = vectors @ axes.T, residual @ axes.T
    outside = residual.square().sum(-1) - inside.square().sum(-1)
    points = inside.flatten(0, 1)
    vertices = vectors[:, 0]
    if used > 1:
        flat = features.flatten(0, 1)
        vertices = einsum(flat, vectors, "point f, k f m -> point k m")
    weights = nearest_combination(points, vertices)
    labels = one_hot(task, k).to(weights)[:, None].expand(*residual.shape[:2], k).flatten(0, 1)
    both = []
    for fit in (weights, labels):
        combination = fit @ vertices if used == 1 else (fit[:, None] @ vertices)[:, 0]
        distance = (points - combination).square().sum(-1).view_as(outside)
        both.append(outside + distance)
    return weights.view(*residual.shape[:2], k), *both
