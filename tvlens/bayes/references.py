"""Bayesian references: retrieval among known tasks, learning a new one, and both at once.

All of them are exact, in float64 and in log-space, and run where the data lie. Only sums run along
positions, so length costs no precision: 2,000 tokens are as safe as 20.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .pool import at_least, check_mass
from .prediction import Prediction, Predictive, blend, joined
from .sequences import Data, shape_of


@runtime_checkable
class Family(Protocol):
    """All that a reference asks of a family of tasks."""

    prior: Float[Tensor, " k"]
    majors: int
    minor_mass: float

    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """A new tensor: log-probability of every observation given those before it, by task."""
        ...

    def mixture(self, posterior: Float[Tensor, "n length k"], data: Data) -> Predictive:
        """Predictive of the next observation, averaged over tasks."""
        ...

    def learned(self, data: Data) -> tuple[Float[Tensor, "n length"], Predictive]:
        """Log-evidence and predictive of a task drawn anew from the minors' distribution."""
        ...

    def counts(self, data: Data) -> Float[Tensor, "n length ..."]:
        """Sufficient statistics of that learner."""
        ...

    def known(self) -> "Family":
        """The major tasks alone."""
        ...


def retrieval(family: Family, data: Data) -> Prediction:
    """Bayes over the full pool of known tasks (M1): their mixture, weighted by the posterior.

    Holds the posterior of all k tasks, n * length * k doubles, and while it works two or three
    times as much: 1,024 sequences of 129 tokens under 515 tasks are 0.5 GB, under 4,099 tasks
    4.3 GB. `streamed` bounds that. For equal prior weights take `family.with_prior(None)`.

    Args:
        family: the tasks and their prior.
        data: `Sequences` or tokens [n length]; `Pairs` for a regression.

    Raises:
        TvlensError: data of another kind, or a sequence that no task can produce.
    """
    return _possible(_over_tasks(family, data))


def extrapolation(family: Family, data: Data, *, minor_mass: float | None = None) -> Prediction:
    """Bayes over the K major tasks and ONE new task that is learnt from the context (M2).

    The majors share 1 - p0 in the proportions of the prior; the new task has p0. Its evidence is
    the product of its own predictives (Dirichlet or ridge). The posterior has K + 1 columns, the
    new task last.

    Args:
        family: the tasks; the minors in its pool are not used.
        data: as for `retrieval`.
        minor_mass: p0; by default the family's own, which a family without minors has too.

    Raises:
        TvlensError: data of another kind, or p0 outside [0, 1).
    """
    p0 = family.minor_mass if minor_mass is None else minor_mass
    check_mass(p0)
    known, new = _over_tasks(family.known(), data), learner(family, data)
    masses = torch.tensor([1 - p0, p0], dtype=torch.float64, device=known.evidence.device)
    joint = torch.stack([known.evidence, new.evidence], dim=-1) + masses.log()
    evidence, shares = joint.logsumexp(-1), joint.softmax(-1)
    posterior = torch.cat([known.posterior * shares[..., :1], shares[..., 1:]], dim=-1)
    predictive = blend(known.predictive, new.predictive, shares[..., 1])
    return _possible(
        Prediction(posterior, predictive, evidence, family.majors, "new task", "extrapolation")
    )


def learner(family: Family, data: Data) -> Prediction:
    """The pure learner: Dirichlet counts or ridge, as if every sequence had a task of its own."""
    evidence, predictive = family.learned(data)
    certain = torch.ones_like(evidence)[..., None]
    return Prediction(certain, predictive, evidence, 0, "new task", "learner")


def counts(family: Family, data: Data) -> Float[Tensor, "n length ..."]:
    """Sufficient statistics of the learner, up to and including every position.

    Dice: faces [vocab]. Markov: transitions [from to]. Dyck: brackets opened and closed [2].
    Regression: X'X with X'y as one column more [dim dim + 1].
    """
    return family.counts(data)


def streamed(
    reference: Callable[[Family, Data], Prediction],
    family: Family,
    data: Data,
    *,
    rows: int = 32,
) -> Prediction:
    """A reference in bounded memory: some sequences at a time, keeping the grouped posterior.

    The result has one posterior column per major task and one for all others together; memory is
    that of the reference for `rows` sequences. An option is bound beforehand, as in
    `partial(extrapolation, minor_mass=0.3)`.
    """
    at_least(1, rows=rows)
    n, _ = shape_of(data)
    return joined([reference(family, data[i : i + rows]).grouped() for i in range(0, n, rows)])


def _over_tasks(family: Family, data: Data) -> Prediction:
    """The mixture over a family's pool; all zeros where no task can produce a sequence."""
    joint = family.steps(data).cumsum_(1)
    joint += family.prior.to(joint.device).log()
    top = joint.amax(-1, keepdim=True)
    top = torch.where(top.isneginf(), 0.0, top)
    # In place, with one exponential per number: this is the one large tensor.
    posterior = joint.sub_(top).exp_()
    total = posterior.sum(-1, keepdim=True)
    evidence = (top + total.log())[..., 0]
    posterior /= total.clamp(min=1)  # at least 1 but for impossible sequences
    predictive = family.mixture(posterior, data)
    return Prediction(posterior, predictive, evidence, family.majors, "minor task", "retrieval")


def _possible(prediction: Prediction) -> Prediction:
    """The prediction, where every sequence can come from some hypothesis."""
    if bool(prediction.evidence.isnan().any()):
        raise TvlensError(f"a task that {prediction.reference} knows gives no probability but NaN")
    impossible = prediction.evidence.isneginf()
    if bool(impossible.any()):
        place = int(impossible.any(0).nonzero()[0])
        raise TvlensError(
            f"{int(impossible.any(1).sum())} of {len(impossible)} sequences can come from no task "
            f"that {prediction.reference} knows, the first from position {place} on"
        )
    return prediction
