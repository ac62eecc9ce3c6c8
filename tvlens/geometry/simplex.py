"""`simplex_weights`: the convex combination of vertices that comes nearest to each point."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import TvlensError
from . import checks

# Numbers in the k x k systems that are solved together; bounds memory at some hundred MB.
_TOGETHER = 2**22


def simplex_weights(
    points: Float[Tensor, "n d"], vertices: Float[Tensor, "k d"]
) -> Float[Tensor, "n k"]:
    """Weights w of every point p on the simplex that minimise ||p - w V||^2, exactly.

    Solved in float64 by an active-set method (Lawson and Hanson 1974, chapter 23, with the sum
    constraint in every step) for all points at once: it ends at weights that meet the optimality
    conditions up to rounding. One vertex gives weights of 1.

    Args:
        points: what to explain, such as token-corrected hidden states.
        vertices: affinely independent, such as task vectors; k is at most d + 1.

    Returns:
        Non-negative weights whose rows sum to 1, in the dtype of the points (at least float32).

    Raises:
        TvlensError: different widths, NaN, or affinely dependent vertices, whose weights would not
            be unique.
    """
    checks.same_width("points", points, "vertices", vertices)
    v = checks.exact("vertices", vertices).to(points.device)
    p = checks.exact("points", points) if len(points) else points.double()
    frame, scale = _frame(v, torch.finfo(vertices.dtype).eps)
    # Rotated into the vertices' own k - 1 dimensions: what lies outside changes no weight.
    centre = v.mean(0)
    v = (v - centre) @ frame / scale
    parts = p.split(max(1, _TOGETHER // len(v) ** 2))
    weights = torch.cat([_solve((part - centre) @ frame / scale, v) for part in parts])
    return weights.to(checks.kept_dtype(points))


def _frame(vertices: Float[Tensor, "k d"], eps: float) -> tuple[Float[Tensor, "d m"], float]:
    """Orthonormal basis of the vertices' affine hull, and their size in it."""
    k = len(vertices)
    _, sizes, axes = torch.linalg.svd(vertices - vertices.mean(0), full_matrices=False)
    # Rounding the vertices' numbers moves singular values by eps times their norm at most.
    tolerance = 10 * eps * float(vertices.norm())
    if int((sizes > tolerance).sum()) < k - 1:
        raise TvlensError(_dependence(vertices, tolerance))
    return axes[: k - 1].T, float(sizes[0]) if k > 1 else 1.0


def _dependence(vertices: Float[Tensor, "k d"], tolerance: float) -> str:
    """Says which vertex is an affine combination of which others."""
    for i in range(1, len(vertices)):
        edges = (vertices[1:i] - vertices[0]).T
        target = vertices[i] - vertices[0]
        rest = torch.linalg.lstsq(edges, target[:, None], driver="gelsd").solution[:, 0]
        if (edges @ rest - target).norm() <= 2 * len(vertices) * tolerance:
            break
    weights = torch.cat([1 - rest.sum()[None], rest]).tolist()
    terms = [f"{w:.3g} x vertex {j}" for j, w in enumerate(weights) if abs(w) > 1e-6]
    return (
        f"vertex {i} is {' + '.join(terms)}: the weights of affinely dependent vertices are not "
        "unique, so leave one out"
    )


def _solve(p: Float[Tensor, "n m"], v: Float[Tensor, "k m"]) -> Float[Tensor, "n k"]:
    """Active sets of all points together; every round works on those not yet solved.

    `w` is always on the simplex and `face` holds the vertices that may have weight. A round goes
    to the best point of the face; if that lies outside, it stops at the first weight to reach
    zero and drops it, otherwise it takes in the vertex that promises most, or ends. Each step
    starts from the weights before it, which also refines away what bad conditioning costs.
    """
    n, k = len(p), len(v)
    w = p.new_full((n, k), 1 / k)
    w = (w + _step(w, p, v, w > 0)).clamp(min=0)
    w = w / w.sum(1, keepdim=True)
    face = w > 0
    open_ = torch.arange(n, device=p.device)
    for _ in range(100 * (k + 1)):
        if not len(open_):
            break
        w[open_], face[open_], done = _round(w[open_], face[open_], p[open_], v)
        open_ = open_[~done]
    else:
        raise TvlensError(f"point {int(open_[0])} found no optimum: are the vertices too close?")
    return w / w.sum(1, keepdim=True)


def _round(
    w: Float[Tensor, "n k"], face: Bool[Tensor, "n k"], p: Float[Tensor, "n m"], v: Tensor
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, "n k"], Bool[Tensor, " n"]]:
    step = _step(w, p, v, face)
    leaving = face & (w + step <= 0)
    # A vertex that was taken in and would leave at once promised only rounding.
    stuck = (leaving & (w == 0)).any(1)
    lengths = torch.where(leaving, w / -step, torch.inf)
    length = lengths.amin(1, keepdim=True).clamp(max=1)
    moved = torch.where(face & (lengths > length), w + length * step, 0).clamp(min=0)
    moved = torch.where(stuck[:, None], w, moved)

    residual = p - moved @ v
    gain = residual @ v.T - (residual * (moved @ v)).sum(1, keepdim=True)
    promise, best = torch.where(face, -torch.inf, gain).max(1)
    reached = ~leaving.any(1)
    room = 64 * torch.finfo(w.dtype).eps * (1 + residual.norm(dim=1))
    done = stuck | (reached & (promise <= room))
    face = moved > 0
    entering = reached & ~done
    face[entering, best[entering]] = True
    return moved, face, done


def _step(
    w: Float[Tensor, "n k"], p: Float[Tensor, "n m"], v: Tensor, face: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """From weights to the best ones on the affine hull of each point's face; sums to zero."""
    gradient = (p - w @ v) @ v.T * face
    inside = face.to(w)
    # Lifted by one dimension, independent vertices have a Gram matrix of full rank; vertices
    # outside the face get a row of the identity and stay where they are.
    gram = (v @ v.T + 1) * inside[:, :, None] * inside[:, None] + torch.diag_embed(1 - inside)
    x, y = torch.linalg.solve(gram, torch.stack([gradient, inside], -1)).unbind(-1)
    return x - y * (x.sum(1, keepdim=True) / y.sum(1, keepdim=True))
