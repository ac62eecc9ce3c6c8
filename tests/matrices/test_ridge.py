import numpy as np
import pytest
import torch
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, LeaveOneOut, cross_val_predict

from tvlens import PairMoments, TaskMatrix, TvlensError
from tvlens.matrices import RidgePath
from tvlens.matrices.ridge import Folds


def pairs(n=60, d=8, t=5, noise=1.0, seed=0):
    """States with a spread of scales, and a planted map with a bias."""
    x = normal(n, d, seed=seed) @ normal(d, d, seed=7) + 4
    w, b = normal(d, t, seed=8), normal(t, seed=9)
    return x, x @ w + b + noise * normal(n, t, seed=seed + 1), w, b


def largest_difference(matrix, other):
    weight = np.abs(matrix.weight.numpy() - other.coef_.T).max()
    return max(weight, np.abs(matrix.bias.numpy() - other.intercept_).max())


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 60),
    d=st.integers(1, 20),
    exponent=st.floats(-3, 5),
    bias=st.booleans(),
)
def test_from_moments_matches_scikit_learn(n, d, exponent, bias):
    x, y, *_ = pairs(n, d)
    alpha = 10**exponent
    moments = PairMoments().update(x, y)
    matrix = TaskMatrix.from_moments(moments, ridge=alpha, bias=bias)
    sklearn_model = SklearnRidge(alpha, fit_intercept=bias, solver="svd").fit(x.numpy(), y.numpy())
    assert largest_difference(matrix, sklearn_model) < 1e-8
    assert matrix.ridge == alpha


@pytest.mark.parametrize("n", [60, 8, 5])
def test_least_squares_matches_numpy(n):
    x, y, *_ = pairs(n)
    moments = PairMoments().update(x, y)
    expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    for options in (dict(method="lstsq"), dict(ridge=None), dict(ridge=0.0)):
        matrix = TaskMatrix.from_moments(moments, bias=False, **options)
        np.testing.assert_allclose(matrix.weight, expected, atol=1e-6)
        assert not matrix.bias.any() and matrix.ridge == 0


def test_every_rule_recovers_a_planted_map():
    x, y, w, b = pairs(noise=0.0)
    for ridge in ("gcv", "loo", "kfold", None):
        matrix = TaskMatrix.from_states(x, y, ridge=ridge)
        torch.testing.assert_close(matrix.weight, w, atol=1e-4, rtol=0)
        torch.testing.assert_close(matrix.predict(x), y, atol=1e-4, rtol=0)
    torch.testing.assert_close(TaskMatrix.from_states(x, y, ridge=None).bias, b)


def test_leave_one_out_matches_refits():
    x, y, *_ = pairs(20)
    path = RidgePath.from_moments(PairMoments().update(x, y))
    ridges = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    result = path.leave_one_out(x, y, ridges)
    parts = [path.leave_one_out(x[s], y[s], ridges) for s in (slice(7), slice(7, None))]
    torch.testing.assert_close(sum(parts), result)
    for alpha, error in zip(ridges.tolist(), result.tolist(), strict=True):
        guess = cross_val_predict(SklearnRidge(alpha), x.numpy(), y.numpy(), cv=LeaveOneOut())
        assert error == pytest.approx(((guess - y.numpy()) ** 2).sum())


@pytest.mark.parametrize(("n", "bias"), [(60, True), (60, False), (6, True)])
def test_errors_and_freedom_match_their_definition(n, bias):
    x, y, *_ = pairs(n)
    path = RidgePath.from_moments(PairMoments().update(x, y), bias=bias)
    for alpha in (0.1, 10.0):
        alphas = torch.tensor([alpha], dtype=torch.float64)
        sklearn_model = SklearnRidge(alpha, fit_intercept=bias).fit(x.numpy(), y.numpy())
        error = ((sklearn_model.predict(x.numpy()) - y.numpy()) ** 2).sum()
        assert float(path.squared_errors(alphas)) == pytest.approx(error)
        z = x - x.mean(0) if bias else x
        hat = z @ torch.linalg.solve(z.T @ z + alpha * torch.eye(8), z.T) + bias / n
        left = n - float(hat.trace())
        assert float(path.residual_freedom(alphas)) == pytest.approx(left)
        assert float(path.gcv(alphas)) == pytest.approx(n * error / left**2)


