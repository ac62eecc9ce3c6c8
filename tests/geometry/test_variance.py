import numpy as np
import pytest
import scipy.stats
import torch

from tvlens import TvlensError
from tvlens.geometry import VarianceDecomposition, between_cell_variance, two_way_variance
from tvlens.stats import bootstrap_counts

K, V, D = 3, 4, 5


def sample_design(each=12, *, noise=1.0, interaction=0.0, seed=0, d=D):
    """Planted states h = task + token + interaction + noise of a balanced design."""
    rng = np.random.default_rng(seed)
    task = np.repeat(np.arange(K), V * each)
    token = np.tile(np.repeat(np.arange(V), each), K)
    theta, nu = rng.standard_normal((K, d)), 2 * rng.standard_normal((V, d))
    both = interaction * rng.standard_normal((K, V, d))
    h = 3 + theta[task] + nu[token] + both[task, token]
    h = h + noise * rng.standard_normal(h.shape)
    return torch.tensor(h), torch.tensor(task), torch.tensor(token)


def group_by_cell(h, task, token):
    return [h[(task == k) & (token == v)].numpy() for k in task.unique() for v in token.unique()]


def test_between_cell_variance_is_one_minus_the_within_share():
    h, task, token = sample_design(each=5)
    keep = torch.randperm(len(h))[:40]  # unbalanced, and perhaps with empty cells
    h, task, token = h[keep], task[keep], token[keep]
    within = sum(((c - c.mean(0)) ** 2).sum() for c in group_by_cell(h, task, token) if len(c))
    wanted = 1 - within / ((h - h.mean(0)) ** 2).sum()
    assert float(between_cell_variance(h, task, token, resamples=20)["cells"]) == pytest.approx(
        float(wanted)
    )


def test_between_cell_variance_in_one_dimension_is_eta_squared():
    h, task, _ = sample_design(d=1)
    groups = [h[task == k, 0].numpy() for k in range(K)]
    f = scipy.stats.f_oneway(*groups).statistic
    between, within = K - 1, len(h) - K
    share = between_cell_variance(h, task, resamples=20)
    assert float(share["cells"]) == pytest.approx(between * f / (between * f + within))
    # The share less the noise is epsilon squared, the adjusted R^2.
    adjusted = 1 - (1 - float(share["cells"])) * (len(h) - 1) / within
    assert float(share["cells"] - share.noise[0]) == pytest.approx(adjusted)


def test_two_way_variance_equals_the_table_of_cell_means():
    h, task, token = sample_design(interaction=0.7)
    keep = torch.randperm(len(h), generator=torch.Generator().manual_seed(0))[:120]
    h, task, token = h[keep], task[keep], token[keep]
    m = np.stack([c.mean(0) for c in group_by_cell(h, task, token)]).reshape(K, V, D)
    mu = m.mean((0, 1))
    theta, nu = m.mean(1) - mu, m.mean(0) - mu
    rest = m - mu - theta[:, None] - nu
    sums = np.array([V * (theta**2).sum(), K * (nu**2).sum(), (rest**2).sum()])
    result = two_way_variance(h, task, token, resamples=20)
    assert result.parts == ("task", "token", "interaction")
    np.testing.assert_allclose(result.shares, sums / sums.sum(), rtol=1e-10)


def test_two_way_variance_of_additive_states_has_no_interaction():
    h, task, token = sample_design(noise=0)
    h = h + 1e-9 * torch.randn(h.shape, dtype=torch.float64)
    result = two_way_variance(h, task, token, resamples=50)
    assert abs(float(result["interaction"])) < 1e-12
    assert float(between_cell_variance(h, task, token, resamples=50)["cells"]) == pytest.approx(1)


def test_noise_equals_the_share_without_effects():
    """Without effects, each share equals its noise on average, and intervals contain 0."""
    shares, expected, covered = [], [], 0
    for seed in range(60):
        _, task, token = sample_design(each=4)
        h = torch.tensor(np.random.default_rng(seed).standard_normal((len(task), 40)))
        parts = [
            f(h, task, token, resamples=200) for f in (between_cell_variance, two_way_variance)
        ]
        shares.append(torch.cat([p.shares for p in parts]))
        expected.append(torch.cat([p.noise for p in parts]))
        low, high = parts[0].interval[0].tolist()
        covered += low <= 0 <= high
    shares, expected = torch.stack(shares).mean(0), torch.stack(expected).mean(0)
    torch.testing.assert_close(shares, expected, rtol=0.05, atol=0)
    assert covered >= 50


@pytest.mark.parametrize("interaction", [0.0, 0.5])
def test_intervals_cover_the_planted_share(interaction):
    """Intervals cover the true shares, although estimates from few samples are biased upwards."""
    truth, *labels = sample_design(each=1, noise=0, interaction=interaction)
    m = truth.view(K, V, D)
    mu = m.mean((0, 1))
    rest = m - m.mean(1, keepdim=True) - m.mean(0) + mu
    eta = float(rest.square().sum() / (m - mu).square().sum())
    spread = float((m - mu).square().sum(-1).mean())
    cells = spread / (spread + D)
    covered = np.zeros(2)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        task, token = (l.repeat_interleave(10) for l in labels)
        h = m[task, token] + torch.tensor(rng.standard_normal((len(task), D)))
        for i, (result, part, true) in enumerate(
            [
                (between_cell_variance(h, task, token, resamples=300, seed=seed), "cells", cells),
                (two_way_variance(h, task, token, resamples=300, seed=seed), "interaction", eta),
            ]
        ):
            low, high = result.interval[result.index(part)].tolist()
            covered[i] += low <= true <= high
    assert (covered >= 50).all(), covered


