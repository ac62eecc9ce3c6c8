import numpy as np
import pytest
import torch
from helpers import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from tvlens import PairMoments, TvlensError
from tvlens.matrices.moments import gram

TENSORS = ("mean_x", "mean_y", "xx", "xy", "yy")


def moments_of(x, y):
    return PairMoments().update(x, y)


def assert_same(a, b, scale=1.0):
    assert a.count == b.count
    for name in TENSORS:
        actual, expected = getattr(a, name), getattr(b, name)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9 * scale)


def test_update_in_batches_matches_numpy():
    x, y = normal(57, 5, mean=3.0), normal(57, 3, seed=1)
    moments = PairMoments()
    for part in torch.arange(57).split(10):
        moments.update(x[part], y[part])
    centered_x, centered_y = x.numpy() - x.numpy().mean(0), y.numpy() - y.numpy().mean(0)
    assert moments.count == 57
    np.testing.assert_allclose(moments.mean_x, x.numpy().mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.xx, centered_x.T @ centered_x, atol=1e-10)
    np.testing.assert_allclose(moments.xy, centered_x.T @ centered_y, atol=1e-10)
    np.testing.assert_allclose(moments.yy, centered_y.T @ centered_y, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    base=st.lists(st.integers(1, 3), max_size=2),
    tuned=st.lists(st.integers(1, 3), max_size=2),
    first=st.integers(1, 8),
)
def test_stacked_layers_match_separate_pairs(base, tuned, first):
    """Update in batches, also after a copy, a merge and a reload."""
    x, y = normal(*base, 9, 4, mean=2.0), normal(*tuned, 9, 3, seed=1)
    begun = moments_of(x[..., :first, :], y[..., :first, :])
    plain = dict(memory_format=torch.contiguous_format)
    contiguous = PairMoments(begun.count, *(getattr(begun, n).clone(**plain) for n in TENSORS))
    for moments in (begun, contiguous, begun + PairMoments()):
        moments.update(x[..., first:, :], y[..., first:, :])
        for i in np.ndindex(*base):
            for j in np.ndindex(*tuned):
                alone = moments_of(x[i], y[j])
                torch.testing.assert_close(moments.xy[i + j], alone.xy, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(moments.xx[i], alone.xx, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(moments.yy[j], alone.yy, rtol=1e-9, atol=1e-9)


def test_total_does_not_change_its_parts():
    x, y = normal(2, 30, 4, mean=5.0), normal(3, 30, 2, seed=1)
    parts = [moments_of(x[:, k::3], y[:, k::3]) for k in range(3)]
    assert_same(PairMoments.total([PairMoments(), *parts]), moments_of(x, y))
    assert PairMoments.total(parts[:1]) is parts[0]
    for k, part in enumerate(parts):
        assert_same(part, moments_of(x[:, k::3], y[:, k::3]))


def test_update_is_stable_under_a_large_mean():
    """Sums of raw squares would lose all 16 digits."""
    x, y = normal(400, 3), normal(400, 2, seed=1)
    shifted = PairMoments()
    for part in torch.arange(400).split(7):
        shifted.update(x[part] + 1e8, y[part] - 1e8)
    expected = moments_of(x, y)
    torch.testing.assert_close(shifted.xx, expected.xx, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(shifted.xy, expected.xy, rtol=1e-6, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    order=st.randoms(use_true_random=False),
    shift=st.floats(-1e3, 1e3),
)
def test_merge_does_not_depend_on_order_and_grouping(sizes, order, shift):
    n = sum(sizes)
    x, y = normal(n, 3) * 2 + shift, normal(n, 2, seed=1) - shift
    expected = moments_of(x, y)
    parts = [moments_of(a, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    order.shuffle(parts)
    while len(parts) > 1:  # any two neighbours, in any grouping
        i = order.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i].merge(parts[i + 1])]
    assert_same(parts[0], expected, scale=1 + abs(shift))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 30), k=st.integers(1, 29), shift=st.floats(-100, 100))
def test_subtract_undoes_merge(n, k, shift):
    k = min(k, n - 1)
    x, y = normal(n, 3) + shift, normal(n, 2, seed=1)
    assert_same(
        moments_of(x, y) - moments_of(x[:k], y[:k]),
        moments_of(x[k:], y[k:]),
        scale=1 + abs(shift) ** 2,
    )


def test_merge_does_not_change_its_operands():
    a, b = moments_of(normal(5, 2), normal(5, 2)), moments_of(normal(4, 2), normal(4, 2))
    before = a.xx.clone()
    both = a + b
    both.update(normal(3, 2), normal(3, 2))
    assert a.count == 5 and torch.equal(a.xx, before)
    with_nothing = a.merge(PairMoments())
    with_nothing.update(normal(3, 2), normal(3, 2))
    assert a.count == 5 and torch.equal(a.xx, before)


def test_pair_selects_stacked_layers():
    x, y = normal(3, 20, 4), normal(2, 20, 5)
    stacked = PairMoments().update(x[:, :9], y[:, :9]).update(x[:, 9:], y[:, 9:])
    for i in range(3):
        for j in range(2):
            assert_same(stacked.pair(i, j), moments_of(x[i], y[j]))
    other = PairMoments().update(x[:, :9], y[:, :9])
    assert_same((stacked - other).pair(2, 1), moments_of(x[2, 9:], y[1, 9:]))
    assert_same(stacked.pair(1, 0).uncentered(), stacked.uncentered().pair(1, 0))
    assert_same(stacked.pair(1).pair(tuned=1), moments_of(x[1], y[1]))


def test_uncentered_moments_are_raw_products():
    x, y = normal(9, 3, mean=2.0), normal(9, 2, mean=-1.0)
    raw = moments_of(x, y).uncentered()
    torch.testing.assert_close(raw.xx, x.T @ x)
    torch.testing.assert_close(raw.xy, x.T @ y)
    assert not raw.mean_x.any()


def test_save_and_load_keep_every_field(tmp_path):
    moments = moments_of(normal(9, 3), normal(9, 2))
    moments.save(tmp_path / "m.safetensors")
    assert_same(PairMoments.load(tmp_path / "m.safetensors"), moments)
    with pytest.raises(TvlensError, match="holds no PairMoments"):
        PairMoments.load(tmp_path / "none.safetensors")


def test_update_sums_low_precision_states_in_float64():
    x, y = normal(50, 3).float(), normal(50, 2).bfloat16()
    assert_same(moments_of(x, y), moments_of(x.double(), y.double()))


def test_bad_input_raises_one_line_errors():
    x, y = normal(5, 3), normal(5, 2)
    moments = moments_of(x, y)
    with pytest.raises(TvlensError, match="x has 5 rows and y has 4"):
        moments.update(x, y[:4])
    with pytest.raises(TvlensError, match="no rows"):
        moments.update(x[:0], y[:0])
    broken = x.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(TvlensError, match=r"1 of 15 numbers in x are NaN.*first at \[3, 1\]"):
        moments.update(broken, y)
    with pytest.raises(TvlensError, match=r"x of shape \[3\], not \[4\]"):
        moments.update(normal(5, 4), y)
    with pytest.raises(TvlensError, match=r"x of shape \[3\], not \[4\]"):
        moments.merge(moments_of(normal(5, 4), y))
    with pytest.raises(TvlensError, match="cannot subtract 9 pairs from 5"):
        moments.subtract(moments_of(normal(9, 3), normal(9, 2)))
    with pytest.raises(TvlensError, match="were not part"):
        moments.subtract(moments_of(100 * normal(3, 3), normal(3, 2)))
    with pytest.raises(TvlensError, match="no pairs yet"):
        PairMoments().pair(0, 0)
    with pytest.raises(TvlensError, match="base side is not stacked"):
        moments.pair(0)
    assert moments.count == 5  # nothing of it was taken in


@pytest.fixture(params=[1, 2])
def threads(request):
    """PyTorch sums in another order with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("width", [1, 5, 130, 300])
def test_gram_matches_product(threads, width):
    generator = torch.Generator().manual_seed(width)
    expected = torch.randn(40, 3, width, generator=generator, dtype=torch.float64)
    turned = torch.randn(width, 40, generator=generator, dtype=torch.float64).T
    for x in (expected[:, 0].contiguous(), expected[:, 1], turned):
        torch.testing.assert_close(gram(x), x.T @ x, rtol=1e-12, atol=1e-12)


def test_moments_do_not_depend_on_threads(threads):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 200, 70, generator=generator)
    y = torch.randn(2, 200, 90, generator=generator)
    moments = PairMoments().update(x[:, :50], y[:, :50]).update(x[:, 50:], y[:, 50:])
    exact = x.double() - x.double().mean(1, keepdim=True)
    torch.testing.assert_close(moments.xx, exact.mT @ exact, rtol=1e-12, atol=1e-11)
