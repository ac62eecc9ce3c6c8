import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from tvlens import PairMoments, TaskMatrix, TvlensError
from tvlens.geometry import cka as cka_of_states
from tvlens.matrices import (
    MatrixReport,
    TaskMatrices,
    cka,
    distance_from_identity,
    r2,
    r2_by_dimension,
    shared,
)
from tvlens.stats import share_interval


def test_an_accuracys_interval_is_wilsons_and_wider_over_finetunings():
    """It has a width where every example is right, and holds what finetunings differ by."""

    def report(right):
        seeds = torch.zeros(len(right), dtype=torch.int64)
        return MatrixReport(
            names=("task_matrix",),
            decisions=1 - right[:, None],
            labels=torch.zeros(right.shape[1], dtype=torch.int64),
            layers=(0,),
            layer=seeds,
            ridge=seeds.double(),
            rank=seeds,
            by_layer=seeds[:, None].double(),
            by_layer_r2=seeds[:, None].double(),
            selection="validation",
            oracle=seeds.double(),
        )

    draw = torch.Generator().manual_seed(0)
    one, other = (torch.rand(1, 60, generator=draw) < p for p in (0.9, 0.5))
    one, other = one.long(), other.long()
    assert report(one).interval() == share_interval(one[0].numpy())
    every = report(torch.ones(3, 60, dtype=torch.int64)).interval()
    assert every == share_interval([1] * 60) and every[0] < 0.95
    low, high = report(torch.cat([one, other])).interval()
    assert low <= float(other.double().mean()) and float(one.double().mean()) <= high


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng([seed, *shape]).standard_normal(shape))


def pairs(n=80, d=7, t=5, rank=None, seed=0, task=1):
    x = normal(n, d, seed=seed) @ normal(d, d, seed=7) + 2
    w = normal(d, t, seed=task) if rank is None else normal(d, rank) @ normal(rank, t)
    return x, x @ w + 1 + 0.5 * normal(n, t, seed=seed + 100)


def test_predictions_keep_shape_and_dtype():
    x, y = pairs()
    matrix = TaskMatrix.from_states(x, y)
    assert matrix.predict(x[0]).shape == (5,)
    wide = matrix.predict(x.float().reshape(8, 10, 7))
    assert wide.shape == (8, 10, 5) and wide.dtype == torch.float32
    torch.testing.assert_close(
        wide.reshape(80, 5).double(), x @ matrix.weight + matrix.bias, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(TvlensError, match="width 5, not 7"):
        matrix.predict(y)


@pytest.mark.parametrize("ridge", [None, 3.0])
@pytest.mark.parametrize("bias", [True, False])
def test_the_best_map_of_each_rank(ridge, bias):
    """Reduced-rank regression is least squares on the data with the penalty as more rows."""
    x, y = pairs()
    matrix = TaskMatrix.from_states(x, y, ridge=ridge, bias=bias)
    z, target = (x - x.mean(0), y - y.mean(0)) if bias else (x, y)
    z = torch.cat([z, (ridge or 0) ** 0.5 * torch.eye(7)])
    target = torch.cat([target, torch.zeros(7, 5)])

    def error(weight):
        return float((target - z @ weight).square().sum())

    fitted = z @ matrix.weight
    tail = torch.linalg.svdvals(fitted).square()
    for rank in range(1, 6):
        low = matrix.truncate(rank)
        assert int(torch.linalg.matrix_rank(low.weight)) == low.rank == rank
        # Eckart and Young: nothing of this rank comes nearer to the fitted values.
        assert error(low.weight) == pytest.approx(error(matrix.weight) + float(tail[rank:].sum()))
        again = TaskMatrix.from_states(x, y, ridge=ridge, bias=bias, rank=rank)
        torch.testing.assert_close(again.weight, low.weight)
        if bias:
            torch.testing.assert_close(low.predict(x.mean(0)), y.mean(0))
        else:
            assert low.bias.abs().max() < 1e-12
    torch.testing.assert_close(matrix.truncate(5).weight, matrix.weight)
    torch.testing.assert_close(matrix.truncate(4).truncate(2).weight, matrix.truncate(2).weight)
    shares = matrix.explained_by_rank()
    torch.testing.assert_close(shares, tail.cumsum(0) / tail.sum())
    with pytest.raises(TvlensError, match="rank 0 is not possible"):
        matrix.truncate(0)


def test_spectrum():
    matrix = TaskMatrix.from_states(*pairs())
    torch.testing.assert_close(matrix.spectrum(), torch.linalg.svdvals(matrix.weight))


def test_procrustes_equals_scipy_and_recovers_a_rotation():
    x, _ = pairs()
    turn = torch.linalg.qr(normal(7, 7)).Q
    matrix = TaskMatrix.from_states(x, 2.5 * x @ turn + 3, method="procrustes")
    torch.testing.assert_close(matrix.weight, 2.5 * turn)
    torch.testing.assert_close(matrix.bias, torch.full((7,), 3.0, dtype=torch.float64))
    y = normal(80, 7, seed=4)
    wanted, scale = scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())
    found = TaskMatrix.from_states(x, y, method="procrustes", bias=False)
    np.testing.assert_allclose(found.weight, wanted * scale / (x**2).sum().item(), atol=1e-10)
    narrow = TaskMatrix.from_states(x, y[:, :3], method="procrustes")
    gram = narrow.weight.T @ narrow.weight
    torch.testing.assert_close(gram, torch.eye(3).double() * gram[0, 0])
    assert narrow.truncate(2).weight.shape == (7, 3)


