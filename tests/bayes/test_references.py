"""Compare references of dice and chains with enumeration in exact fractions."""

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


def as_fractions(parameters):
    """Convert nested floats to exact fractions."""
    if isinstance(parameters, list):
        return [as_fractions(p) for p in parameters]
    return Fraction(parameters)


def likelihood(task, tokens):
    """Likelihood of tokens under one die or chain; the first state of a chain is uniform."""
    product = Fraction(1)
    for t, token in enumerate(tokens):
        if not isinstance(task[0], list):
            product *= task[token]
        else:
            product *= task[tokens[t - 1]][token] if t else Fraction(1, len(task))
    return product


def next_probabilities(task, tokens):
    return task[tokens[-1]] if isinstance(task[0], list) else task


def learner_next_probabilities(chain, size, tokens):
    """Predictive of a learner with a uniform Dirichlet prior."""
    counted = [b for a, b in pairwise(tokens) if a == tokens[-1]] if chain else tokens
    return [Fraction(counted.count(v) + 1, len(counted) + size) for v in range(size)]


def learner_likelihood(chain, size, tokens):
    product = Fraction(1, size)
    for t in range(1, len(tokens)):
        product *= learner_next_probabilities(chain, size, tokens[:t])[tokens[t]]
    return product


def combine(weights, nexts):
    """Compute posterior, predictive and log-evidence from joint probabilities."""
    total = sum(weights)
    posterior = [w / total for w in weights]
    columns = zip(*nexts, strict=True)
    predictive = [sum(a * p for a, p in zip(posterior, c, strict=True)) for c in columns]
    return list(map(float, posterior)), list(map(float, predictive)), float(np.log(float(total)))


def enumerate_reference(family, tokens, p0=None):
    """Enumerate the posterior, predictive and evidence of retrieval, or extrapolation with p0."""
    tasks, prior = as_fractions(family.probabilities.tolist()), as_fractions(family.prior.tolist())
    chain = isinstance(tasks[0][0], list)
    size = len(tasks[0])
    if p0 is not None:
        tasks, prior = tasks[: family.majors], prior[: family.majors]
        prior = [(1 - Fraction(p0)) * a / sum(prior) for a in prior]
    rows = []
    for row in tokens.tolist():
        for t in range(1, len(row) + 1):
            prefix = row[:t]
            weights = [a * likelihood(z, prefix) for a, z in zip(prior, tasks, strict=True)]
            nexts = [next_probabilities(z, prefix) for z in tasks]
            if p0 is not None:
                weights.append(Fraction(p0) * learner_likelihood(chain, size, prefix))
                nexts.append(learner_next_probabilities(chain, size, prefix))
            rows.append(combine(weights, nexts))
    parts = [torch.tensor(part, dtype=torch.float64) for part in zip(*rows, strict=True)]
    return [part.unflatten(0, tokens.shape) for part in parts]


def assert_prediction_equals(prediction, expected_parts):
    for actual, expected in zip(
        (prediction.posterior, prediction.predictive, prediction.log_evidence),
        expected_parts,
        strict=True,
    ):
        close(actual, expected)


@pytest.mark.parametrize("make, size", [(dice, 5), (chains, 4)])
def test_retrieval_equals_enumeration(make, size):
    family, tokens = make(), rolls(4, 9, size)
    assert_prediction_equals(bayes.retrieval(family, tokens), enumerate_reference(family, tokens))


@pytest.mark.parametrize("p0", [0.1, 0.75])
@pytest.mark.parametrize("make, size", [(dice, 5), (chains, 4)])
def test_extrapolation_equals_enumeration(make, size, p0):
    family, tokens = make(majors=2), rolls(4, 9, size)
    prediction = bayes.extrapolation(family, tokens, minor_mass=p0)
    assert prediction.posterior.shape[-1] == 3
    assert_prediction_equals(prediction, enumerate_reference(family, tokens, p0))


