import pytest
import torch

from tvlens import Subspace
from tvlens.bayes.checks.matched_subspaces import covariance, matched_subspaces, variance_inside


@pytest.fixture(scope="module")
def moments():
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -3, 12, dtype=torch.float64)
    return covariance(torch.randn(2000, 12, generator=generator, dtype=torch.float64) * scale)


@pytest.mark.parametrize("direction", [1, 4, 8])
def test_random_subspaces_hold_the_variance_of_the_given_one(moments, direction):
    subspace = Subspace.span(torch.eye(12)[direction : direction + 2])
    inside = subspace.complement()
    samples = matched_subspaces(subspace, moments, inside=inside, draws=6, seed=0)
    target = variance_inside(subspace, moments)
    for sample in samples:
        assert variance_inside(sample, moments) == pytest.approx(target, rel=0.01)
        assert sample.rank == 2 and inside.contains(sample.basis.T).all()
    assert samples[0].angles(samples[1]).max() > 0.1


def test_directions_are_added_where_those_of_the_states_hold_too_little():
    moments = torch.diag(torch.tensor([3.0] + [1.0] * 11, dtype=torch.float64))
    subspace = Subspace.span(torch.eye(12)[:1])
    samples = matched_subspaces(subspace, moments, inside=subspace.complement(), draws=4, seed=0)
    assert [sample.rank for sample in samples] == [3] * 4


def test_all_that_is_outside_is_the_most_that_can_be_matched(moments):
    subspace = Subspace.span(torch.eye(12)[:3])
    inside = subspace.complement()
    (sample, other) = matched_subspaces(subspace, moments, inside=inside, draws=2, seed=0)
    assert sample.rank == 9 and sample.angles(inside).max() < 1e-6
    assert variance_inside(sample, moments) < variance_inside(subspace, moments)
    assert sample is other


def test_samples_do_not_depend_on_the_basis_of_the_space(moments):
    subspace = Subspace.span(torch.eye(12)[4:6])
    inside = subspace.complement()
    rotated = Subspace(inside.basis.double() @ Subspace.random(10, 10, seed=3).basis.double())
    options = dict(draws=3, seed=0)
    first = matched_subspaces(subspace, moments, inside=inside, **options)
    second = matched_subspaces(subspace, moments, inside=rotated, **options)
    assert all(a.angles(b).max() < 1e-4 for a, b in zip(first, second, strict=True))
