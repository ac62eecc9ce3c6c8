"""`simplex_weights`: the convex combination of vertices nearest to each point."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import TvlensError
from . import checks

# Numbers in the k x k systems that are solved at once; bounds memory to some hundred MB.
_BLOCK_NUMBERS = 2**22


# Vertices shared by all points, or those of each point.
Vertices = Float[Tensor, "k m"] | Float[Tensor, "n k m"]


def simplex_weights(
    points: Float[Tensor, "n d"], vertices: Float[Tensor, "k d"] | Float[Tensor, "n k d"]
) -> Float[Tensor, "n k"]:
    """Compute, for every point p, the weights w on the simplex that minimise ||p - w V||^2.

    Solved exactly in float64 by an active-set method (Lawson and Hanson 1974, chapter 23, with
    the sum constraint in every step) for all points at once: the weights satisfy the optimality
    conditions up to rounding. A single vertex has weight 1.

    Args:
        points: points to approximate, such as token-corrected hidden states.
        vertices: affinely independent, such as task vectors; k is at most d + 1. Those of all
            points, or separate ones for each.

    Returns:
        Non-negative weights whose rows sum to 1, in the dtype of the points (at least float32).

    Raises:
        TvlensError: widths differ, a value is NaN, or the vertices are affinely dependent, so that
            weights are not unique.

    Example:
        >>> vertices = torch.eye(3)
        >>> tv.simplex_weights(torch.tensor([[0.5, 0.25, 0.25]]), vertices)
        tensor([[0.5000, 0.2500, 0.2500]])
    """
    checks.check_same_width("points", points, "vertices", vertices)
    v = checks.as_float64("vertices", vertices).to(points.device)
    p = checks.as_float64("points", points) if len(points) else points.double()
    eps = torch.finfo(vertices.dtype).eps
    block = max(1, _BLOCK_NUMBERS // v.shape[-2] ** 2)
    if v.ndim == 3:
        checks.check_same_length("points", p, "vertices", v)
        pairs = zip(p.split(block), v.split(block), strict=True)
        weights = torch.cat([_solve_active_set(*_reduce_each(*pair, eps)) for pair in pairs])
        return weights.to(checks.result_dtype(points))
    axes, scale = _affine_axes(v, eps)
    # Weights depend only on the k - 1 dimensions of the vertices' affine hull.
    center = v.mean(0)
    v = (v - center) @ axes / scale
    parts = p.split(block)
    weights = torch.cat([_solve_active_set((part - center) @ axes / scale, v) for part in parts])
    return weights.to(checks.result_dtype(points))


def _reduce_each(
    points: Float[Tensor, "n d"], vertices: Float[Tensor, "n k d"], eps: float
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n k m"]]:
    """Express every point and its own vertices in the k - 1 dimensions of their affine hull."""
    center = vertices.mean(1, keepdim=True)
    centered = vertices - center
    axes, extents = torch.linalg.qr(centered[:, :-1].mT)
    tolerance = 10 * eps * vertices.flatten(1).norm(dim=1, keepdim=True)
    is_dependent = (extents.diagonal(dim1=1, dim2=2).abs() <= tolerance).any(1)
    if axes.shape[-1] < centered.shape[1] - 1:
        is_dependent[:] = True
    if bool(is_dependent.any()):
        raise TvlensError(
            f"the vertices of point {int(is_dependent.nonzero()[0])} are affinely dependent: their "
            "weights are not unique"
        )
    scale = centered.flatten(1).norm(dim=1)[:, None, None]
    reduced = (points[:, None] - center) @ axes / scale
    return reduced[:, 0], centered @ axes / scale


def _affine_axes(vertices: Float[Tensor, "k d"], eps: float) -> tuple[Float[Tensor, "d m"], float]:
    """Compute an orthonormal basis of the vertices' affine hull, and their largest extent."""
    k = len(vertices)
    _, sizes, axes = torch.linalg.svd(vertices - vertices.mean(0), full_matrices=False)
    # Rounding the vertices changes singular values by at most eps times their norm.
    tolerance = 10 * eps * float(vertices.norm())
    if int((sizes > tolerance).sum()) < k - 1:
        raise TvlensError(_describe_dependence(vertices, tolerance))
    return axes[: k - 1].T, float(sizes[0]) if k > 1 else 1.0