@pytest.mark.parametrize("bias", [True, False])
def test_held_out_errors_match_predictions(bias):
    x, y, *_ = pairs()
    other_x, other_y, *_ = pairs(15, seed=5)
    path = RidgePath.from_moments(PairMoments().update(x, y), bias=bias)
    ridges = torch.tensor([0.0, 1.0, 50.0], dtype=torch.float64)
    result = path.held_out_errors(PairMoments().update(other_x, other_y), ridges)
    for ridge, error in zip(ridges.tolist(), result.tolist(), strict=True):
        weight = path.weight(ridge)
        guess = other_x @ weight + path.intercept(weight)
        assert error == pytest.approx(float((guess - other_y).square().sum()), rel=1e-8)


def test_chosen_penalty_matches_scikit_learn():
    alphas = np.logspace(-3, 5, 9)
    for noise in (0.1, 3.0, 30.0):
        x, y, *_ = pairs(30, noise=noise)
        chosen = RidgeCV(alphas).fit(x.numpy(), y.numpy()).alpha_
        assert TaskMatrix.from_states(x, y, ridge="loo", ridges=alphas).ridge == chosen
    x, y, *_ = pairs(25, noise=5.0)
    parts = [PairMoments().update(x[k::5], y[k::5]) for k in range(5)]
    errors = []
    for alpha in alphas:
        order = np.concatenate([np.arange(k, 25, 5) for k in range(5)])
        guess = cross_val_predict(SklearnRidge(alpha), x[order].numpy(), y[order].numpy(), cv=5)
        errors.append(((guess - y[order].numpy()) ** 2).sum())
    assert KFold(5).get_n_splits() == 5
    result = TaskMatrix.from_moments(parts, ridge="kfold", ridges=alphas)
    assert result.ridge == alphas[np.argmin(errors)]


@pytest.mark.parametrize("bias", [True, False])
def test_folds_of_several_targets_match_refits(bias):
    x, y, *_ = pairs(60, 8, 5)
    both = torch.stack([y, y[:, [1, 0, 2, 4, 3]] ** 2])
    parts = [PairMoments().update(x[k::4], both[:, k::4]) for k in range(4)]
    shared, grid = Folds(parts, bias), torch.tensor([0.1, 1.0, 10.0]).double()
    with pytest.raises(TvlensError, match="stack several targets"):
        shared.errors(grid)
    for j in range(2):
        refitted = torch.zeros(3, dtype=torch.float64)
        for k in range(4):
            rest = [i for i in range(60) if i % 4 != k]
            path = RidgePath.from_moments(PairMoments().update(x[rest], both[j, rest]), bias=bias)
            for i, ridge in enumerate(grid.tolist()):
                weight = path.weight(ridge)
                guess = x[k::4] @ weight + path.intercept(weight)
                refitted[i] += (guess - both[j, k::4]).square().sum()
        torch.testing.assert_close(shared.errors(grid, tuned=j), refitted, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [40, 100, 400])
@pytest.mark.parametrize("noise", [1.0, 5.0])
def test_gcv_choice_is_within_one_percent_of_leave_one_out(n, noise):
    """Compare the leave-one-out errors of both choices."""
    x, y, *_ = pairs(n, 20, 6, noise=noise)
    path = RidgePath.from_moments(PairMoments().update(x, y))
    ridges = path.grid()
    exact = path.leave_one_out(x, y, ridges)
    chosen = int(path.gcv(ridges).argmin())
    assert float(exact[chosen]) <= 1.01 * float(exact.min())


