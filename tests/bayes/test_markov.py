"""Park et al.'s four algorithms against loops, and the stationary distribution against numpy."""

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


def powers(transition):
    """The stationary distribution, by running the chain for long."""
    return np.linalg.matrix_power(transition, 400)[0]


def test_stationary_distribution():
    transitions = bayes.Markov(tasks=20, states=6).transitions
    found = bayes.stationary_distribution(transitions)
    for chain, pi in zip(transitions.numpy(), found, strict=True):
        np.testing.assert_allclose(pi, powers(chain), atol=1e-12)
    away = torch.tensor([[0.5, 0.5], [0.0, 1.0]]).double()  # everything ends in state 1
    assert bayes.stationary_distribution(away).tolist() == [0.0, 1.0]
    with pytest.raises(TvlensError, match="more than one stationary"):
        bayes.stationary_distribution(torch.eye(3).double())


@pytest.mark.parametrize("bigram", [False, True])
def test_retrieval_by_loops(case, bigram):
    family, tokens = case
    found = (bayes.bigram_retrieval if bigram else bayes.unigram_retrieval)(family, tokens)
    chains = family.transitions.numpy()
    stationary = [powers(chain) for chain in chains]
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
            np.testing.assert_allclose(found.posterior[row, t], alpha, rtol=1e-9)
            np.testing.assert_allclose(found.predictive[row, t], alpha @ rows, rtol=1e-9)


@pytest.mark.parametrize("bigram", [False, True])
def test_inference_by_loops(case, bigram):
    family, tokens = case
    found = (bayes.bigram_inference if bigram else bayes.unigram_inference)(family, tokens)
    for row, line in enumerate(tokens.tolist()):
        for t in range(12):
            pairs = pairwise(line[: t + 1])
            seen = [b for a, b in pairs if a == line[t]] if bigram else line[: t + 1]
            wanted = [(seen.count(v) + 1) / (len(seen) + 5) for v in range(5)]
            np.testing.assert_allclose(found.predictive[row, t], wanted, rtol=1e-12)


def test_each_is_best_where_it_should_be():
    """Cross-entropy of long contexts: transitions matter, and knowing the chains helps on them."""
    family = bayes.Markov(tasks=8, states=6)
    names = [
        f"{grams}_{way}" for grams in ("unigram", "bigram") for way in ("retrieval", "inference")
    ]

    def losses(split):
        data = family.sample(200, 60, split=split)
        told = {}
        for name in names:
            p = getattr(bayes, name)(family, data).predictive[:, 20:-1]
            told[name] = -float(p.gather(-1, data.tokens[:, 21:, None]).log().mean())
        return told

    inside, outside = losses("train"), losses("ood")
    assert min(inside, key=inside.get) == "bigram_retrieval"
    assert min(outside, key=outside.get) == "bigram_inference"
    assert inside["unigram_retrieval"] > inside["bigram_retrieval"] + 0.1


def test_transitions_can_be_weighted_by_unigrams(case):
    family, tokens = case
    posterior = bayes.unigram_retrieval(family, tokens).posterior
    mixed = family.mixture_predictive(posterior, tokens)
    wanted = torch.einsum("ntk,ktv->ntv", posterior, family.transitions[:, tokens[0]])[0]
    torch.testing.assert_close(mixed[0], wanted)
