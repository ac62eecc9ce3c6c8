import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tvlens as tv
from tvlens import TvlensError

SIZES = [(1, 3), (2, 1), (2, 5), (3, 2), (3, 64), (5, 4), (6, 20)]


def sample_instance(k, d, n=200, scale=1.0, seed=0):
    rng = np.random.default_rng([seed, k, d])
    vertices = rng.standard_normal((k, d)) + rng.standard_normal(d)
    points = scale * rng.standard_normal((n, d)) + vertices.mean(0)
    return torch.tensor(points), torch.tensor(vertices)


def enumerate_faces(points, vertices):
    """Minimize over every face of the simplex, then over all faces."""
    best = torch.full((len(points),), torch.inf, dtype=torch.float64)
    best_weights = torch.zeros(len(points), len(vertices), dtype=torch.float64)
    for size in range(1, len(vertices) + 1):
        for face in itertools.combinations(range(len(vertices)), size):
            first, *rest = face
            edges = vertices[rest] - vertices[first]
            inner = (points - vertices[first]) @ torch.linalg.pinv(edges)
            weights = torch.zeros_like(best_weights)
            weights[:, rest] = inner
            weights[:, first] = 1 - inner.sum(1)
            distance = (points - weights @ vertices).square().sum(1)
            better = (weights >= -1e-14).all(1) & (distance < best - 1e-14)
            best[better], best_weights[better] = distance[better], weights[better]
    return best_weights


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
@pytest.mark.parametrize(("k", "d"), SIZES)
def test_simplex_weights_equal_the_best_of_all_faces(k, d, scale):
    points, vertices = sample_instance(k, d, scale=scale)
    torch.testing.assert_close(
        tv.simplex_weights(points, vertices), enumerate_faces(points, vertices), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(("k", "d"), [(3, 8), (6, 12)])
def test_simplex_weights_equal_scipy(k, d):
    points, vertices = sample_instance(k, d, n=8)
    weights = tv.simplex_weights(points, vertices).numpy()
    v = vertices.numpy()
    for w, p in zip(weights, points.numpy(), strict=True):
        optimum = scipy.optimize.minimize(
            lambda x, p=p: ((p - x @ v) ** 2).sum(),
            np.full(k, 1 / k),
            jac=lambda x, p=p: -2 * v @ (p - x @ v),
            method="SLSQP",
            bounds=[(0, 1)] * k,
            constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        np.testing.assert_allclose(w, optimum.x, atol=1e-5)
        # The sum constraint as a heavy row of a non-negative least squares problem.
        heavy = np.vstack([v.T, np.full(k, 1e5)])
        np.testing.assert_allclose(w, scipy.optimize.nnls(heavy, np.append(p, 1e5))[0], atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 24),
    extra=st.integers(0, 8),
    scale=st.sampled_from([1e-3, 0.3, 1.0, 100.0]),
    squeeze=st.sampled_from([1.0, 1e-2]),
    seed=st.integers(0, 10**6),
)
def test_simplex_weights_satisfy_optimality_conditions(k, extra, scale, squeeze, seed):
    """Weights lie on the simplex and satisfy the Karush-Kuhn-Tucker conditions."""
    d = max(1, k - 1 + extra)
    points, vertices = sample_instance(k, d, n=30, scale=scale, seed=seed)
    vertices[:, 0] *= squeeze
    weights = tv.simplex_weights(points, vertices)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(
        weights.sum(1), torch.ones(30, dtype=torch.float64), rtol=0, atol=1e-12
    )
    residual = points - weights @ vertices
    towards = residual @ vertices.T - (residual * (weights @ vertices)).sum(1, keepdim=True)
    room = 1e-10 * (1 + points.norm(dim=1, keepdim=True)) * (1 + vertices.norm())
    assert bool((towards <= room).all())
    assert bool((weights * towards.abs() <= room).all())


@pytest.mark.parametrize(("k", "d"), [*SIZES, (16, 40), (40, 64)])
def test_simplex_weights_recover_vertices_and_inner_points(k, d):
    _, vertices = sample_instance(k, d)
    torch.testing.assert_close(
        tv.simplex_weights(vertices, vertices),
        torch.eye(k, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    truth = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(k), 300))
    outside = torch.randn(300, d, dtype=torch.float64)
    outside = tv.Subspace.span(vertices).remove(outside) if k < d else 0 * outside
    weights = tv.simplex_weights(truth @ vertices + outside, vertices)
    torch.testing.assert_close(weights, truth, rtol=0, atol=1e-9)


def test_nearly_flat_simplices_lose_no_digits_but_their_own():
    """With one axis 10,000 times shorter than another, weights are accurate to 1e-12."""
    rng = np.random.default_rng(0)
    centred = rng.standard_normal((8, 9))
    u, sizes, axes = np.linalg.svd(centred - centred.mean(0), full_matrices=False)
    sizes[:7] = np.geomspace(1, 1e-4, 7)
    vertices = torch.tensor((u * sizes) @ axes)
    chosen = rng.integers(0, 3, (500, 8)) + np.eye(8)[rng.integers(0, 8, 500)]
    truth = torch.tensor(chosen / chosen.sum(1, keepdims=True))
    weights = tv.simplex_weights(truth @ vertices, vertices)
    torch.testing.assert_close(weights, truth, rtol=0, atol=1e-12)


def test_simplex_weights_are_invariant_under_similarity_transformations():
    points, vertices = sample_instance(7, 9)
    weights = tv.simplex_weights(points, vertices)
    order = torch.randperm(7)
    close = dict(rtol=0, atol=1e-10)
    torch.testing.assert_close(
        tv.simplex_weights(points, vertices[order]), weights[:, order], **close
    )
    turn = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    moved = [1e3 + 0.01 * x @ turn for x in (points, vertices)]
    torch.testing.assert_close(tv.simplex_weights(*moved), weights, rtol=0, atol=1e-7)
    torch.testing.assert_close(tv.simplex_weights(points[:1], vertices), weights[:1], **close)


def test_clipped_unconstrained_solution_is_not_optimal():
    """Clipping the unconstrained solution gives larger residuals than the exact weights."""
    vertices = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.9, 0.1]])
    points = torch.tensor([[0.5, 1.0]])
    free = torch.linalg.solve(
        torch.cat([vertices.T, torch.ones(1, 3)]), torch.tensor([0.5, 1.0, 1.0])
    )
    clipped = free.clamp(min=0) / free.clamp(min=0).sum()
    exact = tv.simplex_weights(points, vertices)
    assert (points - exact @ vertices).norm() < 0.99 * (points - clipped[None] @ vertices).norm()


