"""Noise models: posteriors over the query's task given labelled demonstrations.

A noise model is a function from the likelihood of every demonstration under every task to the
probabilities of the query's task; bind its settings with `functools.partial`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError

# From likelihoods of demonstrations to probabilities of the query's task.
TaskPosterior = Callable[
    [Float[Tensor, "prompt shot task"]],
    Float[Tensor, "prompt task"],
]


def single_task_posterior(
    likelihood: Float[Tensor, "prompt shot task"], *, prior: Float[Tensor, " task"] | None = None
) -> Float[Tensor, "prompt task"]:
    """Posterior if one task generated the whole prompt: prior times the product of likelihoods.

    Args:
        likelihood: p(label | input, task) of every demonstration.
        prior: probability of each task; uniform by default.

    Raises:
        TvlensError: a likelihood is not a probability, or a prompt is impossible under every task,
            as mixed prompts are without noise.
    """
    likelihood = _validate(likelihood)
    scores = likelihood.log().sum(1)
    if prior is not None:
        scores = scores + prior.to(likelihood).log()
    impossible = scores.isneginf().all(-1)
    if impossible.any():
        raise TvlensError(
            f"prompt {int(impossible.nonzero()[0])} is impossible under every single task: "
            "use a noise rate above 0"
        )
    return scores.softmax(-1)


def proportions_posterior(
    likelihood: Float[Tensor, "prompt shot task"], *, concentration: float = 1.0
) -> Float[Tensor, "prompt task"]:
    """Posterior if the task of each demonstration is sampled from Dirichlet(a) proportions.

    The query's task is sampled from the same unknown proportions. Where every label identifies its
    task, the posterior is (n_k + a) / (n + K a); labels that fit several tasks are marginalized
    exactly, over all numbers of demonstrations per task.

    Args:
        likelihood: as in `single_task_posterior`; the order of demonstrations is irrelevant.
        concentration: a, above 0; 1 makes the prior over proportions uniform.

    Raises:
        TvlensError: a likelihood is not a probability, or a is not positive.
    """
    likelihood = _validate(likelihood)
    if not concentration > 0:
        raise TvlensError(f"concentration is {concentration}: it must be above 0")
    prompts, shots, tasks = likelihood.shape
    # Scaling each demonstration leaves the posterior unchanged and prevents underflow.
    scaled = likelihood / likelihood.amax(-1, keepdim=True)
    mass = {(0,) * tasks: likelihood.new_ones(prompts)}
    for scores in scaled.unbind(1):
        next_mass: dict[tuple[int, ...], Tensor] = {}
        for counts, weight in mass.items():
            for k in range(tasks):
                key = (*counts[:k], counts[k] + 1, *counts[k + 1 :])
                next_mass[key] = next_mass.get(key, 0) + weight * scores[:, k]
        mass = next_mass
    pseudo = torch.tensor(list(mass)).to(likelihood) + concentration
    # Dirichlet-multinomial log-probability of one task sequence with these counts.
    prior = torch.lgamma(pseudo).sum(-1)
    joint = torch.stack(list(mass.values()), -1) * (prior - prior.max()).exp()
    joint = joint / joint.sum(-1, keepdim=True)
    return joint @ (pseudo / (shots + tasks * concentration))


def switching_posterior(
    likelihood: Float[Tensor, "prompt shot task"], *, rate: float = 0.2
) -> Float[Tensor, "prompt task"]:
    """Posterior if the task persists and is resampled with probability `rate` before each step.

    Before every demonstration and before the query, the task is resampled uniformly with
    probability `rate`, so that late demonstrations have more weight than early ones. The limit
    of rate 0 is `single_task_posterior`.

    Args:
        likelihood: as in `single_task_posterior`; the order of demonstrations matters.
        rate: above 0 and at most 1.

    Raises:
        TvlensError: a likelihood is not a probability, or rate is outside (0, 1].

    Source: the forward recursion of hidden Markov models (Rabiner 1989).
    """
    likelihood = _validate(likelihood)
    if not 0 < rate <= 1:
        raise TvlensError(f"rate is {rate}: it must be above 0 and at most 1")
    prompts, _, tasks = likelihood.shape
    belief = likelihood.new_full((prompts, tasks), 1 / tasks)
    for scores in likelihood.unbind(1):
        belief = (1 - rate) * belief + rate / tasks
        belief = belief * scores
        belief = belief / belief.sum(-1, keepdim=True)
    return (1 - rate) * belief + rate / tasks


# Default noise models of `retrieval_check`; the first is the primary one.
NOISE_MODELS: dict[str, TaskPosterior] = {
    "proportions": proportions_posterior,
    "one task": single_task_posterior,
    "switching": switching_posterior,
}


def _validate(likelihood: Float[Tensor, "prompt shot task"]) -> Float[Tensor, "prompt shot task"]:
    """Convert to float64; raise TvlensError where no task can produce a demonstration."""
    likelihood = likelihood.double()
    in_range = bool(((likelihood >= 0) & (likelihood <= 1)).all())
    if not in_range or not bool((likelihood > 0).any(-1).all()):
        raise TvlensError(
            "likelihoods must lie between 0 and 1, and be above 0 for some task of every "
            "demonstration"
        )
    return likelihood
