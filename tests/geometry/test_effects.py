import numpy as np
import pytest
import torch

import tvlens as tv
from tvlens import TvlensError
from tvlens.geometry import Effects, balanced_effects, joint_effects

K, V, D = 3, 4, 10


def sample_additive_states(n=600, *, noise=0.0, prefer=0.0, seed=0):
    """States of an additive model; with `prefer`, tasks draw different tokens."""
    rng = np.random.default_rng(seed)
    theta, nu = rng.standard_normal((K, D)), 3 * rng.standard_normal((V, D))
    theta, nu, mean = theta - theta.mean(0), nu - nu.mean(0), rng.standard_normal(D)
    task = rng.integers(0, K, n)
    odds = (1 - prefer) / V + prefer * np.eye(K, V)
    token = np.array([rng.choice(V, p=odds[t]) for t in task])
    h = mean + theta[task] + nu[token] + noise * rng.standard_normal((n, D))
    labels = torch.tensor(task), torch.tensor(token)
    return torch.tensor(h), *labels, *map(torch.tensor, (mean, theta, nu))


@pytest.mark.parametrize("fit", [balanced_effects, joint_effects])
@pytest.mark.parametrize("prefer", [0.0, 0.6])
def test_effects_recover_planted_ones(fit, prefer):
    h, task, token, mean, theta, nu = sample_additive_states(prefer=prefer)
    effects = fit(h, task, token)
    torch.testing.assert_close(effects.mean, mean)
    torch.testing.assert_close(effects.task, theta)
    torch.testing.assert_close(effects.token, nu)
    torch.testing.assert_close(effects.residual(h, token), theta[task])


@pytest.mark.parametrize("tokens", [True, False])
def test_joint_effects_are_least_squares(tokens):
    """The reference is numpy's least squares with indicators, centered afterwards."""
    h, task, token, *_ = sample_additive_states(80, noise=1.0, prefer=0.5)
    columns = [np.eye(K)[task]] + ([np.eye(V)[token]] if tokens else [])
    fit = np.linalg.lstsq(np.concatenate(columns, 1), h.numpy())[0]
    theta, nu = fit[:K], fit[K:] if tokens else np.zeros((1, D))
    effects = joint_effects(h, task, token if tokens else None)
    close = dict(atol=1e-10, rtol=0)
    np.testing.assert_allclose(effects.mean, theta.mean(0) + nu.mean(0), **close)
    np.testing.assert_allclose(effects.task, theta - theta.mean(0), **close)
    np.testing.assert_allclose(effects.token, (nu - nu.mean(0))[: V if tokens else 0], **close)
    if not tokens:
        torch.testing.assert_close(effects.task, balanced_effects(h, task).task)


def test_balanced_and_joint_effects_agree_on_a_balanced_design():
    task = torch.arange(K).repeat_interleave(V * 2)
    token = torch.arange(V).repeat(K * 2)
    h = torch.randn(len(task), D, dtype=torch.float64)
    a, b = balanced_effects(h, task, token), joint_effects(h, task, token)
    for name in ("mean", "task", "token"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    torch.testing.assert_close(a.task.sum(0), torch.zeros(D, dtype=torch.float64))
    torch.testing.assert_close(a.token.sum(0), torch.zeros(D, dtype=torch.float64))


def test_joint_effects_remove_confounding():
    """If tasks prefer tokens, balanced means are biased and the joint fit is not."""
    h, task, token, _, theta, _ = sample_additive_states(3000, noise=0.3, prefer=0.7)
    naive = balanced_effects(h, task).task
    joint = joint_effects(h, task, token).task
    assert (joint - theta).norm() < 0.1 * (naive - theta).norm()


def test_interpolate_recovers_planted_weights():
    h, task, token, mean, theta, nu = sample_additive_states()
    effects = joint_effects(h, task, token)
    weights = torch.tensor(np.random.default_rng(1).dirichlet(np.ones(K), (5, 7)))
    tokens = torch.randint(V, (5, 7))
    mixed = mean + weights @ theta + nu[tokens]
    torch.testing.assert_close(effects.interpolate(mixed, tokens), weights, atol=1e-9, rtol=0)
    flat = tv.simplex_weights(effects.residual(h, token), effects.task)
    torch.testing.assert_close(effects.interpolate(h, token), flat)
    bare = balanced_effects(mean + theta[task], task)
    torch.testing.assert_close(bare.interpolate(mean + weights @ theta), weights)


def test_labels_need_not_be_consecutive():
    h, task, token, _, theta, _ = sample_additive_states()
    effects = joint_effects(h, 5 + 2 * task, 100 * token)
    assert effects.tasks.tolist() == [5, 7, 9] and effects.tokens.tolist() == [0, 100, 200, 300]
    torch.testing.assert_close(effects.task, theta)
    torch.testing.assert_close(effects.residual(h, 100 * token), theta[task])
    for strange in (50, 301, 10**6):
        with pytest.raises(TvlensError, match=f"token {strange} was not fitted; there are 4, from"):
            effects.residual(h[:2], torch.tensor([100, strange]))


def test_effects_are_saved_tabulated_and_plotted(tmp_path):
    h, task, token, *_ = sample_additive_states()
    effects = joint_effects(h.float(), task, token)
    assert effects.task.dtype == torch.float32
    effects.save(tmp_path / "e.safetensors")
    loaded = Effects.load(tmp_path / "e.safetensors")
    assert all(torch.equal(getattr(loaded, k), getattr(effects, k)) for k in vars(effects))
    frame = effects.to_dataframe()
    assert frame.factor.tolist() == ["task"] * K + ["token"] * V
    assert frame.norm.iloc[1] == pytest.approx(float(effects.task[1].norm()))
    assert "data-tvlens" in effects._repr_html_() and repr(effects) == (
        "Effects(3 tasks, 4 tokens, width 10)"
    )
    assert "data-tvlens" in balanced_effects(h, task)._repr_html_()


def test_unidentified_effects_raise_one_line_errors():
    h = torch.randn(40, D, dtype=torch.float64)
    task = torch.arange(40) % 4
    with pytest.raises(TvlensError, match=r"tasks \[0, 2\] share no token with the other tasks"):
        joint_effects(h, task, task % 2)
    with pytest.raises(TvlensError, match=r"no sample of task 0 with token 1 \(4 of 8 cells"):
        balanced_effects(h, task, task % 2)
    with pytest.raises(TvlensError, match="5 samples cannot fit 6 effects"):
        joint_effects(h[:5], torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 3]))
    for fit in (balanced_effects, joint_effects):
        with pytest.raises(TvlensError, match="every sample is of task 3"):
            fit(h, 0 * task + 3)
        with pytest.raises(TvlensError, match="NaN"):
            fit(h * torch.nan, task)


def test_bad_input_raises_one_line_errors(unchecked):
    h, task, token, *_ = sample_additive_states()
    effects = joint_effects(h, task, token)
    with pytest.raises(TvlensError, match="need the token of each state"):
        effects.residual(h)
    with pytest.raises(TvlensError, match="have no token part"):
        joint_effects(h, task).residual(h, token)
    with pytest.raises(TvlensError, match="h has width 9 and the effects has width 10"):
        effects.residual(h[:, 1:], token)
    with pytest.raises(TvlensError, match=r"token has shape \[5\]; \[600\] is needed"):
        effects.residual(h, token[:5])
    with pytest.raises(TvlensError, match="task holds the label -1"):
        joint_effects(h, task - 1, token)
