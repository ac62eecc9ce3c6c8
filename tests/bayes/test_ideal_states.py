"""The states of ideal models against Bayes' rule and normal equations by hand."""

from functools import partial

import pytest
import torch

import tvlens as tv
from tvlens import TvlensError
from tvlens.bayes.ideal_states import KINDS, compute_posterior, reference_states

bayes = tv.bayes
double = partial(torch.tensor, dtype=torch.float64)
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-11)
DICE = bayes.Dice.from_probabilities([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], prior=[0.4, 0.6])
ROLLS = torch.tensor([[2, 0, 0, 1], [1, 2, 2, 2]])


def test_retrieval_of_dice_is_the_posterior_and_the_token():
    states = reference_states(DICE, ROLLS, kind="retrieval")
    assert states.shape == (2, 4, 5) and states.dtype == torch.float64
    first, second = 0.4 * 0.2 * 0.5, 0.6 * 0.8 * 0.1  # of the rolls 2, 0
    alpha = first / (first + second)
    close(states[0, 1], double([alpha, 1 - alpha, 1, 0, 0]))


def test_learner_of_dice_holds_smoothed_frequencies():
    states = reference_states(DICE, ROLLS, kind="learner")
    close(states[0, 2], double([3 / 6, 1 / 6, 2 / 6, 1, 0, 0]))


def test_learner_of_chains_holds_the_whole_table():
    chains = bayes.Markov(states=3, seed=0)
    states = reference_states(chains, ROLLS, kind="learner")
    table = states[1, -1, :9].view(3, 3)  # 1 2 2 2: 1 -> 2 once, 2 -> 2 twice
    close(
        table,
        double([[1, 1, 1], [1, 1, 2], [1, 1, 3]]) / torch.tensor([[3], [4], [5]]),
    )
    close(states[1, -1, 9:], double([0, 0, 1]))


def test_learner_of_brackets_counts_them():
    dyck = bayes.Dyck(symbols=2, pairs=3)
    states = reference_states(dyck, torch.tensor([[0, 2, 2, 1, 3]]), kind="learner")
    close(states[0, :, :2], double([[0, 0], [1, 0], [2, 0], [2, 0], [2, 1]]))


def test_learner_of_a_regression_solves_the_normal_equations_of_earlier_pairs():
    family = bayes.LinearRegression(dim=3, noise=0.7, scale=1.3, seed=0)
    data = family.sample(2, 6, split="ood", seed=1)
    states = reference_states(family, data, kind="learner")
    assert states.shape == (2, 6, 6)
    close(states[:, 0, :3], torch.zeros(2, 3).double())
    close(states[..., 3:], data.inputs)
    for t in range(1, 6):
        x, y = data.inputs[1, :t], data.targets[1, :t]
        ridge = 0.7**2 / 1.3**2 * torch.eye(3).double()
        close(states[1, t, :3], torch.linalg.solve(x.T @ x + ridge, x.T @ y))


def test_regression_states_have_read_the_pairs_before_their_input():
    """Entry t is the input x_t: the convention of `probes`, whose last target is not read."""
    family = bayes.LinearRegression(dim=3, seed=0)
    probed = bayes.probes(family, observations=4, per_cell=2, seed=1)
    posterior = compute_posterior(family, probed.data)
    close(posterior[:, -1], probed.posterior(family))
    close(posterior[:, 0], family.prior.expand(len(probed), -1))
    changed = probed.data.targets.clone()
    changed[:, -1] += 100
    unread = type(probed.data)(probed.data.inputs, changed, probed.task, probed.data.parameters)
    for kind in KINDS:
        close(*(reference_states(family, data, kind=kind) for data in (unread, probed.data)))
    reference = bayes.retrieval(family, probed.data)
    readout = reference_states(family, probed.data, kind="readout")
    assert readout.shape == (len(probed), 5, 1)
    close(readout[:, 1:, 0], reference.predictive.mean)


def test_readout_is_the_logarithm_of_the_predictive():
    for family in (DICE, bayes.Markov(states=3, seed=0)):
        readout = reference_states(family, ROLLS, kind="readout")
        close(readout, bayes.retrieval(family, ROLLS).predictive.log())
    dyck = bayes.Dyck(symbols=2, pairs=1)  # a bracket that cannot follow has no logarithm
    assert reference_states(dyck, torch.tensor([[0, 2]]), kind="readout").isfinite().all()


def test_label_is_the_true_task_at_every_position():
    data = DICE.sample(5, 4, seed=0)
    states = reference_states(DICE, data, kind="label")
    close(states[:, 2, :2], torch.nn.functional.one_hot(data.task, 2).double())


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (
            DICE.sample(3, 4, split="ood"),
            "label",
            "new tasks have no label among the 2",
        ),
        (ROLLS, "label", "a label is read from Sequences or Pairs, not from tokens"),
        (ROLLS, "lable", "unknown kind of reference states 'lable': did you mean 'label'"),
        (ROLLS + 1, "learner", "token 3 at position 0 is outside the vocabulary"),
    ],
)
def test_states_that_do_not_exist_are_one_line(data, kind, message):
    with pytest.raises(TvlensError, match=message):
        reference_states(DICE, data, kind=kind)
