"""`Prediction`: a reference's posterior and predictive at every position."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from .. import viz
from ..saved import construct, read_tensors, reading, write_tensors

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Moments:
    """What a regression reference says of the next target; `next` is length - 1.

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
    """The predictive of two hypotheses, the second with probability `share` at every position.

    Moments follow the law of total variance.
    """
    if not isinstance(first, Moments):
        return torch.lerp(first, second, share[..., None])
    then = share[:, :-1]
    between = then * (1 - then) * (second.mean - first.mean).square()
    return Moments(
        torch.lerp(first.weights, second.weights, share[..., None]),
        torch.lerp(first.mean, second.mean, then),
        torch.lerp(first.variance, second.variance, then) + between,
    )


@dataclass(frozen=True)
class Prediction:
    """What a Bayesian reference believes at every position, in float64.

    Entry t has seen the tokens (or pairs) up to and including t.

    Attributes:
        posterior: probability of each hypothesis: the major tasks, then the rest.
        predictive: distribution of token t + 1; `Moments` of the next target for a regression.
        evidence: log-probability of the tokens up to and including t, in nats.
        majors: number of leading columns of the posterior that are major tasks.
        rest: what the columns after them are ("minor task", "new task").
        reference: name of the reference.
    """

    posterior: Float[Tensor, "n length k"]
    predictive: Predictive
    evidence: Float[Tensor, "n length"]
    majors: int
    rest: str
    reference: str

    def __repr__(self) -> str:
        n, length, k = self.posterior.shape
        return f"Prediction({self.reference}: {n} x {length}, {k} hypotheses)"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self, sequence: int = 0) -> viz.Figures:
        """Posterior curves of one sequence, and how fast all sequences give the task away."""
        from .show import prediction_figure

        return prediction_figure(self, sequence)

    @property
    def labels(self) -> list[str]:
        """Name of every column of the grouped posterior."""
        rest = [self.rest] if self.posterior.shape[-1] > self.majors else []
        return [f"task {k}" for k in range(self.majors)] + rest

    @property
    def entropy(self) -> Float[Tensor, "n length"]:
        """Entropy of the posterior, in nats: how unsure the reference is of the task."""
        return torch.special.entr(self.posterior).sum(-1)

    def grouped(self) -> "Prediction":
        """The same with one posterior column for everything beyond the major tasks."""
        if self.posterior.shape[-1] <= self.majors + 1:
            return self
        known, rest = self.posterior.tensor_split([self.majors], dim=-1)
        posterior = torch.cat([known, rest.sum(-1, keepdim=True)], dim=-1)
        return replace(self, posterior=posterior, rest=f"{self.rest}s")

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per sequence and position: grouped posterior, evidence, predictive."""
        import pandas as pd

        n, length = self.evidence.shape
        index = pd.MultiIndex.from_product(
            [range(n), range(length)], names=["sequence", "position"]
        )
        grouped = self.grouped()
        columns = dict(zip(grouped.labels, grouped.posterior.unbind(-1), strict=True))
        columns |= {"evidence": self.evidence}
        if isinstance(self.predictive, Moments):
            last = (0, 1)  # no next target after the last pair: a missing value
            moments = {"mean": self.predictive.mean, "variance": self.predictive.variance}
            pad = torch.nn.functional.pad
            columns |= {name: pad(m, last, value=float("nan")) for name, m in moments.items()}
        else:
            columns |= {f"p({v})": p for v, p in enumerate(self.predictive.unbind(-1))}
        flat = {name: column.flatten().tolist() for name, column in columns.items()}
        return pd.DataFrame(flat, index=index).reset_index()

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with everything else as JSON in its header. Atomic."""
        tensors = {"posterior": self.posterior, "evidence": self.evidence} | _parts(self.predictive)
        plain = {name: getattr(self, name) for name in ("majors", "rest", "reference")}
        write_tensors(path, tensors, kind="tvlens.prediction", about=plain)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Prediction":
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, it is damaged, or it holds no prediction.
        """
        tensors, plain = read_tensors(path, kind="tvlens.prediction", what="prediction")
        with reading(path, "prediction"):
            own = {name: tensors.pop(name) for name in ("posterior", "evidence")}
            return construct(cls, own | {"predictive": _whole(tensors)}, plain)


def joined(parts: Sequence[Prediction]) -> Prediction:
    """Predictions of one reference for consecutive rows, as one."""
    if len(parts) == 1:
        return parts[0]
    pieces = [_parts(part.predictive) for part in parts]
    predictive = _whole({name: torch.cat([p[name] for p in pieces]) for name in pieces[0]})
    return replace(
        parts[0],
        posterior=torch.cat([part.posterior for part in parts]),
        evidence=torch.cat([part.evidence for part in parts]),
        predictive=predictive,
    )


def _parts(predictive: Predictive) -> dict[str, Tensor]:
    """The tensors of a predictive by name."""
    return vars(predictive) if isinstance(predictive, Moments) else {"predictive": predictive}


def _whole(parts: dict[str, Tensor]) -> Predictive:
    """The predictive that `_parts` took apart."""
    return parts["predictive"] if "predictive" in parts else Moments(**parts)