@pytest.mark.parametrize("n", [10, 30, 39, 40, 41, 42, 60])
def test_ridge_is_stable_near_as_many_samples_as_dimensions(n):
    d = 40
    x, fresh = normal(n, d), normal(500, d, seed=3)
    w = normal(d, 6, seed=4)
    y, truth = x @ w + 6 * normal(n, 6, seed=5), fresh @ w + 6 * normal(500, 6, seed=6)

    def r2(matrix):
        left = (matrix.predict(fresh) - truth).square().sum()
        return 1 - float(left / (truth - truth.mean(0)).square().sum())

    moments = PairMoments().update(x, y)
    assert r2(TaskMatrix.from_moments(moments)) > -0.1
    assert r2(TaskMatrix.from_states(x, y, ridge="loo")) > -0.1
    if n in (40, 41):  # the interpolation peak that the penalty is there for
        assert r2(TaskMatrix.from_moments(moments, method="lstsq")) < -1


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 12), d=st.integers(1, 12), factor=st.floats(1e-6, 1e6))
def test_default_grid_is_scale_free(n, d, factor):
    """The default grid has no scale of its own."""
    x, y = normal(n, d), normal(n, 3, seed=1)
    plain = TaskMatrix.from_states(x, y)
    scaled = TaskMatrix.from_states(x * factor, y)
    torch.testing.assert_close(scaled.predict(x * factor), plain.predict(x), rtol=1e-4, atol=1e-4)


def test_constant_features_have_no_weight_and_stop_least_squares():
    x, y, *_ = pairs(d=6)
    x[:, 2] = 5.0
    moments = PairMoments().update(x, y)
    matrix = TaskMatrix.from_moments(moments)
    assert matrix.weight[2].abs().max() == pytest.approx(0, abs=1e-12)
    with pytest.raises(TvlensError, match=r"1 of 6 base features are constant \(2\)"):
        TaskMatrix.from_moments(moments, method="lstsq")
    # Without a bias a constant feature is one, and nothing is undetermined.
    expected = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0]
    result = TaskMatrix.from_moments(moments, method="lstsq", bias=False)
    np.testing.assert_allclose(result.weight, expected, atol=1e-8)


def test_bad_input_raises_one_line_errors(unchecked):
    x, y, *_ = pairs()
    moments = PairMoments().update(x, y)
    for options, message in [
        (dict(ridge="gvc"), "rule for the ridge penalty 'gvc': did you mean 'gcv'"),
        (dict(ridge=-1.0), "0 or more"),
        (dict(ridge=float("nan")), "0 or more"),
        (dict(ridge="loo"), "needs the states again"),
        (dict(ridge="kfold"), "at least 2 folds, not 1"),
        (dict(method="lasso"), "unknown method 'lasso'"),
        (dict(rank=6), "rank 6 is not possible.*choose 1 to 5"),
        (dict(ridges=[]), "no penalties"),
    ]:
        with pytest.raises(TvlensError, match=message):
            TaskMatrix.from_moments(moments, **options)
    with pytest.raises(TvlensError, match="at least 2 pairs, not 1"):
        TaskMatrix.from_states(x[:1], y[:1])
    with pytest.raises(TvlensError, match="at least 2 pairs, not 0"):
        TaskMatrix.from_moments(PairMoments())
    with pytest.raises(TvlensError, match="x has 60 rows and y has 59"):
        TaskMatrix.from_states(x, y[:59])
    with pytest.raises(TvlensError, match="all 60 base states are the same"):
        TaskMatrix.from_states(torch.full_like(x, 0.1), y)
    with pytest.raises(TvlensError, match="stack several base layers"):
        TaskMatrix.from_moments(PairMoments().update(torch.stack([x, x]), y))
    with pytest.raises(TvlensError, match="stack several targets"):
        TaskMatrix.from_moments(PairMoments().update(x, torch.stack([y, y])))
