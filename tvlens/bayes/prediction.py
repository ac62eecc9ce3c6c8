"""`Prediction`: posterior and predictive of a reference at every position."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..results import Result

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Moments:
    """Mean and variance of the next target of a regression; the axis `next` is length - 1.

    Attributes:
        weights: posterior mean of the weights, after the pairs 0..t.
        mean: mean of target t + 1 given its input, after the pairs 0..t; the last pair of a row
            has no next input, so there is one entry less than pairs.
        variance: variance of that target, its noise included.
    """

    weights: Float[Tensor, "n length dim"]
    mean: Float[Tensor, "n next"]
    variance: Float[Tensor, "n next"]


Predictive = Float[Tensor, "n length vocab"] | Moments


def blend(first: Predictive, second: Predictive, share: Float[Tensor, "n length"]) -> Predictive:
    """Mix the predictives of two hypotheses; `share` is the probability of the second.

    Moments follow the law of total variance.

    Example:
        >>> import torch
        >>> import tvlens as tv
        >>> first, second = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
        >>> tv.bayes.blend(first, second, torch.tensor([[0.25]])).tolist()
        [[[0.25, 0.75]]]
    """
    if not isinstance(first, Moments):
        return torch.lerp(first, second, share[..., None])
    next_share = share[:, :-1]
    between = next_share * (1 - next_share) * (second.mean - first.mean).square()
    return Moments(
        torch.lerp(first.weights, second.weights, share[..., None]),
        torch.lerp(first.mean, second.mean, next_share),
        torch.lerp(first.variance, second.variance, next_share) + between,
    )


@dataclass(frozen=True)
class Prediction(Result):
    """Posterior and predictive of a Bayesian reference, in float64.

    Entry t is conditional on the tokens (or pairs) up to and including t.

    Attributes:
        posterior: probability of each hypothesis: the major tasks, then all others.
        predictive: distribution of token t + 1; `Moments` of the next target for a regression.
        log_evidence: log-probability of the tokens up to and including t, in nats.
        majors: number of leading columns of the posterior that are major tasks.
        rest_label: name of the columns after them ("minor task" or "new task").
        reference: name of the reference.
    """

    former_names = ("tvlens.prediction",)

    posterior: Float[Tensor, "n length k"]
    predictive: Predictive
    log_evidence: Float[Tensor, "n length"]
    majors: int
    rest_label: str
    reference: str

    def __repr__(self) -> str:
        n, length, k = self.posterior.shape
        return f"Prediction({self.reference}: {n} x {length}, {k} hypotheses)"

    @property
    def labels(self) -> list[str]:
        """Names of the columns of the posterior after `group_rest`."""
        has_rest = self.posterior.shape[-1] > self.majors
        return [f"task {k}" for k in range(self.majors)] + [self.rest_label] * has_rest

    @property
    def entropy(self) -> Float[Tensor, "n length"]:
        """Entropy of the posterior over tasks, in nats."""
        entropies: Tensor = torch.special.entr(self.posterior).sum(-1)
        return entropies

    def group_rest(self) -> "Prediction":
        """Merge the posterior columns beyond the major tasks into one."""
        if self.posterior.shape[-1] <= self.majors + 1:
            return self
        major, rest = self.posterior.tensor_split([self.majors], dim=-1)
        posterior = torch.cat([major, rest.sum(-1, keepdim=True)], dim=-1)
        return replace(self, posterior=posterior, rest_label=f"{self.rest_label}s")

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per sequence and position: grouped posterior, log-evidence, predictive."""
        import pandas as pd

        n, length = self.log_evidence.shape
        index = pd.MultiIndex.from_product(
            [range(n), range(length)], names=["sequence", "position"]
        )
        grouped = self.group_rest()
        columns = dict(zip(grouped.labels, grouped.posterior.unbind(-1), strict=True))
        columns |= {"log_evidence": self.log_evidence}
        if isinstance(self.predictive, Moments):
            last = (0, 1)  # no next target after the last pair: a missing value
            moments = {"mean": self.predictive.mean, "variance": self.predictive.variance}
            pad = torch.nn.functional.pad
            columns |= {name: pad(m, last, value=float("nan")) for name, m in moments.items()}
        else:
            columns |= {f"p({v})": p for v, p in enumerate(self.predictive.unbind(-1))}
        flat = {name: column.flatten().tolist() for name, column in columns.items()}
        return pd.DataFrame(flat, index=index).reset_index()


def concatenate_predictions(parts: Sequence[Prediction]) -> Prediction:
    """Concatenate predictions of one reference for consecutive rows."""
    if len(parts) == 1:
        return parts[0]
    tensors = [_split_predictive(part.predictive) for part in parts]
    predictive = _join_predictive(
        {name: torch.cat([part[name] for part in tensors]) for name in tensors[0]}
    )
    return replace(
        parts[0],
        posterior=torch.cat([part.posterior for part in parts]),
        log_evidence=torch.cat([part.log_evidence for part in parts]),
        predictive=predictive,
    )


def _split_predictive(predictive: Predictive) -> dict[str, Tensor]:
    """Return the tensors of a predictive by name."""
    return vars(predictive) if isinstance(predictive, Moments) else {"predictive": predictive}


def _join_predictive(parts: dict[str, Tensor]) -> Predictive:
    """Invert `_split_predictive`."""
    return parts["predictive"] if "predictive" in parts else Moments(**parts)
