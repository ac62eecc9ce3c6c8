"""States in the simplex of their task vectors: one for all last tokens, or each token's own."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...geometry import Effects, Subspace, simplex_weights
from ...geometry.cells import Cells


@dataclass(frozen=True)
class Placed:
    """States and the corners that they are held against.

    Attributes:
        rest: states from the centre of their simplex.
        corners: task vectors from that centre, by simplex.
        which: the simplex of each state.
    """

    rest: Float[Tensor, "n d"]
    corners: Float[Tensor, "simplex k d"]
    which: Int[Tensor, " n"]

    def weights(self) -> Float[Tensor, "n k"]:
        """Of the nearest convex combination of corners."""
        found = self.rest.new_zeros(len(self.rest), self.corners.shape[1])
        for one in self.which.unique().tolist():
            rows = self.which == one
            found[rows] = simplex_weights(self.rest[rows], self.corners[one]).to(found)
        return found

    def missed(self, weights: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """Squared distance from the combination of these weights."""
        return (self.rest - self.points(weights)).square().sum(1)

    def points(self, weights: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """The combinations of corners with these weights, from the centres."""
        return einsum(
            weights.to(self.corners),
            self.corners[self.which],
            "n corner, n corner d -> n d",
        )

    def part(self) -> Float[Tensor, "n d"]:
        """What of each state lies in the span of its corners."""
        found = torch.zeros_like(self.rest)
        # States come in single precision: what its rounding leaves is no direction.
        least = max(self.corners.shape[1:]) * torch.finfo(torch.float32).eps
        for one in self.which.unique().tolist():
            rows, corners = self.which == one, self.corners[one]
            found[rows] = Subspace.span(corners, tolerance=least).project(self.rest[rows])
        return found

    def turned(self, rng: np.random.Generator) -> "Placed":
        """The same states against corners of the same norms and angles, turned anywhere."""
        turned = random_like(self.corners.flatten(0, 1), rng)
        return replace(self, corners=turned.view_as(self.corners))


def shared(h: Float[Tensor, "n d"], token: Int[Tensor, " n"], effects: Effects) -> Placed:
    """One simplex for all tokens, moved by the token's effect."""
    rest = effects.residual(h, token).double()
    return Placed(rest, effects.task.double()[None], torch.zeros_like(token))


def own(
    h: Float[Tensor, "n d"],
    token: Int[Tensor, " n"],
    fitted: tuple[Float[Tensor, "m d"], Int[Tensor, " m"], Int[Tensor, " m"]],
) -> Placed:
    """A simplex for every token: the mean states of the tasks behind it.

    Args:
        fitted: other states, with their tasks and tokens, that the means are of.
    """
    states, tasks, tokens = fitted
    cells = Cells.of(tasks, tokens)
    means = rearrange(cells.means(states.double()), "task token d -> token task d")
    centre, which = means.mean(1), torch.searchsorted(cells.tokens, token)
    return Placed(h.double() - centre[which], means - centre[:, None], which)


def random_like(vectors: Float[Tensor, "k d"], rng: np.random.Generator) -> Float[Tensor, "k d"]:
    """Vectors of the same norms and mutual angles, turned anywhere."""
    k, d = vectors.shape
    exact = vectors.double()
    frame = torch.linalg.qr(exact.T).Q
    turned = np.linalg.qr(rng.standard_normal((d, min(k, d)))).Q
    return exact @ frame @ torch.from_numpy(turned).T
