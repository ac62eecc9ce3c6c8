"""Dice and chains against enumeration in exact fractions."""

from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


def dice(k=4, faces=5, majors=None, seed=0):
    rng = np.random.default_rng(seed)
    p, prior = rng.dirichlet(np.ones(faces), k), rng.dirichlet(np.ones(k))
    return bayes.Dice.from_probabilities(p, prior=prior, majors=majors)


def chains(k=3, states=4, majors=None, seed=0):
    rng = np.random.default_rng(seed)
    t, prior = rng.dirichlet(np.ones(states), (k, states)), rng.dirichlet(np.ones(k))
    return bayes.Markov.from_transitions(t, prior=prior, majors=majors)


def rolls(n, length, size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, size, (n, length)))


def exact(parameters):
    """Nested lists of fractions, equal to the floats to the last bit."""
    if isinstance(parameters, list):
        return [exact(p) for p in parameters]
    return Fraction(parameters)


def likelihood(task, tokens):
    """Of tokens under one die or one chain, whose first state is uniform."""
    product = Fraction(1)
    for t, token in enumerate(tokens):
        if not isinstance(task[0], list):
            product *= task[token]
        else:
            product *= task[tokens[t - 1]][token] if t else Fraction(1, len(task))
    return product


def following(task, tokens):
    return task[tokens[-1]] if isinstance(task[0], list) else task


def new_following(chain, size, tokens):
    """What a uniform Dirichlet learner expects next."""
    seen = [b for a, b in pairwise(tokens) if a == tokens[-1]] if chain else tokens
    return [Fraction(seen.count(v) + 1, len(seen) + size) for v in range(size)]


def new_likelihood(chain, size, tokens):
    product = Fraction(1, size)
    for t in range(1, len(tokens)):
        product *= new_following(chain, size, tokens[:t])[tokens[t]]
    return product


def mixed(weights, nexts):
    """Posterior, predictive and log-evidence from joint probabilities."""
    total = sum(weights)
    posterior = [w / total for w in weights]
    columns = zip(*nexts, strict=True)
    predictive = [sum(a * p for a, p in zip(posterior, c, strict=True)) for c in columns]
    return list(map(float, posterior)), list(map(float, predictive)), float(np.log(float(total)))


def enumerated(family, tokens, p0=None):
    """Posterior, predictive and evidence of M1, or of M2 where p0 is given, by enumeration."""
    tasks, prior = exact(family.probabilities.tolist()), exact(family.prior.tolist())
    chain = isinstance(tasks[0][0], list)
    size = len(tasks[0])
    if p0 is not None:
        tasks, prior = tasks[: family.majors], prior[: family.majors]
        prior = [(1 - Fraction(p0)) * a / sum(prior) for a in prior]
    rows = []
    for row in tokens.tolist():
        for t in range(1, len(row) + 1):
            seen = row[:t]
            weights = [a * likelihood(z, seen) for a, z in zip(prior, tasks, strict=True)]
            nexts = [following(z, seen) for z in tasks]
            if p0 is not None:
                weights.append(Fraction(p0) * new_likelihood(chain, size, seen))
                nexts.append(new_following(chain, size, seen))
            rows.append(mixed(weights, nexts))
    parts = [torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True)]
    return [part.unflatten(0, tokens.shape) for part in parts]


def check(prediction, wanted):
    for found, part in zip(
        (prediction.posterior, prediction.predictive, prediction.log_evidence), wanted, strict=True
    ):
        close(found, part)


@pytest.mark.parametrize("make, size", [(dice, 5), (chains, 4)])
def test_retrieval_equals_enumeration(make, size):
    family, tokens = make(), rolls(4, 9, size)
    check(bayes.retrieval(family, tokens), enumerated(family, tokens))


@pytest.mark.parametrize("p0", [0.1, 0.75])
@pytest.mark.parametrize("make, size", [(dice, 5), (chains, 4)])
def test_extrapolation_equals_enumeration(make, size, p0):
    family, tokens = make(majors=2), rolls(4, 9, size)
    found = bayes.extrapolation(family, tokens, minor_mass=p0)
    assert found.posterior.shape[-1] == 3
    check(found, enumerated(family, tokens, p0))


