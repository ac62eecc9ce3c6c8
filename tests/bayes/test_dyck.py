"""Compare `Dyck` with enumeration of all balanced paths."""

from itertools import product

import pytest
import scipy.stats
import torch

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes


def all_paths(pairs):
    """List all balanced paths of this many pairs."""

    def balanced(path):
        heights = [sum(2 * s - 1 for s in path[: i + 1]) for i in range(len(path))]
        return min(heights) >= 0 and heights[-1] == 0

    return [path for path in product((1, 0), repeat=2 * pairs) if balanced(path)]


def path_likelihood(path, tokens, symbols, rate):
    """Likelihood of a token sequence under one path."""
    likelihood, step = 1.0, 0
    for token in tokens:
        if step == len(path):
            likelihood *= (token < symbols) / symbols
        elif token < symbols:
            likelihood *= (1 - rate) / symbols
        else:
            likelihood *= rate * (path[step] == (token == symbols))
            step += 1
    return likelihood


def test_retrieval_equals_a_loop_over_paths():
    paths, prior = all_paths(3), [0.1, 0.2, 0.3, 0.15, 0.25]
    family = bayes.Dyck.from_paths(paths, prior=prior, symbols=2, rate=0.4)
    data = family.sample(20, 14, seed=2)
    result = bayes.retrieval(family, data)
    for row, tokens in enumerate(data.tokens.tolist()):
        for t in range(14):
            prefix = tokens[: t + 1]
            joint = [
                a * path_likelihood(p, prefix, 2, 0.4) for a, p in zip(prior, paths, strict=True)
            ]
            total = sum(joint)
            assert result.posterior[row, t].tolist() == pytest.approx([j / total for j in joint])
            assert float(result.log_evidence[row, t].exp()) == pytest.approx(total, rel=1e-9)
            for token in range(4):
                nexts = [
                    a * path_likelihood(p, [*prefix, token], 2, 0.4)
                    for a, p in zip(prior, paths, strict=True)
                ]
                predictive = float(result.predictive[row, t, token])
                assert predictive == pytest.approx(sum(nexts) / total, abs=1e-12)


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_learner_equals_retrieval_among_all_paths(pairs):
    family = bayes.Dyck.from_paths(all_paths(pairs), symbols=3, rate=0.5)
    data = family.sample(60, 20, split="ood")
    retrieval, learner = bayes.retrieval(family, data), bayes.learner(family, data)
    torch.testing.assert_close(learner.predictive, retrieval.predictive)
    torch.testing.assert_close(learner.log_evidence, retrieval.log_evidence)
    both = bayes.extrapolation(family, data, minor_mass=0.3)  # nothing tells the two apart
    torch.testing.assert_close(both.posterior[..., -1], torch.full((60, 20), 0.3).double())


def test_with_new_tasks_samples_balanced_paths_uniformly():
    paths = bayes.Dyck(pairs=4).with_new_tasks(7000, seed=3).paths
    counts = torch.unique(paths, dim=0, return_counts=True)[1]
    assert len(counts) == len(all_paths(4)) == 14
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_sample_has_brackets_at_their_rate_and_in_order():
    family = bayes.Dyck(pairs=3, rate=0.3, symbols=5)
    data = family.sample(2000, 60, split="ood")
    opens = data.tokens == 5
    brackets = opens | (data.tokens == 6)
    for row in range(50):
        assert opens[row][brackets[row]].double().tolist() == data.parameters[row].tolist()
    assert int(brackets[:, 0].sum()) == pytest.approx(600, abs=80)
    assert scipy.stats.chisquare(data.tokens[~brackets].bincount(minlength=5)).pvalue > 1e-3
    counts = bayes.sufficient_statistics(family, data)
    assert torch.equal(counts[:, -1], torch.full((2000, 2), 3.0).double())


def test_predictive_depends_on_brackets_before_long_noise():
    """Two contexts with different predictives that end in the same 30 noise tokens."""
    family = bayes.Dyck.from_paths([[1, 1, 0, 0]], symbols=1, rate=0.5)
    noise = [0] * 30
    predictive = bayes.retrieval(family, torch.tensor([[1, *noise, 0], [1, 1, *noise]])).predictive
    assert predictive[:, -1].tolist() == [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]


def test_extrapolation_assigns_unknown_paths_that_retrieval_refuses():
    family = bayes.Dyck.from_paths([[1, 1, 0, 0]], symbols=1, rate=0.5)
    unknown_path = torch.tensor([[1, 0, 2, 0]])
    with pytest.raises(TvlensError, match="from position 2 on"):
        bayes.retrieval(family, unknown_path)
    extrapolation = bayes.extrapolation(family, unknown_path)
    assert extrapolation.posterior[0, 2].tolist() == [0.0, 1.0]
    assert extrapolation.predictive[0, 2].tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("path", [[0, 1], [1, 1, 0, 1], [1, 0.5, 0, 0], [1, 1, 1, 0]])
def test_from_paths_refuses_unbalanced_paths(path):
    with pytest.raises(TvlensError, match="path 1 is not a balanced path"):
        good = [1, 0] * (len(path) // 2)
        bayes.Dyck.from_paths([good, path])


@pytest.mark.parametrize("tokens", [[8], [7, 8, 8], [7, 7, 7]])
def test_learner_refuses_brackets_without_a_balanced_completion(tokens):
    with pytest.raises(TvlensError, match=f"position {len(tokens) - 1} begin no balanced path"):
        bayes.learner(bayes.Dyck(pairs=2), torch.tensor([tokens]))


def test_from_paths_refuses_odd_lengths():
    with pytest.raises(TvlensError, match=r"tasks have shape \[tasks, 2\], not \[1, 3\]"):
        bayes.Dyck.from_paths([[1, 0, 1]])
