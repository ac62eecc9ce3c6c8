import pytest
import torch

from tvlens.bayes.checks.subspace_optimization import maximize_over_subspaces

OPTIONS = dict(steps=500, tolerance=1e-7)


def test_maximum_of_a_trace_is_the_sum_of_the_largest_eigenvalues():
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    symmetric = square + square.T
    eigenvalues, eigenvectors = torch.linalg.eigh(symmetric)
    starts = torch.randn(3, 12, 2, generator=generator, dtype=torch.float64)

    def trace(basis):
        return torch.trace(basis.T @ symmetric @ basis)

    optimum = maximize_over_subspaces(trace, starts, **OPTIONS)
    assert optimum.value == pytest.approx(float(eigenvalues[-2:].sum()), abs=1e-9)
    torch.testing.assert_close(optimum.maxima, optimum.maxima[:1].expand(3))
    top = eigenvectors[:, -2:]
    torch.testing.assert_close(optimum.basis @ optimum.basis.T, top @ top.T, rtol=0, atol=1e-6)


def test_best_of_several_local_maxima_is_returned():
    def two_maxima(basis):
        """Maxima of 2 and 3, on the axes 0 and 1."""
        return 2 * basis[0, 0] ** 4 + 3 * basis[1, 0] ** 4

    starts = torch.eye(12, dtype=torch.float64)[:, :2].T[..., None] + 0.1
    optimum = maximize_over_subspaces(two_maxima, starts, **OPTIONS)
    assert optimum.maxima.tolist() == pytest.approx([2, 3], abs=1e-9)
    assert float(optimum.basis[1, 0].abs()) == pytest.approx(1, abs=1e-6)
