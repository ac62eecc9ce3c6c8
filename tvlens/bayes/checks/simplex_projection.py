"""`SimplexProjection`: states as convex combinations of task vectors."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...geometry import Effects, Subspace, simplex_weights
from ...geometry.cells import Cells
from .probing import ProbeStates

# Relative size of the coordinates that decide between equally near combinations.
_TIE_BREAK = 1e-4


@dataclass(frozen=True)
class SimplexProjection:
    """States and the simplices of task vectors onto which they are projected.

    Attributes:
        states: states relative to the centre of their simplex.
        vertices: task vectors relative to that centre, by simplex.
        simplex: index of each state's simplex.
    """

    states: Float[Tensor, "n d"]
    vertices: Float[Tensor, "simplex k d"]
    simplex: Int[Tensor, " n"]

    def fit_weights(self) -> Float[Tensor, "n k"]:
        """Compute the weights of the nearest convex combination of vertices."""
        weights = self.states.new_zeros(len(self.states), self.vertices.shape[1])
        for index in self.simplex.unique().tolist():
            rows = self.simplex == index
            weights[rows] = nearest_combination(self.states[rows], self.vertices[index]).to(weights)
        return weights

    def squared_residual(self, weights: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Compute the squared distance of each state from a combination of vertices."""
        return (self.states - self.combine(weights)).square().sum(1)

    def combine(self, weights: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Combine the vertices with these weights, relative to the centres."""
        return einsum(
            weights.to(self.vertices),
            self.vertices[self.simplex],
            "n vertex, n vertex d -> n d",
        )

    def project(self) -> Float[Tensor, "n d"]:
        """Project each state onto the span of its vertices."""
        projection = torch.zeros_like(self.states)
        # States have single precision: ignore directions below its rounding error.
        tolerance = max(self.vertices.shape[1:]) * torch.finfo(torch.float32).eps
        for index in self.simplex.unique().tolist():
            rows, vertices = self.simplex == index, self.vertices[index]
            span = Subspace.span(vertices, tolerance=tolerance)
            projection[rows] = span.project(self.states[rows])
        return projection

    def rotate_vertices(self, rng: np.random.Generator) -> "SimplexProjection":
        """Replace the vertices by randomly rotated ones with the same norms and angles."""
        rotated = rotate_randomly(self.vertices.flatten(0, 1), rng)
        return replace(self, vertices=rotated.view_as(self.vertices))


def nearest_combination(
    points: Float[Tensor, "n d"], vertices: Float[Tensor, "k d"] | Float[Tensor, "n k d"]
) -> Float[Tensor, "n k"]:
    """Compute the weights of the nearest convex combination of vertices.

    Where several are nearest, as for affinely dependent vertices, they are those closest to equal
    weights: the problem has one more coordinate for every vertex, small enough to change other
    weights by a relative error of 1e-8.
    """
    k = vertices.shape[-2]
    size = vertices.square().sum(-1).mean().sqrt().clamp(min=1e-30)
    ties = _TIE_BREAK * size * torch.eye(k).to(vertices).expand(*vertices.shape[:-2], k, k)
    center = (_TIE_BREAK * size / k).expand(len(points), k)
    return simplex_weights(torch.cat([points, center], -1), torch.cat([vertices, ties], -1))


def project_on_shared_simplex(
    states: Float[Tensor, "n d"], token: Int[Tensor, " n"], effects: Effects
) -> SimplexProjection:
    """Project states on one simplex for all tokens, after removing mean and token effects."""
    residual = effects.residual(states, token).double()
    return SimplexProjection(residual, effects.task.double()[None], torch.zeros_like(token))


def project_on_token_simplices(
    states: Float[Tensor, "n d"], token: Int[Tensor, " n"], fitted: ProbeStates
) -> SimplexProjection:
    """Project states on one simplex per token, whose vertices are the mean states of the tasks.

    Args:
        fitted: other states, with their tasks and tokens, from which the means are computed.
    """
    cells = Cells.from_labels(fitted.task, fitted.token)
    means = rearrange(cells.means(fitted.values.double()), "task token d -> token task d")
    centre, simplex = means.mean(1), torch.searchsorted(cells.tokens, token)
    return SimplexProjection(states.double() - centre[simplex], means - centre[:, None], simplex)


def rotate_randomly(
    vectors: Float[Tensor, "k d"], rng: np.random.Generator
) -> Float[Tensor, "k d"]:
    """Rotate vectors at random, which keeps their norms and mutual angles."""
    k, d = vectors.shape
    vectors = vectors.double()
    basis = torch.linalg.qr(vectors.T).Q
    rotated = np.linalg.qr(rng.standard_normal((d, min(k, d)))).Q
    rotated_vectors: Tensor = vectors @ basis @ torch.from_numpy(rotated).T
    return rotated_vectors
