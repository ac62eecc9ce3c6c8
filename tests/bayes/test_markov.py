"""Compare the four algorithms of Park et al. with loops, stationary distributions with numpy."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes


@pytest.fixture
def case():
    family = bayes.Markov(tasks=4, states=5, seed=1).with_prior([0.1, 0.2, 0.3, 0.4])
    return family, family.sample(3, 12, seed=2).tokens


def limit_distribution(transition):
    """The stationary distribution as a row of a high matrix power."""
    return np.linalg.matrix_power(transition, 400)[0]


def test_stationary_distribution_equals_matrix_powers():
    transitions = bayes.Markov(tasks=20, states=6).transitions
    stationary = bayes.stationary_distribution(transitions)
    for chain, pi in zip(transitions.numpy(), stationary, strict=True):
        np.testing.assert_allclose(pi, limit_distribution(chain), atol=1e-12)
    absorbing = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()  # everything ends in state 1
    assert bayes.stationary_distribution(absorbing).tolist() == [0.0, 1.0]
    with pytest.raises(TvlensError, match="more than one stationary"):
        bayes.stationary_distribution(torch.eye(3).double())


@pytest.mark.parametrize("bigram", [False, True])
def test_retrieval_equals_a_loop_over_chains(case, bigram):
    family, tokens = case
    result = (bayes.bigram_retrieval if bigram else bayes.unigram_retrieval)(family, tokens)
    chains = family.transitions.numpy()
    stationary = [limit_distribution(chain) for chain in chains]
    for row, line in enumerate(tokens.tolist()):
        weights = family.prior.numpy().copy()
        for t, token in enumerate(line):
            for k in range(4):
                if not bigram:
                    weights[k] *= stationary[k][token]
                elif t:
                    weights[k] *= chains[k, line[t - 1], token]
            alpha = weights / weights.sum()
            rows = chains[:, token] if bigram else np.stack(stationary)
            np.testing.assert_allclose(result.posterior[row, t], alpha, rtol=1e-9)
            np.testing.assert_allclose(result.predictive[row, t], alpha @ rows, rtol=1e-9)


@pytest.mark.parametrize("bigram", [False, True])
def test_inference_equals_smoothed_counts(case, bigram):
    family, tokens = case
    result = (bayes.bigram_inference if bigram else bayes.unigram_inference)(family, tokens)
    for row, line in enumerate(tokens.tolist()):
        for t in range(12):
            pairs = pairwise(line[: t + 1])
            successors = [b for a, b in pairs if a == line[t]] if bigram else line[: t + 1]
            wanted = [(successors.count(v) + 1) / (len(successors) + 5) for v in range(5)]
            np.testing.assert_allclose(result.predictive[row, t], wanted, rtol=1e-12)


def test_bigram_retrieval_is_best_in_and_inference_out_of_distribution():
    """Compare cross-entropies of long contexts from the pool and outside of it."""
    family = bayes.Markov(tasks=8, states=6)
    names = [
        f"{grams}_{way}" for grams in ("unigram", "bigram") for way in ("retrieval", "inference")
    ]

    def losses(split):
        data = family.sample(200, 60, split=split)
        cross_entropy = {}
        for name in names:
            p = getattr(bayes, name)(family, data).predictive[:, 20:-1]
            cross_entropy[name] = -float(p.gather(-1, data.tokens[:, 21:, None]).log().mean())
        return cross_entropy

    inside, outside = losses("train"), losses("ood")
    assert min(inside, key=inside.get) == "bigram_retrieval"
    assert min(outside, key=outside.get) == "bigram_inference"
    assert inside["unigram_retrieval"] > inside["bigram_retrieval"] + 0.1


def test_mixture_predictive_accepts_a_unigram_posterior(case):
    family, tokens = case
    posterior = bayes.unigram_retrieval(family, tokens).posterior
    mixed = family.mixture_predictive(posterior, tokens)
    wanted = torch.einsum("ntk,ktv->ntv", posterior, family.transitions[:, tokens[0]])[0]
    torch.testing.assert_close(mixed[0], wanted)
