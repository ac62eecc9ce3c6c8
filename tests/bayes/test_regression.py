import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct
from sklearn.linear_model import Ridge

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes


def drawn(noise=0.5, scale=1.0, n=3, length=8, split="ood"):
    family = bayes.LinearRegression(dim=4, noise=noise, scale=scale, minor=5, minor_mass=0.3)
    return family, family.sample(n, length, split=split, seed=3)


def numpy(pairs, row, seen):
    return pairs.inputs[row, :seen].numpy(), pairs.targets[row, :seen].numpy()


def normal(x, mean, sd):
    return math.exp(-((x - mean) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("noise", [0.5, 1.7])
def test_retrieval_equals_a_loop_over_tasks(noise):
    family, pairs = drawn(noise)
    found = bayes.retrieval(family, pairs)
    tasks = family.weights.tolist()
    for row in range(3):
        weights = family.prior.tolist()
        x, y = pairs.inputs[row].tolist(), pairs.targets[row].tolist()
        for t in range(8):
            told = [sum(a * b for a, b in zip(x[t], w, strict=True)) for w in tasks]
            weights = [a * normal(y[t], m, noise) for a, m in zip(weights, told, strict=True)]
            total = sum(weights)
            alpha = [a / total for a in weights]
            assert found.posterior[row, t].tolist() == pytest.approx(alpha, rel=1e-10)
            assert float(found.log_evidence[row, t]) == pytest.approx(math.log(total), rel=1e-10)
            if t < 7:
                told = [sum(a * b for a, b in zip(x[t + 1], w, strict=True)) for w in tasks]
                mean = sum(a * m for a, m in zip(alpha, told, strict=True))
                square = sum(a * (m**2 + noise**2) for a, m in zip(alpha, told, strict=True))
                assert float(found.predictive.mean[row, t]) == pytest.approx(mean, rel=1e-10)
                variance = float(found.predictive.variance[row, t])
                assert variance == pytest.approx(square - mean**2, rel=1e-8)


@pytest.mark.parametrize("noise, scale", [(0.5, 1.0), (0.2, 3.0), (2.0, 0.7)])
def test_evidence_equals_the_multivariate_normal(noise, scale):
    family, pairs = drawn(noise, scale)
    found = bayes.learner(family, pairs).log_evidence
    for row in range(3):
        for seen in range(1, 9):
            x, y = numpy(pairs, row, seen)
            covariance = noise**2 * np.eye(seen) + scale**2 * x @ x.T
            wanted = scipy.stats.multivariate_normal.logpdf(y, np.zeros(seen), covariance)
            assert float(found[row, seen - 1]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.filterwarnings("ignore:divide by zero")  # of scikit-learn, for a kernel through 0
@pytest.mark.parametrize("noise, scale", [(0.5, 1.0), (0.2, 3.0)])
def test_learner_equals_ridge_and_a_gaussian_process(noise, scale):
    family, pairs = drawn(noise, scale)
    found = bayes.learner(family, pairs).predictive
    kernel = ConstantKernel(scale**2) * DotProduct(sigma_0=0)
    for seen in range(1, 9):
        x, y = numpy(pairs, 1, seen)
        ridge = Ridge(alpha=noise**2 / scale**2, fit_intercept=False).fit(x, y)
        np.testing.assert_allclose(found.weights[1, seen - 1], ridge.coef_, rtol=1e-8)
        if seen < 8:
            process = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None).fit(x, y)
            mean, sd = process.predict(pairs.inputs[1, seen : seen + 1].numpy(), return_std=True)
            assert float(found.mean[1, seen - 1]) == pytest.approx(mean[0], rel=1e-7)
            wanted = sd[0] ** 2 + noise**2
            assert float(found.variance[1, seen - 1]) == pytest.approx(wanted, rel=1e-7)


def test_extrapolation_blends_both_by_their_evidence():
    family, pairs = drawn()
    known, new = bayes.retrieval(family.with_major_tasks(), pairs), bayes.learner(family, pairs)
    found = bayes.extrapolation(family, pairs, minor_mass=0.2)
    odds = 0.25 * (new.log_evidence - known.log_evidence).exp()
    share = odds / (1 + odds)
    torch.testing.assert_close(found.posterior[..., -1], share)
    torch.testing.assert_close(found.posterior[..., :-1], known.posterior * (1 - share[..., None]))
    one, two, share = known.predictive, new.predictive, share[:, :-1]
    mean = (1 - share) * one.mean + share * two.mean
    square = (1 - share) * (one.variance + one.mean**2) + share * (two.variance + two.mean**2)
    torch.testing.assert_close(found.predictive.mean, mean)
    torch.testing.assert_close(found.predictive.variance, square - mean**2)


def test_new_weights_are_believed_in_only_where_there_are_some():
    """A missing 1 / (2 sigma^2) in the evidence turns this around."""
    for noise in (0.2, 0.5, 1.0):
        family = bayes.LinearRegression(dim=6, noise=noise, minor=4)
        for split, is_new in (("major", 0.0), ("ood", 1.0)):
            pairs = family.sample(100, 64, split=split)
            last = bayes.extrapolation(family, pairs).posterior[:, -1]
            assert float(last[:, -1].median()) == pytest.approx(is_new, abs=0.01)
            if split == "major":
                assert float((last.argmax(-1) == pairs.task).double().mean()) > 0.98


def test_many_known_weights_are_as_good_as_new_ones():
    gaps = []
    for minors in (16, 4096):
        family = bayes.LinearRegression(dim=1, minor=minors, minor_mass=0.5)
        pairs = family.sample(100, 10, split="ood")
        known, new = bayes.retrieval(family, pairs), bayes.extrapolation(family, pairs)
        gap = bayes.gaussian_kl(known.predictive.mean, new.predictive.mean, noise=family.noise)
        gaps.append(float(gap.mean()))
    assert gaps[1] < gaps[0] / 20


def test_long_rows_and_one_pair():
    family = bayes.LinearRegression(minor=10)
    pairs = family.sample(3, 2000, split="major")
    found = bayes.extrapolation(family, pairs)
    assert bool(found.log_evidence.isfinite().all()) and float(found.log_evidence.min()) < -1000
    torch.testing.assert_close(found.predictive.variance[:, -1], torch.full((3,), 0.25).double())
    lone = bayes.retrieval(family, family.sample(3, 1))
    assert lone.posterior.shape == (3, 1, 13) and lone.predictive.mean.shape == (3, 0)


def test_counts_are_the_normal_equations():
    family, pairs = drawn()
    found = bayes.sufficient_statistics(family, pairs)
    for seen in range(1, 9):
        x, y = numpy(pairs, 2, seen)
        np.testing.assert_allclose(found[2, seen - 1, :, :-1], x.T @ x)
        np.testing.assert_allclose(found[2, seen - 1, :, -1], x.T @ y)


def test_targets_scatter_about_the_line_by_the_noise():
    family = bayes.LinearRegression(noise=0.3)
    pairs = family.sample(50, 100, split="ood")
    left = pairs.targets - (pairs.inputs @ pairs.parameters[..., None])[..., 0]
    assert scipy.stats.kstest(left.flatten(), "norm", args=(0, 0.3)).pvalue > 1e-3


def test_wrong_data():
    family, pairs = drawn()
    with pytest.raises(TvlensError, match=r"inputs have shape \[3, 8, 6\], not \[3, 8, 4\]"):
        bayes.retrieval(bayes.LinearRegression(dim=6), pairs)
    with pytest.raises(TvlensError, match="reads Pairs"):
        bayes.retrieval(family, torch.zeros(2, 3))
    with pytest.raises(TvlensError, match="reads tokens"):
        bayes.retrieval(bayes.Dice(), pairs)
    pairs.targets[0, 0] = float("nan")
    with pytest.raises(TvlensError, match="NaN"):
        bayes.learner(family, pairs)