def test_positions_are_computed_independently():
    h, task, token = sample_design()
    many = torch.stack([h, 2 * h.roll(5, 0), h.flip(0)], 1)
    tokens = torch.stack([token, token.roll(1), token.flip(0)], 1)
    for measure in (between_cell_variance, two_way_variance):
        result = measure(many, task, tokens, resamples=40)
        assert result.shares.shape == (len(result.parts), 3)
        for i in range(3):
            alone = measure(many[:, i], task, tokens[:, i], resamples=40)
            torch.testing.assert_close(result.shares[:, i], alone.shares)
            torch.testing.assert_close(result.interval[:, i], alone.interval)
            torch.testing.assert_close(result.noise[:, i], alone.noise)


def test_resample_equals_the_statistic_of_the_resampled_rows():
    h, task, token = sample_design(each=6)
    weights = bootstrap_counts(len(h), 1, seed=3)[0]
    drawn = torch.tensor(np.repeat(np.arange(len(h)), weights.astype(int)))
    assert len(drawn) == len(h)
    share = between_cell_variance(h, task, token, resamples=1, seed=3)
    resampled = between_cell_variance(h[drawn], task[drawn], token[drawn], resamples=1)["cells"]
    torch.testing.assert_close(share.interval[0, 0], 2 * share["cells"] - resampled)
    cell = (task * V + token).numpy()
    stratified = bootstrap_counts(len(cell), 50, seed=0, strata=cell)
    assert all((stratified[:, cell == c].sum(1) == 6).all() for c in range(K * V))


def test_variance_shares_are_invariant_under_similarity_transformations():
    h, task, token = sample_design(interaction=0.3)
    turn = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q
    for measure in (between_cell_variance, two_way_variance):
        a, b = (measure(x, task, token, resamples=30) for x in (h, 100 + 7 * h @ turn))
        torch.testing.assert_close(a.shares, b.shares)
        torch.testing.assert_close(a.interval, b.interval)


def test_two_way_variance_is_saved_tabulated_and_plotted(tmp_path):
    h, task, token = sample_design()
    for states in (h, torch.stack([h, h.flip(1)], 1)):
        result = two_way_variance(states, task, token, resamples=40, seed=2)
        assert torch.equal(result.shares, two_way_variance(states, task, token, resamples=3).shares)
        result.save(tmp_path / "d.safetensors")
        loaded = VarianceDecomposition.load(tmp_path / "d.safetensors")
        assert loaded.parts == result.parts and loaded.settings == result.settings
        assert torch.equal(loaded.interval, result.interval)
        frame = result.to_dataframe()
        assert list(frame.columns) == ["part", "position", "share", "low", "high", "noise"]
        last = result["interaction"].reshape(-1)[-1]
        assert frame.share.iloc[-1] == float(last)
        assert "data-tvlens" in result._repr_html_() and "interaction" in repr(result)
    with pytest.raises(TvlensError, match="no part 'tokens': choose from task, token"):
        result["tokens"]


def test_bad_input_raises_one_line_errors(unchecked):
    h, task, token = sample_design(each=2)
    gap = (task != 1) | (token != 2)
    with pytest.raises(TvlensError, match=r"no sample of task 1 with token 2 \(1 of 12 cells"):
        two_way_variance(h[gap], task[gap], token[gap])
    between_cell_variance(h[gap], task[gap], token[gap], resamples=2)
    with pytest.raises(TvlensError, match="every sample is of task 0"):
        two_way_variance(h, 0 * task, token)
    with pytest.raises(TvlensError, match="every sample has token 0"):
        two_way_variance(h, task, 0 * token)
    with pytest.raises(TvlensError, match="all samples are in one cell"):
        between_cell_variance(h, 0 * task)
    with pytest.raises(TvlensError, match="every cell has one sample"):
        between_cell_variance(h[::2], task[::2], token[::2])
    with pytest.raises(TvlensError, match="all states are the same"):
        between_cell_variance(torch.full_like(h, 0.1), task, token)
    with pytest.raises(TvlensError, match="too few samples"):
        between_cell_variance(h[:3], torch.tensor([0, 1, 1]))
    with pytest.raises(TvlensError, match="resamples must be at least 1"):
        between_cell_variance(h, task, resamples=0)
    with pytest.raises(TvlensError, match="level=95"):
        between_cell_variance(h, task, level=95)
    with pytest.raises(TvlensError, match="holds the label -1"):
        between_cell_variance(h, task - 1)
    with pytest.raises(TvlensError, match=r"task has shape \[23\]; \[24\] is needed"):
        between_cell_variance(h, task[1:])
    many = torch.stack([h, h], 1)
    many[3, 1, 0] = torch.nan
    with pytest.raises(TvlensError, match="position 1: 1 of 120 numbers in h are NaN"):
        between_cell_variance(many, task)
    with pytest.raises(TvlensError, match=r"h is \[n, d\] or"):
        between_cell_variance(h[:, 0], task)
