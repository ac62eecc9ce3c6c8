"""Bayesian references: retrieval over known tasks, learning of a new task, and both combined.

All are exact and computed in float64 and log-space on the device of the data. Positions enter
through sums only, so precision does not degrade with length.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..integers import require_at_least
from .dice import Dice
from .markov import Markov
from .pool import require_mass
from .prediction import Prediction, Predictive, blend, concatenate_predictions
from .sequences import Data, data_shape


@runtime_checkable
class Family(Protocol):
    """Interface that references require of a task family."""

    prior: Float[Tensor, " k"]
    majors: int
    minor_mass: float

    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-likelihood of every observation given those before it, by task.

        The result is a new tensor, which callers may overwrite.
        """
        ...

    def mixture_predictive(self, posterior: Float[Tensor, "n length k"], data: Data) -> Predictive:
        """Compute the predictive of the next observation, averaged over tasks."""
        ...

    def new_task_predictive(self, data: Data) -> tuple[Float[Tensor, "n length"], Predictive]:
        """Compute log-evidence and predictive of a new task from the minors' distribution."""
        ...

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length ..."]:
        """Compute the sufficient statistics of `new_task_predictive`."""
        ...

    def with_major_tasks(self) -> "Family":
        """Return a family of the major tasks only."""
        ...


def retrieval(family: Family, data: Data) -> Prediction:
    """Bayesian mixture over the full pool of known tasks (M1), weighted by the posterior.

    The posterior over k tasks takes n * length * k doubles, with a peak of two to three times that:
    0.5 GB for 1,024 sequences of 129 tokens under 515 tasks, 4.3 GB under 4,099 tasks. Use
    `predict_in_batches` to bound memory and `family.with_prior(None)` for a uniform prior.

    Args:
        family: the tasks and their prior.
        data: `Sequences` or tokens [n length]; `Pairs` for a regression.

    Raises:
        TvlensError: the data are of another kind, or no task can produce a sequence.

    Example:
        >>> import torch
        >>> import tvlens as tv
        >>> dice = tv.bayes.Dice.from_probabilities([[0.5, 0.5], [0.25, 0.75]])
        >>> posterior = tv.bayes.retrieval(dice, torch.tensor([[1, 1, 0]])).posterior
        >>> [round(p, 3) for p in posterior[0, -1].tolist()]  # 8/17 and 9/17
        [0.471, 0.529]
    """
    return _require_possible(_mix_over_pool(family, data))


def extrapolation(family: Family, data: Data, *, minor_mass: float | None = None) -> Prediction:
    """Bayesian mixture over the K major tasks and one new task learned in context (M2).

    The majors share the mass 1 - p0 in proportion to the prior; the new task has mass p0. Its
    evidence is the product of the learner's predictives (Dirichlet or ridge). The posterior has
    K + 1 columns, the new task last.

    Args:
        family: the tasks; its minor tasks are ignored.
        data: as for `retrieval`.
        minor_mass: p0; `family.minor_mass` by default.

    Raises:
        TvlensError: the data are of another kind, or p0 is outside [0, 1).
    """
    p0 = family.minor_mass if minor_mass is None else minor_mass
    require_mass(p0)
    major, new = _mix_over_pool(family.with_major_tasks(), data), learner(family, data)
    masses = torch.tensor([1 - p0, p0], dtype=torch.float64, device=major.log_evidence.device)
    joint = torch.stack([major.log_evidence, new.log_evidence], dim=-1) + masses.log()
    log_evidence, shares = joint.logsumexp(-1), joint.softmax(-1)
    posterior = torch.cat([major.posterior * shares[..., :1], shares[..., 1:]], dim=-1)
    predictive = blend(major.predictive, new.predictive, shares[..., 1])
    return _require_possible(
        Prediction(posterior, predictive, log_evidence, family.majors, "new task", "extrapolation")
    )


def learner(family: Family, data: Data) -> Prediction:
    """Predictive of a new task learned in context: Dirichlet counts or ridge regression."""
    log_evidence, predictive = family.new_task_predictive(data)
    certain = torch.ones_like(log_evidence)[..., None]
    return Prediction(certain, predictive, log_evidence, 0, "new task", "learner")


def sufficient_statistics(family: Family, data: Data) -> Float[Tensor, "n length ..."]:
    """Sufficient statistics of the learner up to and including every position.

    Dice: faces [vocab]. Markov: transitions [from to]. Dyck: brackets opened and closed [2].
    Regression: X'X with X'y as an additional column [dim dim + 1].
    """
    return family.sufficient_statistics(data)


