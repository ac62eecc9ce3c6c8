import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Normal, kl_divergence

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes


def sample_distributions(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.ones(shape[-1]), shape[:-1]))


def test_kl_and_entropy_equal_scipy():
    p, q = sample_distributions(3, 7, 5), sample_distributions(3, 7, 5, seed=1)
    p[0, 0] = torch.tensor([0.0, 0.5, 0.5, 0.0, 0.0])
    wanted = scipy.stats.entropy(p.numpy(), q.numpy(), axis=-1)
    torch.testing.assert_close(bayes.kl(p, q), torch.from_numpy(wanted))
    torch.testing.assert_close(
        bayes.entropy(p), torch.from_numpy(scipy.stats.entropy(p.numpy(), axis=-1))
    )
    assert bool((bayes.kl(p, p) == 0).all())
    assert float(bayes.kl(q, p)[0, 0]) == float("inf")
    assert bayes.kl(p.float(), q.float()).dtype == torch.float64


def test_gaussian_kl_equals_torch():
    mean, other = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    wanted = kl_divergence(Normal(mean, 0.7), Normal(other, 0.7))
    torch.testing.assert_close(bayes.gaussian_kl(mean, other, noise=0.7), wanted)


def test_relative_distance_of_a_blend_equals_its_weight():
    """The relative Euclidean distance of a blend of two references equals its weight."""
    one, two = sample_distributions(50, 4), sample_distributions(50, 4, seed=2)

    def distance(a, b):
        return (a - b).norm(dim=-1).mean()

    for weight in (0.0, 0.25, 0.9, 1.0):
        model = bayes.blend(two[None], one[None], torch.full((1, 50), weight).double())[0]
        r = bayes.relative_distance(distance(model, one), distance(model, two), distance(one, two))
        assert (float(r) + 1) / 2 == pytest.approx(weight)
    with pytest.raises(TvlensError, match="the same"):
        bayes.relative_distance(*torch.zeros(3, 1))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: bayes.kl(torch.ones(2, 3) / 3, torch.ones(2, 4) / 4), "shapes"),
        (lambda: bayes.kl(torch.ones(2, 3), torch.ones(2, 3) / 3), "sums to 3"),
        (
            lambda: bayes.kl(torch.full((2, 2), float("nan")), torch.ones(2, 2) / 2),
            "not a distribution",
        ),
        (lambda: bayes.entropy(torch.tensor([1.5, -0.5])), "not a distribution"),
        (lambda: bayes.gaussian_kl(torch.zeros(2), torch.zeros(2), noise=0.0), "noise"),
        (lambda: bayes.gaussian_kl(torch.zeros(2), torch.zeros(3), noise=1.0), "shapes"),
        (lambda: bayes.gaussian_kl(torch.tensor([float("nan")]), torch.zeros(1), noise=1.0), "NaN"),
    ],
)
def test_bad_input_raises_one_line_errors(call, words):
    # Shapes that differ are caught by the tests' own checker before ours is asked.
    expected = (TvlensError, TypeError) if words == "shapes" else TvlensError
    with pytest.raises(expected, match=None if words == "shapes" else words):
        call()
