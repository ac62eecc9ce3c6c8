import math

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from tvlens import Subspace, TvlensError


def same(a, b):
    """Whether two subspaces are equal."""
    return a.rank == b.rank and bool(a.contains(b.basis.T).all())


def test_span_of_dependent_vectors():
    vectors = normal(3, 10)
    whole = Subspace.span(torch.cat([vectors, vectors[:1] - 2 * vectors[1:2], vectors[2:]]))
    assert (whole.rank, whole.dim) == (3, 10) and same(whole, Subspace.span(vectors))
    torch.testing.assert_close(whole.basis.T @ whole.basis, torch.eye(3, dtype=torch.float64))
    centred = vectors - vectors.mean(0)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert Subspace.span((vectors / 3).to(dtype)).rank == 3
    assert Subspace.span(centred.float()).rank == Subspace.span(centred).rank == 2
    assert Subspace.span(normal(20, 4)).rank == 4


def test_lengths_do_not_change_a_span():
    vectors = normal(3, 8)
    lengths = torch.tensor([[1e6], [1.0], [1e-4]], dtype=torch.float64)
    assert same(Subspace.span(vectors * lengths), Subspace.span(vectors))
    with pytest.raises(TvlensError, match=r"vector 1 is negligible beside the others \(norm 0"):
        Subspace.span(vectors * torch.tensor([[1.0], [0.0], [1.0]]))
    with pytest.raises(TvlensError, match="vector 2 is negligible beside"):
        Subspace.span(vectors * torch.tensor([[1.0], [1.0], [1e-18]]))
    with pytest.raises(TvlensError, match="vector 0 is negligible"):
        Subspace.span(torch.zeros(2, 3))


@settings(max_examples=40, deadline=None)
@given(d=st.integers(2, 30), data=st.data(), seed=st.integers(0, 1000))
def test_projections_and_complements(d, data, seed):
    r = data.draw(st.integers(1, d - 1))
    inside = Subspace.span(normal(r, d, seed=seed))
    rest = inside.complement()
    points = normal(7, d, seed=seed + 1)
    p = inside.project(points)
    torch.testing.assert_close(inside.project(p), p)
    torch.testing.assert_close(p + inside.remove(points), points)
    torch.testing.assert_close(inside.remove(points), rest.project(points))
    torch.testing.assert_close(inside.share(points) + rest.share(points), torch.ones(7).double())
    assert bool(inside.contains(p).all()) and not bool(inside.contains(points).any())
    assert rest.rank == d - r and same(rest.complement(), inside)
    assert inside.union(rest).rank == d
    assert float(inside.angles(rest).min()) == pytest.approx(math.pi / 2)


def test_projection_equals_least_squares():
    vectors, points = normal(3, 12), normal(2, 5, 12)
    flat = points.reshape(-1, 12).T
    wanted = vectors.T @ torch.linalg.lstsq(vectors.T, flat).solution
    torch.testing.assert_close(Subspace.span(vectors).project(points).reshape(-1, 12).T, wanted)


def test_union_holds_both_and_counts_what_is_shared_once():
    a, b = normal(3, 10), normal(2, 10, seed=1)
    both = Subspace.span(a).union(Subspace.span(torch.cat([b, a[:1]])))
    assert both.rank == 5 and bool(both.contains(torch.cat([a, b])).all())
    rounded, precise = Subspace.span(a.float()), Subspace.span(a)
    assert rounded.union(precise).rank == precise.union(rounded).rank == 3


@pytest.mark.parametrize(("n", "d"), [(200, 12), (8, 30)])
def test_pca_equals_sklearn(n, d):
    points = normal(n, d) * torch.linspace(3, 1, d) + 5
    fitted = PCA(3).fit(points.numpy())
    ours = Subspace.pca(points, rank=3)
    assert same(ours, Subspace.span(torch.tensor(fitted.components_)))
    torch.testing.assert_close(ours.center, torch.tensor(fitted.mean_))
    assert ours.explained_variance(points) == pytest.approx(fitted.explained_variance_ratio_.sum())
    for variance in (0.1, 0.5, 0.9):
        wanted = PCA(variance, svd_solver="full").fit(points.numpy()).n_components_
        assert Subspace.pca(points, variance=variance).rank == wanted
    assert Subspace.pca(points, variance=1.0).rank == min(n - 1, d)