def predict_in_batches(
    reference: Callable[[Family, Data], Prediction],
    family: Family,
    data: Data,
    *,
    batch_size: int = 32,
) -> Prediction:
    """Apply a reference batch by batch, with the posterior columns beyond the majors merged.

    Memory is bounded by that of the reference for `batch_size` sequences. Bind options of the
    reference with `functools.partial`, such as `partial(extrapolation, minor_mass=0.3)`.
    """
    require_at_least(1, batch_size=batch_size)
    n, _ = data_shape(data)
    batches = [data[i : i + batch_size] for i in range(0, n, batch_size)]
    return concatenate_predictions([reference(family, batch).group_rest() for batch in batches])


def unigram_retrieval(family: Markov, data: Data) -> Prediction:
    """Mixture of the known chains' stationary distributions, weighted by their unigram likelihood.

    The prediction does not depend on the current state. Use
    `family.mixture_predictive(prediction.posterior, data)` for the weighted transitions.

    Source: Park et al. 2024 (arXiv 2412.01003), as for the other unigram and bigram references.
    """
    stationary = stationary_distribution(family.transitions)
    dice = Dice.from_probabilities(stationary, prior=family.prior, majors=family.majors)
    return replace(retrieval(dice, data), reference="unigram retrieval")


def bigram_retrieval(family: Markov, data: Data) -> Prediction:
    """Mixture of the known chains weighted by their bigram likelihood, which equals `retrieval`."""
    return replace(retrieval(family, data), reference="bigram retrieval")


def unigram_inference(family: Markov, data: Data) -> Prediction:
    """Smoothed frequencies of the tokens in the context, independent of the current state."""
    dice = Dice(tasks=1, faces=family.states, alpha=family.alpha)
    return replace(learner(dice, data), reference="unigram inference")


def bigram_inference(family: Markov, data: Data) -> Prediction:
    """Smoothed frequencies of the successors of the current state, which equals `learner`."""
    return replace(learner(family, data), reference="bigram inference")


def stationary_distribution(
    transitions: Float[Tensor, "*batch states states"],
) -> Float[Tensor, "*batch states"]:
    """Compute the stationary distribution of Markov chains.

    Raises:
        TvlensError: a chain is reducible and has several stationary distributions.
    """
    states = transitions.shape[-1]
    eye = torch.eye(states, dtype=transitions.dtype, device=transitions.device)
    # Solve pi T = pi with sum(pi) = 1 in place of the last, redundant equation.
    system = (transitions - eye).transpose(-1, -2).clone()
    system[..., -1, :] = 1
    solution, info = torch.linalg.solve_ex(system, eye[-1].expand(*system.shape[:-1])[..., None])
    solution = solution[..., 0]
    if bool((info != 0).any()) or not bool((solution > -1e-9).all()):
        raise TvlensError("a chain has more than one stationary distribution")
    solution = solution.clamp(min=0)
    distribution: Tensor = solution / solution.sum(-1, keepdim=True)
    return distribution


def _mix_over_pool(family: Family, data: Data) -> Prediction:
    """Compute the mixture over a family's pool; 0 where no task can produce a sequence."""
    joint = family.step_log_likelihoods(data).cumsum_(1)
    joint += family.prior.to(joint.device).log()
    shift = joint.amax(-1, keepdim=True)
    shift = torch.where(shift.isneginf(), 0.0, shift)
    # In place, because this is the largest tensor.
    posterior = joint.sub_(shift).exp_()
    total = posterior.sum(-1, keepdim=True)
    log_evidence = (shift + total.log())[..., 0]
    posterior /= total.clamp(min=1)  # total is at least 1 except for impossible sequences
    predictive = family.mixture_predictive(posterior, data)
    return Prediction(posterior, predictive, log_evidence, family.majors, "minor task", "retrieval")


def _require_possible(prediction: Prediction) -> Prediction:
    """Return the prediction, or raise TvlensError where no hypothesis can produce a sequence."""
    if bool(prediction.log_evidence.isnan().any()):
        raise TvlensError(f"a task of {prediction.reference} gives a probability of NaN")
    impossible = prediction.log_evidence.isneginf()
    if bool(impossible.any()):
        position = int(impossible.any(0).nonzero()[0])
        raise TvlensError(
            f"{int(impossible.any(1).sum())} of {len(impossible)} sequences are impossible under "
            f"every task of {prediction.reference}, the first from position {position} on"
        )
    return prediction
