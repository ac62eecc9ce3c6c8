"""Compare posteriors over tasks with enumeration of all latent variables."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tvlens import TvlensError
from tvlens.bayes import (
    proportions_posterior,
    single_task_posterior,
    switching_posterior,
)


def likelihoods(prompts=4, shots=5, tasks=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.01, 1, (prompts, shots, tasks)))


def labels_of(sources, tasks=3):
    """Likelihoods of labels that are possible under one task only."""
    return torch.nn.functional.one_hot(torch.tensor(sources), tasks).double()


def enumerated(likelihood, weight_of, next_of):
    """Normalized sum over all task sequences of weight times p(labels) times p(next task)."""
    prompts, shots, tasks = likelihood.shape
    total = torch.zeros(prompts, tasks, dtype=torch.float64)
    for path in itertools.product(range(tasks), repeat=shots):
        fit = torch.stack([likelihood[:, i, k] for i, k in enumerate(path)]).prod(0)
        total += weight_of(path) * fit[:, None] * next_of(path)
    return total / total.sum(-1, keepdim=True)


@pytest.mark.parametrize("a", [0.3, 1.0, 4.0])
def test_proportions_posterior_equals_enumeration_of_task_sequences(a):
    likelihood = likelihoods()

    def counts(path):
        return torch.bincount(torch.tensor(path), minlength=3)

    wanted = enumerated(
        likelihood,
        lambda path: math.prod(math.gamma(a + n) for n in counts(path).tolist()),
        lambda path: (counts(path) + a) / (len(path) + 3 * a),
    )
    torch.testing.assert_close(proportions_posterior(likelihood, concentration=a), wanted)


def test_proportions_posterior_of_unambiguous_labels_follows_counts():
    sources = [[0, 0, 1, 2, 0, 1], [2, 2, 2, 2, 2, 2]]
    wanted = torch.tensor([[4, 3, 2], [1, 1, 7]]) / 9
    torch.testing.assert_close(proportions_posterior(labels_of(sources)), wanted.double())


def test_proportions_posterior_of_long_prompts_does_not_underflow():
    likelihood = torch.full((1, 60, 2), 1e-12, dtype=torch.float64)
    likelihood[:, :20, 0] = 2e-12
    assert torch.isfinite(proportions_posterior(likelihood)).all()
    assert proportions_posterior(likelihood)[0, 0] > 0.5


def test_single_task_posterior_equals_bayes_rule():
    likelihood, prior = likelihoods(), torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    joint = prior * likelihood.prod(1)
    wanted = joint / joint.sum(-1, keepdim=True)
    torch.testing.assert_close(single_task_posterior(likelihood, prior=prior), wanted)
    even = single_task_posterior(likelihood, prior=torch.ones(3) / 3)
    torch.testing.assert_close(single_task_posterior(likelihood), even)


@pytest.mark.parametrize("rate", [0.1, 0.7, 1.0])
def test_switching_posterior_equals_enumeration_of_paths(rate):
    likelihood = likelihoods(shots=4)
    step = (1 - rate) * torch.eye(3, dtype=torch.float64) + rate / 3

    def weight(path):
        return math.prod([1 / 3, *(float(step[a, b]) for a, b in itertools.pairwise(path))])

    wanted = enumerated(likelihood, weight, lambda path: step[path[-1]])
    torch.testing.assert_close(switching_posterior(likelihood, rate=rate), wanted)


@given(
    seed=st.integers(0, 10_000),
    model=st.sampled_from([single_task_posterior, proportions_posterior, switching_posterior]),
)
@settings(max_examples=30, deadline=None)
def test_posteriors_are_distributions_and_permute_with_the_tasks(seed, model):
    likelihood = likelihoods(seed=seed)
    posterior = model(likelihood)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(4, dtype=torch.float64))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(3))
    torch.testing.assert_close(model(likelihood[..., order]), posterior[:, order])
    if model is not switching_posterior:
        shots = torch.from_numpy(np.random.default_rng(seed).permutation(5))
        torch.testing.assert_close(model(likelihood[:, shots]), posterior)


def test_noise_models_agree_with_single_task_in_their_limits():
    likelihood = likelihoods()
    torch.testing.assert_close(
        switching_posterior(likelihood, rate=1e-12),
        single_task_posterior(likelihood),
        rtol=1e-8,
        atol=1e-8,
    )
    # Proportions that are surely even: nothing is learnt. Surely extreme: one task for all.
    even = proportions_posterior(likelihood, concentration=1e6)
    torch.testing.assert_close(even, torch.full_like(even, 1 / 3), rtol=0, atol=1e-4)
    extreme = proportions_posterior(likelihood, concentration=1e-9)
    torch.testing.assert_close(extreme, single_task_posterior(likelihood), rtol=1e-6, atol=1e-6)


def test_bad_input_raises_one_line_errors():
    mixed = labels_of([[0, 1]])
    with pytest.raises(TvlensError, match="prompt 0 is impossible under every single task"):
        single_task_posterior(mixed)
    with pytest.raises(TvlensError, match="concentration is 0"):
        proportions_posterior(mixed, concentration=0)
    for rate in (0, 1.5):
        with pytest.raises(TvlensError, match="rate is"):
            switching_posterior(mixed, rate=rate)
    for model in (
        single_task_posterior,
        proportions_posterior,
        partial(switching_posterior, rate=0.5),
    ):
        with pytest.raises(TvlensError, match="between 0 and 1"):
            model(torch.full((1, 2, 2), 1.5))
        with pytest.raises(TvlensError, match="above 0 for some task"):
            model(torch.zeros(1, 2, 2))