def test_extrapolation_takes_the_familys_own_mass():
    family = dice(majors=3)
    tokens = rolls(3, 7, 5)
    own = float(family.prior[3])
    assert family.minor_mass == pytest.approx(own)
    close(
        bayes.extrapolation(family, tokens).posterior,
        bayes.extrapolation(family, tokens, minor_mass=own).posterior,
    )
    drawn = bayes.Dice(minor=4, minor_mass=0.3)
    with_own = bayes.extrapolation(drawn, tokens).posterior
    close(with_own, bayes.extrapolation(drawn, tokens, minor_mass=0.3).posterior)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_dirichlet_evidence_equals_its_closed_form(alpha):
    tokens = rolls(3, 40, 4)
    found = bayes.learner(bayes.Dice(faces=4, alpha=alpha), tokens).log_evidence[:, -1]
    counts = torch.nn.functional.one_hot(tokens, 4).sum(1).double().numpy()
    wanted = gammaln(4 * alpha) - gammaln(40 + 4 * alpha)
    wanted = wanted + (gammaln(counts + alpha) - gammaln(alpha)).sum(-1)
    close(found, torch.from_numpy(wanted))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_evidence_of_a_chain_is_that_of_its_rows(alpha):
    family, tokens = bayes.Markov(states=4, alpha=alpha), rolls(3, 40, 4)
    counts = np.zeros((3, 4, 4))
    for row, line in enumerate(tokens.tolist()):
        for a, b in pairwise(line):
            counts[row, a, b] += 1
    rows = gammaln(4 * alpha) - gammaln(counts.sum(-1) + 4 * alpha)
    rows = rows + (gammaln(counts + alpha) - gammaln(alpha)).sum(-1)
    wanted = torch.from_numpy(rows.sum(-1) - np.log(4))
    close(bayes.learner(family, tokens).log_evidence[:, -1], wanted)
    close(bayes.sufficient_statistics(family, tokens)[:, -1], torch.from_numpy(counts))


@pytest.mark.parametrize("make, size", [(dice, 5), (chains, 4)])
def test_evidence_is_the_product_of_predictives(make, size):
    tokens = rolls(5, 30, size)
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        found = reference(make(), tokens)
        told = found.predictive[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].log()
        close(found.log_evidence.diff(dim=1), told)


sizes = st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(1, 4), st.integers(1, 12))