def test_pca_sees_no_variance_in_rounding():
    line = torch.linspace(0, 1, 50)[:, None] * torch.randn(1, 20) + 1000
    assert Subspace.pca(line, variance=1.0).rank == 1
    with pytest.raises(TvlensError, match="vary in 1 directions"):
        Subspace.pca(line, rank=2)
    with pytest.raises(TvlensError, match="vary in 0 directions"):
        Subspace.pca(torch.ones(4, 3), variance=0.5)
    with pytest.raises(TvlensError, match="either rank or variance"):
        Subspace.pca(line)
    with pytest.raises(TvlensError, match="variance is 2"):
        Subspace.pca(line, variance=2.0)


@pytest.mark.parametrize(("d", "r", "s"), [(20, 3, 5), (20, 5, 3), (6, 4, 5), (3, 1, 1)])
def test_angles_equal_scipy_ascending(d, r, s):
    a, b = normal(r, d), normal(s, d, seed=1)
    wanted = scipy.linalg.subspace_angles(a.T.numpy(), b.T.numpy())[::-1]
    angles = Subspace.span(a).angles(Subspace.span(b))
    assert len(angles) == min(r, s) and bool((angles.diff() >= 0).all())
    np.testing.assert_allclose(angles, wanted, atol=1e-7)  # scipy's own error is near 1e-8


def test_planted_angles():
    basis = torch.linalg.qr(normal(8, 8)).Q
    planted = torch.tensor([1e-9, 0.3, 1.2, torch.pi / 2 - 1e-9], dtype=torch.float64)
    turned = planted.cos()[:, None] * basis[:4] + planted.sin()[:, None] * basis[4:]
    a, b = Subspace.span(basis[:4]), Subspace.span(turned)
    for angles in (a.angles(b), b.angles(a)):
        torch.testing.assert_close(angles, planted, rtol=0, atol=1e-13)
    torch.testing.assert_close(a.angles(Subspace.span(turned[:2])), planted[:2], rtol=0, atol=1e-13)


def test_random_subspaces_are_uniform_and_seeded():
    draws = [Subspace.random(12, 3, seed=s) for s in range(400)]
    assert torch.equal(draws[7].basis, Subspace.random(12, 3, seed=7).basis)
    mean = torch.stack([d.basis @ d.basis.T for d in draws]).mean(0)
    torch.testing.assert_close(mean, 0.25 * torch.eye(12), rtol=0, atol=0.06)
    assert draws[0].share_null == 0.25
    shares = torch.stack([d.share(torch.ones(12)) for d in draws])
    assert float(shares.mean()) == pytest.approx(0.25, abs=0.02)


def test_explained_is_about_the_mean():
    points = normal(50, 6)
    points[:, 0] = 100
    axis = Subspace.span(torch.eye(6, dtype=torch.float64)[:1])
    assert axis.explained_variance(points) == 0
    assert float(axis.share(points).min()) > 0.99
    with pytest.raises(TvlensError, match="all 3 points are the same"):
        axis.explained_variance(torch.ones(3, 6))
    with pytest.raises(TvlensError, match=r"point \[1\] is zero"):
        axis.share(points * (torch.arange(50) != 1)[:, None])


def test_files(tmp_path):
    for subspace in (Subspace.pca(normal(9, 5), rank=2), Subspace.random(5, 2)):
        subspace.save(tmp_path / "s.safetensors")
        again = Subspace.load(tmp_path / "s.safetensors")
        assert torch.equal(again.basis, subspace.basis)
        assert (again.center is None) == (subspace.center is None)
    assert torch.equal(Subspace.pca(normal(9, 5), rank=2).center, normal(9, 5).mean(0))
    Subspace.random(9, 2).orthogonality(Subspace.random(9, 3)).save(tmp_path / "o.safetensors")
    for name in ("o.safetensors", "missing"):
        with pytest.raises(TvlensError, match="holds no Subspace"):
            Subspace.load(tmp_path / name)


def test_bad_input(unchecked):
    small, large = Subspace.random(4, 2), Subspace.random(5, 2)
    for method in (small.angles, small.union, small.orthogonality):
        with pytest.raises(TvlensError, match="width 4 and the other has width 5"):
            method(large)
    with pytest.raises(TvlensError, match="points has width 5 and the subspace has width 4"):
        small.project(torch.ones(3, 5))
    with pytest.raises(TvlensError, match="are not orthonormal: use Subspace"):
        Subspace(torch.ones(4, 2))
    with pytest.raises(TvlensError, match="center has width 3"):
        Subspace(small.basis, torch.ones(3))
    with pytest.raises(TvlensError, match="NaN"):
        Subspace.span(torch.full((2, 3), torch.nan))
    with pytest.raises(TvlensError, match="its complement is empty"):
        Subspace.random(3, 3).complement()
    for r in (0, 5):
        with pytest.raises(TvlensError, match=f"rank {r} is not possible in 4"):
            Subspace.random(4, r)