def test_extrapolation_defaults_to_the_minor_mass_of_the_family():
    family = dice(majors=3)
    tokens = rolls(3, 7, 5)
    minor_mass = float(family.prior[3])
    assert family.minor_mass == pytest.approx(minor_mass)
    close(
        bayes.extrapolation(family, tokens).posterior,
        bayes.extrapolation(family, tokens, minor_mass=minor_mass).posterior,
    )
    family_with_mass = bayes.Dice(minor=4, minor_mass=0.3)
    posterior = bayes.extrapolation(family_with_mass, tokens).posterior
    close(posterior, bayes.extrapolation(family_with_mass, tokens, minor_mass=0.3).posterior)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_learner_evidence_of_dice_equals_its_closed_form(alpha):
    tokens = rolls(3, 40, 4)
    log_evidence = bayes.learner(bayes.Dice(faces=4, alpha=alpha), tokens).log_evidence[:, -1]
    counts = torch.nn.functional.one_hot(tokens, 4).sum(1).double().numpy()
    wanted = gammaln(4 * alpha) - gammaln(40 + 4 * alpha)
    wanted = wanted + (gammaln(counts + alpha) - gammaln(alpha)).sum(-1)
    close(log_evidence, torch.from_numpy(wanted))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_learner_evidence_of_chains_equals_that_of_their_rows(alpha):
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
def test_evidence_equals_the_product_of_predictives(make, size):
    tokens = rolls(5, 30, size)
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        prediction = reference(make(), tokens)
        log_predictive = prediction.predictive[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].log()
        close(prediction.log_evidence.diff(dim=1), log_predictive)


sizes = st.tuples(st.integers(1, 6), st.integers(2, 6), st.integers(1, 4), st.integers(1, 12))