@given(sizes, st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_beliefs_are_distributions_and_follow_the_tasks_when_permuted(shape, chain, seed):
    k, size, n, length = shape
    family = (chains if chain else dice)(k, size, seed=seed)
    tokens = rolls(n, length, size, seed)
    found = bayes.retrieval(family, tokens)
    for beliefs in (
        found.posterior,
        found.predictive,
        bayes.extrapolation(family, tokens).posterior,
    ):
        assert bool((beliefs >= 0).all())
        close(beliefs.sum(-1), torch.ones(n, length).double())
    order = torch.from_numpy(np.random.default_rng(seed).permutation(k))
    moved = family.with_tasks(family.probabilities[order], prior=family.prior[order])
    again = bayes.retrieval(moved, tokens)
    close(again.posterior, found.posterior[..., order])
    close(again.predictive, found.predictive)
    if k == 1:
        assert bool((found.posterior == 1).all())


@given(st.booleans(), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_without_mass_for_the_new_both_references_agree(chain, seed):
    size = 5
    family, tokens = (chains if chain else dice)(3, size, seed=seed), rolls(3, 10, size, seed)
    known = bayes.retrieval(family, tokens)
    gaps = []
    for p0 in (1e-2, 1e-5, 1e-8, 0.0):
        new = bayes.extrapolation(family, tokens, minor_mass=p0)
        gaps.append(float((new.predictive - known.predictive).abs().max()))
    assert gaps[0] >= gaps[1] >= gaps[2] >= gaps[3]
    assert gaps[3] < 1e-12
    close(new.posterior[..., :3], known.posterior)


def test_many_minors_are_as_good_as_a_new_task():
    """The mixture of N drawn dice tends to the Dirichlet mixture, like 1 / N in KL."""
    gaps = []
    for minors in (16, 256, 4096):
        kls = []
        for seed in range(8):
            family = bayes.Dice(faces=3, minor=minors, minor_mass=0.5, seed=seed)
            rolled = family.sample(64, 12, split="ood", seed=seed)
            both = bayes.extrapolation(family, rolled), bayes.retrieval(family, rolled)
            kls.append(bayes.kl(both[0].predictive, both[1].predictive).mean())
        gaps.append(float(torch.stack(kls).mean()))
    assert gaps[1] < gaps[0] / 5
    assert gaps[2] < gaps[1] / 5
    assert gaps[2] < 1e-3


def test_long_sequences_do_not_underflow():
    family = bayes.Dice(minor=60, seed=3)
    rolled = family.sample(4, 2000, split="major", seed=4)
    for reference in (bayes.retrieval, bayes.extrapolation):
        found = reference(family, rolled)
        assert bool(found.log_evidence.isfinite().all())
        assert float(found.log_evidence[:, -1].max()) < -1000
        close(found.posterior.sum(-1), torch.ones(4, 2000).double())
        assert bool((found.posterior[:, -1].argmax(-1) == rolled.task).all())
    counts = torch.nn.functional.one_hot(rolled.tokens, 6).double().sum(1)
    log = counts @ family.probabilities.log().T + family.prior.log()
    close(bayes.retrieval(family, rolled).posterior[:, -1], log.softmax(-1), rtol=1e-9, atol=1e-12)


def test_planted_tasks_are_found_and_new_ones_noticed():
    family = bayes.Markov(minor=16, seed=5)
    for split, is_new in (("major", False), ("ood", True)):
        found = bayes.extrapolation(family, family.sample(50, 190, split=split))
        new = found.posterior[:, -1, -1]
        assert float(new.median()) > 0.999 if is_new else float(new.max()) < 0.01


def test_a_face_that_cannot_come_up_rules_its_die_out():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    found = bayes.retrieval(bayes.Dice.from_probabilities(p), torch.tensor([[0, 0, 2, 0]]))
    close(found.posterior[0, 2:, 0], torch.zeros(2).double())
    with pytest.raises(TvlensError, match=r"1 of 2 sequences .* the first from position 2"):
        tokens = torch.tensor([[0, 0, 1], [1, 0, 2]])
        bayes.retrieval(bayes.Dice.from_probabilities(p[:1]), tokens)
    saved = bayes.extrapolation(bayes.Dice.from_probabilities(p[:1]), tokens)
    close(saved.posterior[1, 2], torch.tensor([0.0, 1.0]).double())
    with pytest.raises(TvlensError, match="under every task of extrapolation"):
        bayes.extrapolation(bayes.Dice.from_probabilities(p[:1]), tokens, minor_mass=0.0)


def test_equal_prior_and_streams():
    family = bayes.Dice(minor=30, minor_mass=0.2, seed=1)
    rolled = family.sample(70, 11, seed=2)
    even = bayes.retrieval(family.with_prior(None), rolled)
    weights = bayes.retrieval(family, rolled).posterior / family.prior
    close(even.posterior, weights / weights.sum(-1, keepdim=True))
    whole = bayes.retrieval(family, rolled).group_rest()
    part = bayes.predict_in_batches(bayes.retrieval, family, rolled, batch_size=32)
    assert part.labels == ["task 0", "task 1", "task 2", "minor tasks"]
    for name in ("posterior", "predictive", "log_evidence"):
        close(getattr(part, name), getattr(whole, name))
    bound = partial(bayes.extrapolation, minor_mass=0.4)
    close(
        bayes.predict_in_batches(bound, family, rolled).posterior, bound(family, rolled).posterior
    )


def test_any_family_of_the_protocol_will_do():
    """A fair and a loaded coin, in the fewest words."""

    class Coin:
        prior, majors, minor_mass = torch.tensor([0.5, 0.5]).double(), 2, 0.1
        heads = torch.tensor([0.5, 0.9], dtype=torch.float64)

        def step_log_likelihoods(self, data):
            return torch.where(data[..., None] == 1, self.heads, 1 - self.heads).log()

        def mixture_predictive(self, posterior, data):
            heads = posterior @ self.heads
            return torch.stack([1 - heads, heads], dim=-1)

        def with_major_tasks(self):
            return self

        def sufficient_statistics(self, data):
            return torch.stack([1 - data, data], dim=-1).double().cumsum(1)

        def new_task_predictive(self, data):
            heads = (self.sufficient_statistics(data)[..., 1] + 1) / (
                torch.arange(data.shape[1]) + 3
            )
            before = torch.cat([torch.full((len(data), 1), 0.5), heads[:, :-1]], dim=1)
            told = torch.where(data == 1, before, 1 - before).log().cumsum(1)
            return told, torch.stack([1 - heads, heads], dim=-1)

    tokens = rolls(2, 6, 2)
    both = torch.tensor([[0.5, 0.5], [0.1, 0.9]], dtype=torch.float64)
    for reference in (bayes.retrieval, bayes.extrapolation):
        wanted = reference(bayes.Dice.from_probabilities(both), tokens)
        close(reference(Coin(), tokens).predictive, wanted.predictive)


@pytest.mark.parametrize(
    "tokens, words",
    [
        (torch.zeros(2, 3), "integers, not torch.float32"),
        (torch.zeros(2, 3, dtype=torch.bool), "integers, not torch.bool"),
        (torch.tensor([[0, 1], [2, 6]]), "token 6 at position 1"),
        (torch.tensor([[0, -1]]), "token -1 at position 1"),
        (torch.zeros(5, dtype=torch.long), "shape"),
        (torch.zeros(5, 0, dtype=torch.long), "shape"),
        (torch.zeros(0, 5, dtype=torch.long), "shape"),
    ],
)
@pytest.mark.parametrize("reference", ["retrieval", "extrapolation", "learner"])
def test_wrong_tokens_are_named(tokens, words, reference):
    with pytest.raises(TvlensError, match=words):
        getattr(bayes, reference)(bayes.Dice(), tokens)


@pytest.mark.parametrize("p0", [-0.1, 1.0, float("nan")])
def test_impossible_masses_are_errors(p0):
    with pytest.raises(TvlensError, match="minor_mass"):
        bayes.extrapolation(bayes.Dice(), rolls(1, 3, 6), minor_mass=p0)


def test_integers_of_any_width_are_tokens():
    tokens = rolls(2, 5, 6)
    wanted = bayes.retrieval(bayes.Dice(), tokens).posterior
    for dtype in (torch.uint8, torch.int32):
        close(bayes.retrieval(bayes.Dice(), tokens.to(dtype)).posterior, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["Dice", "Markov", "LinearRegression", "Dyck"])
def test_results_lie_where_the_data_lie(name):
    family = getattr(bayes, name)(minor=20)
    data = family.sample(5, 40)
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        there = reference(family, data.to("cuda"))
        assert there.posterior.is_cuda
        close(there.posterior.cpu(), reference(family, data).posterior, rtol=1e-8, atol=1e-9)
