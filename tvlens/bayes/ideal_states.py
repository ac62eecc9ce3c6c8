"""`reference_states`: the states of ideal models, against which measures of states are compared.

Entry t is the state from which observation t + 1 is predicted: after token t, or after the input
x_t of a regression and the t complete pairs before it.
"""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import TvlensError, unknown
from .distributions import dirichlet_predictive
from .references import learner, retrieval
from .regression import LinearRegression
from .sequences import Data, Pairs, Sequences, as_pairs, as_tokens, data_shape

ReferenceKind = Literal["retrieval", "learner", "label", "readout"]
KINDS = get_args(ReferenceKind)

# Probability below which the readout's logarithm is cut off: logits are finite.
_SMALLEST_PROBABILITY = 1e-6


def reference_states(
    family: Any, data: Data, *, kind: ReferenceKind
) -> Float[Tensor, "n position d"]:
    """Compute the states of an ideal model, in float64, at every position of prediction.

    - "retrieval": the posterior over all known tasks, a convex combination of task directions.
    - "learner": the estimate of a new task: smoothed frequencies of the faces of a die, the whole
      smoothed transition table of a chain, the ridge estimate of a regression, the numbers of
      opened and closed brackets.
    - "label": the true task as a one-hot vector, which no prefix of a sequence determines.
    - "readout": the logarithm of retrieval's predictive and nothing else; of a regression, the
      predicted mean. The state of a last layer cannot hold less.

    The first three also hold what is read at the position: the token as a one-hot vector, or x_t.

    Args:
        family: the tasks and their prior.
        data: `Sequences` or tokens [n length]; `Pairs` for a regression, whose last target is not
            read.
        kind: the ideal model.

    Raises:
        TvlensError: the kind is unknown, the data are of another kind, no task can produce a
            sequence ("retrieval", "readout"), or a sequence has no known task ("label").

    Example:
        >>> import torch
        >>> import tvlens as tv
        >>> dice = tv.bayes.Dice.from_probabilities([[0.5, 0.5], [0.25, 0.75]])
        >>> rolls = torch.tensor([[1, 1, 0]])
        >>> tv.bayes.reference_states(dice, rolls, kind="retrieval")[0, -1]  # 8/17, 9/17; face 0
        tensor([0.4706, 0.5294, 1.0000, 0.0000], dtype=torch.float64)
        >>> tv.bayes.reference_states(dice, rolls, kind="learner")[0, -1]  # 2/5, 3/5; face 0
        tensor([0.4000, 0.6000, 1.0000, 0.0000], dtype=torch.float64)
    """
    if kind not in KINDS:
        raise unknown("kind of reference states", kind, KINDS)
    if kind == "readout":
        return _compute_readout(family, data)
    task_part = {
        "retrieval": compute_posterior,
        "learner": compute_estimate,
        "label": _one_hot_task,
    }
    return torch.cat([task_part[kind](family, data), last_observation(family, data)], -1)


def last_observation(family: Any, data: Data) -> Float[Tensor, "n position f"]:
    """Return what is read at each position: the token as a one-hot vector, or x_t."""
    if isinstance(family, LinearRegression):
        return as_pairs(data, family.dim)[0]
    return one_hot(as_tokens(data, family.vocabulary), family.vocabulary).double()


def compute_posterior(family: Any, data: Data) -> Float[Tensor, "n position k"]:
    """Compute the posterior over all tasks of a family from what is read at each position."""
    posterior = retrieval(family, data).posterior
    if not isinstance(data, Pairs):
        return posterior
    prior = family.prior.to(posterior).expand(len(posterior), 1, -1)
    return torch.cat([prior, posterior[:, :-1]], 1)


def compute_estimate(family: Any, data: Data) -> Float[Tensor, "n position f"]:
    """Compute the learner's estimate of a new task."""
    if isinstance(family, LinearRegression):
        # Before the first pair the ridge estimate is 0.
        return torch.nn.functional.pad(learner(family, data).predictive.weights, (0, 0, 1, -1))
    statistics: Tensor = family.sufficient_statistics(data)
    if hasattr(family, "alpha"):
        statistics = dirichlet_predictive(statistics, family.alpha)
    return statistics.flatten(2)


def _one_hot_task(family: Any, data: Data) -> Float[Tensor, "n position k"]:
    """Return the true task of each sequence as a one-hot vector at every position."""
    if not isinstance(data, Sequences | Pairs):
        raise TvlensError("a label is read from Sequences or Pairs, not from tokens")
    if bool(((data.task < 0) | (data.task >= len(family.prior))).any()):
        raise TvlensError(f"new tasks have no label among the {len(family.prior)} known tasks")
    labels = one_hot(data.task, len(family.prior)).double()
    return labels[:, None].expand(-1, data_shape(data)[1], -1)


def _compute_readout(family: Any, data: Data) -> Float[Tensor, "n position f"]:
    """Compute the logits of retrieval; of a regression, the predicted mean."""
    if isinstance(family, LinearRegression):
        weights = compute_posterior(family, data) @ family.parameters.to(data.inputs.device)
        return (as_pairs(data, family.dim)[0] * weights).sum(-1, keepdim=True)
    return retrieval(family, data).predictive.clamp(min=_SMALLEST_PROBABILITY).log()
