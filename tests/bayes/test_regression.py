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


def sample_pairs(noise=0.5, scale=1.0, n=3, length=8, split="ood"):
    family = bayes.LinearRegression(dim=4, noise=noise, scale=scale, minor=5, minor_mass=0.3)
    return family, family.sample(n, length, split=split, seed=3)


def first_pairs(pairs, row, count):
    return pairs.inputs[row, :count].numpy(), pairs.targets[row, :count].numpy()


def normal_density(x, mean, sd):
    return math.exp(-((x - mean) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("noise", [0.5, 1.7])
def test_retrieval_equals_a_loop_over_tasks(noise):
    family, pairs = sample_pairs(noise)
    result = bayes.retrieval(family, pairs)
    tasks = family.weights.tolist()
    for row in range(3):
        weights = family.prior.tolist()
        x, y = pairs.inputs[row].tolist(), pairs.targets[row].tolist()
        for t in range(8):
            means = [sum(a * b for a, b in zip(x[t], w, strict=True)) for w in tasks]
            weights = [
                a * normal_density(y[t], m, noise) for a, m in zip(weights, means, strict=True)
            ]
            total = sum(weights)
            alpha = [a / total for a in weights]
            assert result.posterior[row, t].tolist() == pytest.approx(alpha, rel=1e-10)
            assert float(result.log_evidence[row, t]) == pytest.approx(math.log(total), rel=1e-10)
            if t < 7:
                means = [sum(a * b for a, b in zip(x[t + 1], w, strict=True)) for w in tasks]
                mean = sum(a * m for a, m in zip(alpha, means, strict=True))
                square = sum(a * (m**2 + noise**2) for a, m in zip(alpha, means, strict=True))
                assert float(result.predictive.mean[row, t]) == pytest.approx(mean, rel=1e-10)
                variance = float(result.predictive.variance[row, t])
                assert variance == pytest.approx(square - mean**2, rel=1e-8)


@pytest.mark.parametrize("noise, scale", [(0.5, 1.0), (0.2, 3.0), (2.0, 0.7)])
def test_learner_evidence_equals_the_multivariate_normal(noise, scale):
    family, pairs = sample_pairs(noise, scale)
    log_evidence = bayes.learner(family, pairs).log_evidence
    for row in range(3):
        for count in range(1, 9):
            x, y = first_pairs(pairs, row, count)
            covariance = noise**2 * np.eye(count) + scale**2 * x @ x.T
            wanted = scipy.stats.multivariate_normal.logpdf(y, np.zeros(count), covariance)
            assert float(log_evidence[row, count - 1]) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.filterwarnings("ignore:divide by zero")  # of scikit-learn, for a kernel through 0
@pytest.mark.parametrize("noise, scale", [(0.5, 1.0), (0.2, 3.0)])
def test_learner_equals_ridge_and_a_gaussian_process(noise, scale):
    family, pairs = sample_pairs(noise, scale)
    predictive = bayes.learner(family, pairs).predictive
    kernel = ConstantKernel(scale**2) * DotProduct(sigma_0=0)
    for count in range(1, 9):
        x, y = first_pairs(pairs, 1, count)
        ridge = Ridge(alpha=noise**2 / scale**2, fit_intercept=False).fit(x, y)
        np.testing.assert_allclose(predictive.weights[1, count - 1], ridge.coef_, rtol=1e-8)
        if count < 8:
            process = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None).fit(x, y)
            mean, sd = process.predict(pairs.inputs[1, count : count + 1].numpy(), return_std=True)
            assert float(predictive.mean[1, count - 1]) == pytest.approx(mean[0], rel=1e-7)
            wanted = sd[0] ** 2 + noise**2
            assert float(predictive.variance[1, count - 1]) == pytest.approx(wanted, rel=1e-7)


def test_extrapolation_blends_retrieval_and_learner_by_evidence():
    family, pairs = sample_pairs()
    retrieval, learner = (
        bayes.retrieval(family.with_major_tasks(), pairs),
        bayes.learner(family, pairs),
    )
    extrapolation = bayes.extrapolation(family, pairs, minor_mass=0.2)
    odds = 0.25 * (learner.log_evidence - retrieval.log_evidence).exp()
    share = odds / (1 + odds)
    torch.testing.assert_close(extrapolation.posterior[..., -1], share)
    torch.testing.assert_close(
        extrapolation.posterior[..., :-1], retrieval.posterior * (1 - share[..., None])
    )
    one, two, share = retrieval.predictive, learner.predictive, share[:, :-1]
    mean = (1 - share) * one.mean + share * two.mean
    square = (1 - share) * (one.variance + one.mean**2) + share * (two.variance + two.mean**2)
    torch.testing.assert_close(extrapolation.predictive.mean, mean)
    torch.testing.assert_close(extrapolation.predictive.variance, square - mean**2)


def test_extrapolation_separates_major_from_new_weights():
    """Fails if the evidence lacks the factor 1 / (2 sigma^2)."""
    for noise in (0.2, 0.5, 1.0):
        family = bayes.LinearRegression(dim=6, noise=noise, minor=4)
        for split, is_new in (("major", 0.0), ("ood", 1.0)):
            pairs = family.sample(100, 64, split=split)
            last = bayes.extrapolation(family, pairs).posterior[:, -1]
            assert float(last[:, -1].median()) == pytest.approx(is_new, abs=0.01)
            if split == "major":
                assert float((last.argmax(-1) == pairs.task).double().mean()) > 0.98


def test_retrieval_tends_to_extrapolation_with_many_minors():
    gaps = []
    for minors in (16, 4096):
        family = bayes.LinearRegression(dim=1, minor=minors, minor_mass=0.5)
        pairs = family.sample(100, 10, split="ood")
        retrieval, extrapolation = (
            bayes.retrieval(family, pairs),
            bayes.extrapolation(family, pairs),
        )
        gap = bayes.gaussian_kl(
            retrieval.predictive.mean, extrapolation.predictive.mean, noise=family.noise
        )
        gaps.append(float(gap.mean()))
    assert gaps[1] < gaps[0] / 20


def test_extrapolation_handles_long_rows_and_single_pairs():
    family = bayes.LinearRegression(minor=10)
    pairs = family.sample(3, 2000, split="major")
    prediction = bayes.extrapolation(family, pairs)
    assert (
        bool(prediction.log_evidence.isfinite().all())
        and float(prediction.log_evidence.min()) < -1000
    )
    torch.testing.assert_close(
        prediction.predictive.variance[:, -1], torch.full((3,), 0.25).double()
    )
    single = bayes.retrieval(family, family.sample(3, 1))
    assert single.posterior.shape == (3, 1, 13) and single.predictive.mean.shape == (3, 0)


def test_sufficient_statistics_are_the_normal_equations():
    family, pairs = sample_pairs()
    statistics = bayes.sufficient_statistics(family, pairs)
    for count in range(1, 9):
        x, y = first_pairs(pairs, 2, count)
        np.testing.assert_allclose(statistics[2, count - 1, :, :-1], x.T @ x)
        np.testing.assert_allclose(statistics[2, count - 1, :, -1], x.T @ y)


def test_sample_residuals_are_normal_with_the_noise():
    family = bayes.LinearRegression(noise=0.3)
    pairs = family.sample(50, 100, split="ood")
    residuals = pairs.targets - (pairs.inputs @ pairs.parameters[..., None])[..., 0]
    assert scipy.stats.kstest(residuals.flatten(), "norm", args=(0, 0.3)).pvalue > 1e-3


def test_bad_input_raises_one_line_errors():
    family, pairs = sample_pairs()
    with pytest.raises(TvlensError, match=r"inputs have shape \[3, 8, 6\], not \[3, 8, 4\]"):
        bayes.retrieval(bayes.LinearRegression(dim=6), pairs)
    with pytest.raises(TvlensError, match="reads Pairs"):
        bayes.retrieval(family, torch.zeros(2, 3))
    with pytest.raises(TvlensError, match="reads tokens"):
        bayes.retrieval(bayes.Dice(), pairs)
    pairs.targets[0, 0] = float("nan")
    with pytest.raises(TvlensError, match="NaN"):
        bayes.learner(family, pairs)