@given(sizes, st.booleans(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_posteriors_are_distributions_and_permute_with_the_tasks(shape, chain, seed):
    k, size, n, length = shape
    family = (chains if chain else dice)(k, size, seed=seed)
    tokens = rolls(n, length, size, seed)
    prediction = bayes.retrieval(family, tokens)
    for distribution in (
        prediction.posterior,
        prediction.predictive,
        bayes.extrapolation(family, tokens).posterior,
    ):
        assert bool((distribution >= 0).all())
        close(distribution.sum(-1), torch.ones(n, length).double())
    order = torch.from_numpy(np.random.default_rng(seed).permutation(k))
    permuted_family = family.with_tasks(family.probabilities[order], prior=family.prior[order])
    permuted = bayes.retrieval(permuted_family, tokens)
    close(permuted.posterior, prediction.posterior[..., order])
    close(permuted.predictive, prediction.predictive)
    if k == 1:
        assert bool((prediction.posterior == 1).all())


@given(st.booleans(), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_extrapolation_tends_to_retrieval_as_minor_mass_vanishes(chain, seed):
    size = 5
    family, tokens = (chains if chain else dice)(3, size, seed=seed), rolls(3, 10, size, seed)
    retrieval = bayes.retrieval(family, tokens)
    gaps = []
    for p0 in (1e-2, 1e-5, 1e-8, 0.0):
        extrapolation = bayes.extrapolation(family, tokens, minor_mass=p0)
        gaps.append(float((extrapolation.predictive - retrieval.predictive).abs().max()))
    assert gaps[0] >= gaps[1] >= gaps[2] >= gaps[3]
    assert gaps[3] < 1e-12
    close(extrapolation.posterior[..., :3], retrieval.posterior)


def test_retrieval_tends_to_extrapolation_with_many_minors():
    """A mixture of N sampled dice tends to the Dirichlet mixture; the KL is of order 1 / N."""
    gaps = []
    for minors in (16, 256, 4096):
        kls = []
        for seed in range(8):
            family = bayes.Dice(faces=3, minor=minors, minor_mass=0.5, seed=seed)
            data = family.sample(64, 12, split="ood", seed=seed)
            both = bayes.extrapolation(family, data), bayes.retrieval(family, data)
            kls.append(bayes.kl(both[0].predictive, both[1].predictive).mean())
        gaps.append(float(torch.stack(kls).mean()))
    assert gaps[1] < gaps[0] / 5
    assert gaps[2] < gaps[1] / 5
    assert gaps[2] < 1e-3


def test_long_sequences_do_not_underflow():
    family = bayes.Dice(minor=60, seed=3)
    data = family.sample(4, 2000, split="major", seed=4)
    for reference in (bayes.retrieval, bayes.extrapolation):
        prediction = reference(family, data)
        assert bool(prediction.log_evidence.isfinite().all())
        assert float(prediction.log_evidence[:, -1].max()) < -1000
        close(prediction.posterior.sum(-1), torch.ones(4, 2000).double())
        assert bool((prediction.posterior[:, -1].argmax(-1) == data.task).all())
    counts = torch.nn.functional.one_hot(data.tokens, 6).double().sum(1)
    log = counts @ family.probabilities.log().T + family.prior.log()
    close(bayes.retrieval(family, data).posterior[:, -1], log.softmax(-1), rtol=1e-9, atol=1e-12)


def test_extrapolation_separates_major_from_new_tasks():
    family = bayes.Markov(minor=16, seed=5)
    for split, is_new in (("major", False), ("ood", True)):
        prediction = bayes.extrapolation(family, family.sample(50, 190, split=split))
        new_weight = prediction.posterior[:, -1, -1]
        assert float(new_weight.median()) > 0.999 if is_new else float(new_weight.max()) < 0.01


def test_impossible_faces_exclude_their_dice():
    p = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    prediction = bayes.retrieval(bayes.Dice.from_probabilities(p), torch.tensor([[0, 0, 2, 0]]))
    close(prediction.posterior[0, 2:, 0], torch.zeros(2).double())
    with pytest.raises(TvlensError, match=r"1 of 2 sequences .* the first from position 2"):
        tokens = torch.tensor([[0, 0, 1], [1, 0, 2]])
        bayes.retrieval(bayes.Dice.from_probabilities(p[:1]), tokens)
    extrapolation = bayes.extrapolation(bayes.Dice.from_probabilities(p[:1]), tokens)
    close(extrapolation.posterior[1, 2], torch.tensor([0.0, 1.0]).double())
    with pytest.raises(TvlensError, match="under every task of extrapolation"):
        bayes.extrapolation(bayes.Dice.from_probabilities(p[:1]), tokens, minor_mass=0.0)


def test_equal_prior_reweights_the_posterior_also_in_batches():
    family = bayes.Dice(minor=30, minor_mass=0.2, seed=1)
    data = family.sample(70, 11, seed=2)
    even = bayes.retrieval(family.with_prior(None), data)
    weights = bayes.retrieval(family, data).posterior / family.prior
    close(even.posterior, weights / weights.sum(-1, keepdim=True))
    whole = bayes.retrieval(family, data).group_rest()
    batched = bayes.predict_in_batches(bayes.retrieval, family, data, batch_size=32)
    assert batched.labels == ["task 0", "task 1", "task 2", "minor tasks"]
    for name in ("posterior", "predictive", "log_evidence"):
        close(getattr(batched, name), getattr(whole, name))
    extrapolation = partial(bayes.extrapolation, minor_mass=0.4)
    close(
        bayes.predict_in_batches(extrapolation, family, data).posterior,
        extrapolation(family, data).posterior,
    )


def test_references_accept_any_class_with_the_family_methods():
    """The family is a fair and a loaded coin, with the required methods only."""

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
            log_evidence = torch.where(data == 1, before, 1 - before).log().cumsum(1)
            return log_evidence, torch.stack([1 - heads, heads], dim=-1)

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
def test_references_refuse_invalid_tokens(tokens, words, reference):
    with pytest.raises(TvlensError, match=words):
        getattr(bayes, reference)(bayes.Dice(), tokens)


@pytest.mark.parametrize("p0", [-0.1, 1.0, float("nan")])
def test_extrapolation_refuses_invalid_minor_mass(p0):
    with pytest.raises(TvlensError, match="minor_mass"):
        bayes.extrapolation(bayes.Dice(), rolls(1, 3, 6), minor_mass=p0)


def test_references_accept_tokens_of_any_integer_dtype():
    tokens = rolls(2, 5, 6)
    wanted = bayes.retrieval(bayes.Dice(), tokens).posterior
    for dtype in (torch.uint8, torch.int32):
        close(bayes.retrieval(bayes.Dice(), tokens.to(dtype)).posterior, wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["Dice", "Markov", "LinearRegression", "Dyck"])
def test_predictions_are_on_the_device_of_the_data(name):
    family = getattr(bayes, name)(minor=20)
    data = family.sample(5, 40)
    for reference in (bayes.retrieval, bayes.extrapolation, bayes.learner):
        on_gpu = reference(family, data.to("cuda"))
        assert on_gpu.posterior.is_cuda
        close(on_gpu.posterior.cpu(), reference(family, data).posterior, rtol=1e-8, atol=1e-9)