def test_one_vertex_no_points_and_dtypes():
    points, vertices = sample_instance(1, 4)
    assert tv.simplex_weights(points, vertices).eq(1).all()
    points, vertices = sample_instance(3, 4)
    assert tv.simplex_weights(points[:0], vertices).shape == (0, 3)
    assert tv.simplex_weights(points.float(), vertices.float()).dtype == torch.float32
    assert tv.simplex_weights(points.bfloat16(), vertices).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dependent_vertices_are_named(dtype):
    vertices = torch.randn(3, 6, dtype=dtype)
    points = torch.randn(2, 6, dtype=dtype)
    middle = (vertices[0] + vertices[2]) / 2
    with pytest.raises(TvlensError, match=r"vertex 3 is 0.5 x vertex 0 \+ 0.5 x vertex 2"):
        tv.simplex_weights(points, torch.cat([vertices, middle[None]]))
    with pytest.raises(TvlensError, match="vertex 1 is 1 x vertex 0:"):
        tv.simplex_weights(points, vertices[[0, 0, 1]])
    with pytest.raises(TvlensError, match="leave one out"):
        tv.simplex_weights(points[:, :1], vertices[:, :1])


def test_bad_input_raises_one_line_errors(unchecked):
    points, vertices = sample_instance(3, 4)
    with pytest.raises(TvlensError, match="points has width 4 and vertices has width 3"):
        tv.simplex_weights(points, vertices[:, :3])
    points[3, 1] = torch.nan
    with pytest.raises(TvlensError, match=r"1 of 800 numbers in points are NaN.*first at \[3, 1\]"):
        tv.simplex_weights(points, vertices)
    with pytest.raises(TvlensError, match="vertices is empty"):
        tv.simplex_weights(points, vertices[:0])


@pytest.mark.parametrize(("k", "d"), [(1, 3), (2, 5), (3, 2), (5, 20)])
def test_simplex_weights_take_separate_vertices_for_every_point(k, d):
    rng = np.random.default_rng([7, k, d])
    vertices = torch.tensor(rng.standard_normal((40, k, d)))
    points = torch.tensor(rng.standard_normal((40, d)))
    weights = tv.simplex_weights(points, vertices)
    for point, corners, expected in zip(points, vertices, weights, strict=True):
        torch.testing.assert_close(tv.simplex_weights(point[None], corners)[0], expected)
    shared = vertices[:1].expand(40, k, d)
    torch.testing.assert_close(
        tv.simplex_weights(points, shared), tv.simplex_weights(points, vertices[0])
    )


def test_simplex_weights_name_dependent_vertices_of_a_point(unchecked):
    vertices = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    vertices[2, 2] = vertices[2, :2].mean(0)
    with pytest.raises(TvlensError, match="vertices of point 2 are affinely dependent"):
        tv.simplex_weights(torch.zeros(4, 5), vertices)
    with pytest.raises(TvlensError, match="points has 3 rows and vertices has 4"):
        tv.simplex_weights(torch.zeros(3, 5), vertices)
    with pytest.raises(TvlensError, match="affinely dependent"):
        tv.simplex_weights(torch.zeros(4, 1), vertices[..., :1])
