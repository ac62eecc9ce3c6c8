"""Which task comes next, after labelled demonstrations: posteriors under stated noise models.

Each noise model is a plain function from the likelihood of every demonstration under every task to
the probability that the query is of each task; settings are bound with `functools.partial`.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError

# From the likelihoods of the demonstrations to the probabilities of the query's task.
TaskPosterior = Callable[
    [Float[Tensor, "prompt shot task"]],
    Float[Tensor, "prompt task"],
]


def one_task(
    likelihood: Float[Tensor, "prompt shot task"], *, prior: Float[Tensor, " task"] | None = None
) -> Float[Tensor, "prompt task"]:
    """One task for the whole prompt: alpha_k is proportional to prior_k times all likelihoods.

    Args:
        likelihood: p(label | input, task) of every demonstration, in their order.
        prior: probability of each task; equal by default.

    Raises:
        TvlensError: likelihoods that are no probabilities, or a prompt that is impossible under
            every task, as a mixed one is without noise.
    """
    likelihood = _checked(likelihood)
    scores = likelihood.log().sum(1)
    if prior is not None:
        scores = scores + prior.to(likelihood).log()
    impossible = scores.isneginf().all(-1)
    if impossible.any():
        raise TvlensError(
            f"prompt {int(impossible.nonzero()[0])} is impossible under every single task: "
            "give the labels some noise"
        )
    return scores.softmax(-1)


def proportions(
    likelihood: Float[Tensor, "prompt shot task"], *, concentration: float = 1.0
) -> Float[Tensor, "prompt task"]:
    """A task for every demonstration, drawn from proportions that are unknown: Dirichlet(a).

    The query's task is drawn from the same proportions. Where every label tells its task this is
    (n_k + a) / (n + K a); labels that fit several tasks are summed out exactly, over all numbers
    of demonstrations that each task can have.

    Args:
        likelihood: as in `one_task`; the order of demonstrations does not count.
        concentration: a, above 0; 1 makes all proportions equally likely.

    Raises:
        TvlensError: likelihoods that are no probabilities, or a of 0 or less.
    """
    likelihood = _checked(likelihood)
    if not concentration > 0:
        raise TvlensError(f"concentration is {concentration}: it must be above 0")
    prompts, shots, tasks = likelihood.shape
    # A factor per demonstration changes no posterior, and keeps long products from underflow.
    scaled = likelihood / likelihood.amax(-1, keepdim=True)
    mass = {(0,) * tasks: likelihood.new_ones(prompts)}
    for shown in scaled.unbind(1):
        grown: dict[tuple[int, ...], Tensor] = {}
        for counts, weight in mass.items():
            for k in range(tasks):
                after = (*counts[:k], counts[k] + 1, *counts[k + 1 :])
                grown[after] = grown.get(after, 0) + weight * shown[:, k]
        mass = grown
    pseudo = torch.tensor(list(mass)).to(likelihood) + concentration
    # Of one sequence of tasks with these numbers, up to a constant (Dirichlet-multinomial).
    prior = torch.lgamma(pseudo).sum(-1)
    joint = torch.stack(list(mass.values()), -1) * (prior - prior.max()).exp()
    joint = joint / joint.sum(-1, keepdim=True)
    return joint @ (pseudo / (shots + tasks * concentration))


def switching(
    likelihood: Float[Tensor, "prompt shot task"], *, rate: float = 0.2
) -> Float[Tensor, "prompt task"]:
    """A task that lasts from one demonstration to the next, and now and then is drawn anew.

    Before every demonstration and before the query the task is, with probability `rate`, drawn
    afresh from all tasks alike; so late demonstrations count more than early ones. Rate 0 is
    `one_task`.

    Args:
        likelihood: as in `one_task`; the order of demonstrations counts.
        rate: above 0 and at most 1.

    Raises:
        TvlensError: likelihoods that are no probabilities, or a rate outside (0, 1].

    Source: the forward recursion of hidden Markov models (Rabiner 1989).
    """
    likelihood = _checked(likelihood)
    if not 0 < rate <= 1:
        raise TvlensError(f"rate is {rate}: it must be above 0 and at most 1")
    prompts, _, tasks = likelihood.shape
    belief = likelihood.new_full((prompts, tasks), 1 / tasks)
    for shown in likelihood.unbind(1):
        belief = (1 - rate) * belief + rate / tasks
        belief = belief * shown
        belief = belief / belief.sum(-1, keepdim=True)
    return (1 - rate) * belief + rate / tasks


# What `retrieval_check` holds a model against unless told otherwise, the first one foremost.
NOISE_MODELS: dict[str, TaskPosterior] = {
    "proportions": proportions,
    "one task": one_task,
    "switching": switching,
}


def _checked(likelihood: Float[Tensor, "prompt shot task"]) -> Float[Tensor, "prompt shot task"]:
    """In float64; a demonstration that no task can give is an error."""
    exact = likelihood.double()
    inside = bool(((exact >= 0) & (exact <= 1)).all())
    if not inside or not bool((exact > 0).any(-1).all()):
        raise TvlensError(
            "likelihoods must lie between 0 and 1, and be above 0 for some task of every "
            "demonstration"
        )
    return exact