def _describe_dependence(vertices: Float[Tensor, "k d"], tolerance: float) -> str:
    """Describe which vertex is an affine combination of which others."""
    for i in range(1, len(vertices)):
        edges = (vertices[1:i] - vertices[0]).T
        target = vertices[i] - vertices[0]
        coefficients = torch.linalg.lstsq(edges, target[:, None], driver="gelsd").solution[:, 0]
        if (edges @ coefficients - target).norm() <= 2 * len(vertices) * tolerance:
            break
    weights = torch.cat([1 - coefficients.sum()[None], coefficients]).tolist()
    terms = [f"{w:.3g} x vertex {j}" for j, w in enumerate(weights) if abs(w) > 1e-6]
    return (
        f"vertex {i} is {' + '.join(terms)}: the weights of affinely dependent vertices are not "
        "unique, so leave one out"
    )


def _solve_active_set(p: Float[Tensor, "n m"], v: Vertices) -> Float[Tensor, "n k"]:
    """Solve for all points by active sets; each iteration updates the unsolved points.

    `w` stays on the simplex, and `active` marks the vertices that may have weight. An iteration
    moves to the optimum of the active face. If that lies outside the simplex, it stops at the
    first weight that reaches zero and drops that vertex; otherwise it adds the vertex with the
    largest gain, or ends. Starting each step from the previous weights also refines the solution
    of badly conditioned systems.
    """
    n, k = len(p), v.shape[-2]
    w = p.new_full((n, k), 1 / k)
    w = (w + _step_to_optimum(w, p, v, w > 0)).clamp(min=0)
    w = w / w.sum(1, keepdim=True)
    active = w > 0
    unsolved = torch.arange(n, device=p.device)
    for _ in range(100 * (k + 1)):
        if not len(unsolved):
            break
        w[unsolved], active[unsolved], is_done = _iterate(
            w[unsolved], active[unsolved], p[unsolved], v if v.ndim == 2 else v[unsolved]
        )
        unsolved = unsolved[~is_done]
    else:
        raise TvlensError(f"point {int(unsolved[0])} has no optimum: are the vertices too close?")
    return w / w.sum(1, keepdim=True)


def _iterate(
    w: Float[Tensor, "n k"], active: Bool[Tensor, "n k"], p: Float[Tensor, "n m"], v: Vertices
) -> tuple[Float[Tensor, "n k"], Bool[Tensor, "n k"], Bool[Tensor, " n"]]:
    step = _step_to_optimum(w, p, v, active)
    is_leaving = active & (w + step <= 0)
    # The gain of a vertex that was just added and would leave at once is a rounding error.
    is_stuck = (is_leaving & (w == 0)).any(1)
    lengths = torch.where(is_leaving, w / -step, torch.inf)
    length = lengths.amin(1, keepdim=True).clamp(max=1)
    new_w = torch.where(active & (lengths > length), w + length * step, 0).clamp(min=0)
    new_w = torch.where(is_stuck[:, None], w, new_w)

    combination = _combine(new_w, v)
    residual = p - combination
    gains = _products(residual, v) - (residual * combination).sum(1, keepdim=True)
    gain, best = torch.where(active, -torch.inf, gains).max(1)
    is_optimal = ~is_leaving.any(1)
    tolerance = 64 * torch.finfo(w.dtype).eps * (1 + residual.norm(dim=1))
    is_done = is_stuck | (is_optimal & (gain <= tolerance))
    active = new_w > 0
    is_entering = is_optimal & ~is_done
    active[is_entering, best[is_entering]] = True
    return new_w, active, is_done


def _step_to_optimum(
    w: Float[Tensor, "n k"], p: Float[Tensor, "n m"], v: Vertices, active: Bool[Tensor, "n k"]
) -> Float[Tensor, "n k"]:
    """Compute the step to the optimum on the affine hull of each active face; sums to zero."""
    gradient = _products(p - _combine(w, v), v) * active
    is_active = active.to(w)
    # With a constant coordinate added, independent vertices have a Gram matrix of full rank;
    # inactive vertices get a row of the identity, so that their weights do not change.
    gram = (v @ v.mT + 1) * is_active[:, :, None] * is_active[:, None]
    gram = gram + torch.diag_embed(1 - is_active)
    x, y = torch.linalg.solve(gram, torch.stack([gradient, is_active], -1)).unbind(-1)
    step: Tensor = x - y * (x.sum(1, keepdim=True) / y.sum(1, keepdim=True))
    return step


def _combine(w: Float[Tensor, "n k"], v: Vertices) -> Float[Tensor, "n m"]:
    """Combine the vertices of each point."""
    return w @ v if v.ndim == 2 else (w[:, None] @ v)[:, 0]


def _products(p: Float[Tensor, "n m"], v: Vertices) -> Float[Tensor, "n k"]:
    """Compute the inner product of each point with its vertices."""
    return p @ v.T if v.ndim == 2 else (v @ p[..., None])[..., 0]