def test_diagnostics_from_moments_equal_those_of_states():
    x, y = pairs()
    y[:, 3] = 2.0
    fresh_x, fresh_y = pairs(40, seed=3)
    moments, fresh = PairMoments().update(x, y), PairMoments().update(fresh_x, fresh_y)
    matrix = TaskMatrix.from_moments(moments)
    assert cka(moments) == pytest.approx(cka_of_states(x, y))
    for states, target, m in ((x, y, moments), (fresh_x, fresh_y, fresh)):
        from sklearn.metrics import r2_score

        guess = matrix.predict(states).numpy()
        by_dimension = r2_score(target.numpy(), guess, multioutput="raw_values")
        np.testing.assert_allclose(r2_by_dimension(m, matrix), by_dimension, atol=1e-8)
        left = ((target.numpy() - guess) ** 2).sum()
        spread = (target - target.mean(0)).square().sum()
        assert r2(m, matrix) == pytest.approx(1 - left / float(spread))


def test_the_predicted_r2_is_that_of_new_pairs():
    """And never that of the pairs themselves, which fewer pairs than dimensions fit exactly."""
    d = 60
    w = normal(d, 20, seed=2)

    def draw(n, seed):
        x = normal(n, d, seed=seed)
        return x, x @ w + 8 * normal(n, 20, seed=seed + 1)

    for n in (50, 300):
        matrix = TaskMatrix.from_states(*draw(n, 5))
        new = r2(PairMoments().update(*draw(4000, 11)), matrix)
        assert matrix.meta["predicted_r2"] == pytest.approx(new, abs=0.12)


def test_distance_from_identity():
    eye = TaskMatrix(torch.eye(4), torch.zeros(4))
    assert distance_from_identity(eye) == 0
    assert distance_from_identity(TaskMatrix(3 * torch.eye(4), torch.zeros(4))) == pytest.approx(2)
    with pytest.raises(TvlensError, match="no identity from 7 to 5"):
        distance_from_identity(TaskMatrix.from_states(*pairs()))


def test_a_shared_matrix_is_the_fit_to_all_the_data_of_its_tasks():
    data = {f"task {k}": pairs(30 + k, seed=k, task=k) for k in range(4)}
    moments = {name: PairMoments().update(*xy) for name, xy in data.items()}
    found = dict(shared(moments, ridge=2.0))
    subsets = [s for k in range(1, 5) for s in itertools.combinations(data, k)]
    assert list(found) == subsets and len(subsets) == 15
    for names in subsets:
        x, y = (torch.cat([data[name][side] for name in names]) for side in (0, 1))
        direct = TaskMatrix.from_states(x, y, ridge=2.0)
        torch.testing.assert_close(found[names].weight, direct.weight)
        torch.testing.assert_close(found[names].bias, direct.bias)
        listed = TaskMatrix.from_moments([moments[n] for n in names], ridge=2.0)
        torch.testing.assert_close(listed.weight, direct.weight)
    assert [names for names, _ in shared(moments, sizes=4)] == [tuple(data)]
    with pytest.raises(TvlensError, match="unknown size of a subset '5'"):
        list(shared(moments, sizes=5))


def test_saving(tmp_path):
    matrix = TaskMatrix.from_states(*pairs(), rank=3)
    path = tmp_path / "w.safetensors"
    matrix.save(path)
    read = TaskMatrix.load(path)
    assert torch.equal(read.weight, matrix.weight) and torch.equal(read.bias, matrix.bias)
    assert (read.ridge, read.rank, read.meta) == (matrix.ridge, 3, matrix.meta)
    torch.testing.assert_close(read.truncate(2).weight, matrix.truncate(2).weight)
    with pytest.raises(TvlensError, match="holds no TaskMatrix"):
        TaskMatrix.load(tmp_path / "other.safetensors")
    several = TaskMatrices(
        tuple(TaskMatrix(matrix.weight * k, matrix.bias, layer=k, target=2) for k in (1, 4))
    )
    several.save(path)
    read = TaskMatrices.load(path)
    assert list(read) == [1, 4] and torch.equal(read[4].weight, 4 * matrix.weight)
    assert read[4, 2] is read[4] and read[1].factor is None
    with pytest.raises(TvlensError, match="holds no TaskMatrix"):
        TaskMatrix.load(path)


def test_it_shows_itself():
    matrix = TaskMatrix.from_states(*pairs())
    assert "singular value" in matrix._repr_html_()
    assert repr(matrix).startswith("TaskMatrix(7 to 5, ridge, penalty ")
