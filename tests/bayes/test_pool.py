import numpy as np
import pytest
import scipy.stats
import torch

import tvlens as tv
from tvlens import TvlensError

bayes = tv.bayes
FAMILIES = ["Dice", "Markov", "LinearRegression", "Dyck"]


def make_family(name, **options):
    return getattr(bayes, name)(**options)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_a_prior_over_majors_and_minors(name):
    family = make_family(name, tasks=4, minor=16, minor_mass=0.2, seed=7)
    assert family.majors == 4 and family.minors == 16 and family.minor_mass == 0.2
    assert len(family.probabilities) == 20 and family.probabilities.dtype == torch.float64
    torch.testing.assert_close(family.prior[:4], torch.full((4,), 0.2).double())
    torch.testing.assert_close(family.prior[4:], torch.full((16,), 0.2 / 16).double())
    for minor in (0, "none"):
        alone = make_family(name, tasks=4, minor=minor, minor_mass=0.2, seed=7)
        assert alone.prior.tolist() == [0.25] * 4
        assert torch.equal(alone.probabilities, family.probabilities[:4])
    assert not torch.equal(
        make_family(name, seed=8).probabilities, make_family(name, seed=7).probabilities
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("split", ["train", "major", "minor", "ood"])
def test_sample_draws_tasks_of_its_split_reproducibly(name, split):
    family = make_family(name, minor=8, minor_mass=0.5)
    one, repeated, other = (family.sample(200, 12, split=split, seed=s) for s in (1, 1, 2))
    values = "targets" if name == "LinearRegression" else "tokens"
    assert torch.equal(getattr(one, values), getattr(repeated, values))
    assert not torch.equal(getattr(one, values), getattr(other, values))
    assert getattr(one, values).shape == (200, 12) and one.task.shape == (200,)
    expected = {"train": range(11), "major": range(3), "minor": range(3, 11), "ood": [-1]}[split]
    assert set(one.task.tolist()) == set(expected)
    if split != "ood":
        assert torch.equal(one.parameters, family.probabilities[one.task])
    part = one[5:9]
    assert len(part) == 4 and torch.equal(part.task, one.task[5:9])
    assert len(one.to_dataframe()) == 200 * 12


def test_ood_tasks_differ_from_pool_tasks_of_the_same_seed():
    """Equal seeds of the pool and of a sample must not give equal tasks."""
    for seed in range(3):
        family = bayes.Dice(minor=50, seed=seed)
        fresh = family.sample(50, 5, split="ood", seed=seed).parameters
        assert float(torch.cdist(fresh, family.probabilities).min()) > 1e-6
        assert (
            float(torch.cdist(family.with_new_tasks(50, seed=seed).probabilities, fresh).min())
            > 1e-6
        )


def test_sample_draws_tasks_by_the_prior():
    family = bayes.Dice(tasks=2, minor=3, minor_mass=0.4)
    counts = family.sample(4000, 1).task.bincount(minlength=5)
    assert scipy.stats.chisquare(counts, family.prior * 4000).pvalue > 1e-3


def test_dice_samples_follow_their_probabilities():
    family = bayes.Dice.from_probabilities([[0.1, 0.2, 0.0, 0.7], [0.0, 0.5, 0.5, 0.0]])
    rolled = family.sample_tasks(torch.tensor([0, 1]), 20_000)
    for die in (0, 1):
        p = family.probabilities[die]
        counts = rolled.tokens[die].bincount(minlength=4)
        assert not bool(counts[p == 0].any())
        assert scipy.stats.chisquare(counts[p > 0], p[p > 0] * 20_000).pvalue > 1e-3


def test_markov_samples_follow_their_transitions():
    family = bayes.Markov(tasks=1, states=3, seed=2)
    tokens = family.sample_tasks(torch.zeros(3000, dtype=torch.long), 6).tokens
    assert scipy.stats.chisquare(tokens[:, 0].bincount(minlength=3)).pvalue > 1e-3
    pairs = (tokens[:, :-1] * 3 + tokens[:, 1:]).flatten().bincount(minlength=9).view(3, 3)
    expected = pairs.sum(-1, keepdim=True) * family.transitions[0]
    for state in range(3):
        assert scipy.stats.chisquare(pairs[state], expected[state]).pvalue > 1e-3


def test_with_new_tasks_has_the_moments_of_the_task_distribution():
    dice = bayes.Dice(faces=4, alpha=2.0).with_new_tasks(5000).probabilities
    wanted = scipy.stats.dirichlet(np.full(4, 2.0))
    np.testing.assert_allclose(dice.mean(0), wanted.mean(), atol=0.01)
    np.testing.assert_allclose(dice.var(0), wanted.var(), rtol=0.1)
    weights = bayes.LinearRegression(dim=3, scale=2.0).with_new_tasks(5000).weights
    assert scipy.stats.kstest(weights.flatten(), "norm", args=(0, 2)).pvalue > 1e-3


def test_from_probabilities_and_from_weights_keep_their_tasks():
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    family = bayes.Dice.from_probabilities(p, prior=[0.5, 0.25, 0.25], majors=2)
    assert torch.equal(family.probabilities, p) and family.prior.tolist() == [0.5, 0.25, 0.25]
    assert family.majors == 2 and family.minor_mass == 0.25
    major_tasks = family.with_major_tasks()
    assert major_tasks.minors == 0 and major_tasks.prior.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert len(family.prior) == 3  # the family itself is as it was
    weights = bayes.LinearRegression.from_weights(np.eye(3), noise=0.1)
    assert weights.noise == 0.1 and torch.equal(weights.weights, torch.eye(3).double())
    assert "2 major and 1 minor tasks, 2 faces" in repr(family)


def test_ood_entropy_of_uniform_dice_is_a_harmonic_number_minus_one():
    for faces, wanted in ((6, 1.450), (8, 1.718)):
        harmonic = sum(1 / v for v in range(1, faces + 1))
        family = bayes.Dice(faces=faces)
        assert family.ood_entropy == pytest.approx(harmonic - 1, abs=1e-12)
        assert family.ood_entropy == pytest.approx(wanted, abs=1e-3)
    spread = bayes.Dice(faces=5, alpha=0.4)
    mean = bayes.entropy(spread.with_new_tasks(20_000).probabilities).mean()
    assert spread.ood_entropy == pytest.approx(float(mean), abs=0.01)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    "options, words",
    [
        ({"tasks": 0}, "tasks is a whole number of at least 1, not 0"),
        ({"minor": -1}, "minor is a whole number of at least 0"),
        ({"minor_mass": 1.0}, "minor_mass is at least 0 and below 1"),
        ({"minor_mass": -0.1}, "minor_mass"),
        ({"seed": -1}, "seed"),
    ],
)
def test_families_refuse_bad_options(name, options, words):
    with pytest.raises(TvlensError, match=words):
        make_family(name, **options)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: bayes.Dice(faces=1), "faces"),
        (lambda: bayes.Dice(alpha=0.0), "alpha is a number above 0"),
        (lambda: bayes.Markov(alpha=-1.0), "alpha"),
        (lambda: bayes.Markov(states=1), "states"),
        (lambda: bayes.LinearRegression(noise=0.0), "noise"),
        (lambda: bayes.LinearRegression(scale=float("nan")), "scale"),
        (lambda: bayes.Dyck(rate=1.0), "rate"),
        (lambda: bayes.Dyck(pairs=0), "pairs"),
        (lambda: bayes.Dice.from_probabilities([[0.5, 0.5], [0.5, 0.6]]), "row 1 .* sums to 1.1"),
        (lambda: bayes.Dice.from_probabilities([[1.5, -0.5]]), "smallest entry -0.5"),
        (lambda: bayes.Dice.from_probabilities([[float("nan"), 1.0]]), "not a distribution"),
        (lambda: bayes.Markov.from_transitions([[[0.5, 0.5], [0.1, 0.1]]]), "row 0 1 is no"),
        (lambda: bayes.Markov.from_transitions([[0.5, 0.5], [0.5, 0.5]]), "shape"),
        (lambda: bayes.Markov.from_transitions(torch.ones(2, 3, 4) / 4), "shape"),
        (lambda: bayes.Dice.from_probabilities([[0.5, 0.5]], prior=[0.5, 0.5]), "prior of shape"),
        (lambda: bayes.Dice().with_prior([0.5, 0.4, 0.2]), "prior is not a distribution"),
        (lambda: bayes.Dice().with_prior([1.5, -0.5, 0.0]), "prior is not a distribution"),
        (lambda: bayes.Dice(tasks=1, minor=1).with_prior([0.0, 1.0]), "no mass"),
        (
            lambda: bayes.Dice.from_probabilities([[0.5, 0.5]], majors=2),
            "majors is 2, but there are 1 tasks",
        ),
        (lambda: bayes.LinearRegression.from_weights([[float("inf")]]), "infinity"),
        (lambda: bayes.Dice().sample(3, 0), "length"),
        (lambda: bayes.Dice().sample(0, 3), "n is a whole number"),
        (lambda: bayes.Dice().sample(3, 3, split="minor"), "no minor tasks"),
        (lambda: bayes.Dice().sample_tasks(torch.tensor([3]), 2), "0..2"),
        (lambda: bayes.Dice().with_new_tasks(0), "tasks"),
    ],
)
def test_bad_input_raises_one_line_errors(build, words):
    with pytest.raises(TvlensError, match=words):
        build()
