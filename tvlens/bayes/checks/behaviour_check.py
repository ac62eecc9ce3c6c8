"""`behaviour`: divergence of a model's predictions from each reference, at every position."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import NamedValues, TvlensError, unknown
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval
from ..distributions import relative_distance
from ..markov import Markov
from ..pool import Split
from ..prediction import Moments, Prediction, Predictive
from ..references import (
    extrapolation,
    learner,
    predict_in_batches,
    retrieval,
    unigram_inference,
    unigram_retrieval,
)
from ..sequences import Data
from .model_predictions import (
    default_splits,
    max_length,
    predict,
    predictive_kl,
    require_compatible,
)

if TYPE_CHECKING:
    import pandas

Reference = Callable[[Any, Data], Prediction]


def default_references(family: Any) -> dict[str, Reference]:
    """Return the references with which a model of this family is compared, by name.

    Always "retrieval" (M1, the full pool), "extrapolation" (M2, majors and one new task) and
    "learner". With minors, also retrieval under a uniform prior and over the majors only; without
    minors both equal "retrieval". For Markov chains, also the two unigram references; their bigram
    counterparts are "retrieval" and "learner".
    """
    references: dict[str, Reference] = {"retrieval": retrieval, "extrapolation": extrapolation}
    references["learner"] = learner
    if family.minors:
        references["uniform retrieval"] = lambda f, data: retrieval(f.with_prior(None), data)
        references["major retrieval"] = lambda f, data: retrieval(f.with_major_tasks(), data)
    if isinstance(family, Markov):
        references["unigram retrieval"] = unigram_retrieval
        references["unigram learner"] = unigram_inference
    return references


@dataclass(frozen=True)
class Behaviour(Result):
    """KL in nats from a model to each reference, by sequence and position.

    Attributes:
        kl: entry t compares predictions of observation t + 1 given all up to t.
        reference_kl: KL between the first two references, averaged over both directions.
        splits: names of the splits ("major", "minor", "ood").
        references: names of the references; the first two are M1 and M2 by default.
        settings: model, family, sizes and seed.
    """

    kl: Float[Tensor, "split reference n position"]
    reference_kl: Float[Tensor, "split n position"]
    splits: tuple[str, ...]
    references: tuple[str, ...]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        first = self.references[0]
        means = ", ".join(f"{split} {self.mean[split, first]:.4f}" for split in self.splits)
        return f"Behaviour(KL to {first}: {means})"

    def kl_to(self, split: str, reference: str) -> Float[Tensor, "n position"]:
        """Return the KL to a reference for every sequence of a split."""
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        if reference not in self.references:
            raise unknown("reference", reference, self.references)
        return self.kl[self.splits.index(split), self.references.index(reference)]

    @cached_property
    def mean(self) -> NamedValues[float]:
        """Mean KL over sequences and positions, by (split, reference)."""
        return NamedValues(self._axes, (float(kl.mean()) for kl in self.kl.flatten(0, 1)))

    @cached_property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences, by (split, reference)."""
        rows = (kl.mean(1).numpy() for kl in self.kl.flatten(0, 1))
        return NamedValues(self._axes, (bootstrap_interval(row) for row in rows))

    def log_ratio(self, split: str) -> float:
        """Compute log(KL to the first / KL to the second reference); positive means M2.

        Source: the phase diagram of arXiv 2605.03780.
        """
        first, second = (self.mean[split, name] for name in self.references[:2])
        return float(torch.tensor(first / second).log())

    def blend_weight(self, split: str) -> float:
        """Compute the weight of the first reference in the best-fitting blend of the first two."""
        first, second = (self.kl_to(split, name).mean() for name in self.references[:2])
        between = self.reference_kl[self.splits.index(split)].mean()
        return float(relative_distance(first, second, between) + 1) / 2

    def relative_distance(self, split: str) -> Float[Tensor, " position"]:
        """Compute the relative distance by position: 1 at the first reference, -1 at the second.

        Raises:
            TvlensError: the two references coincide at some position.
        """
        first, second = (self.kl_to(split, name).mean(0) for name in self.references[:2])
        return relative_distance(first, second, self.reference_kl[self.splits.index(split)].mean(0))

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split, reference and position: KL, its standard error, n."""
        import pandas as pd

        _, _, n, length = self.kl.shape
        axes = [self.splits, self.references, range(length)]
        index = pd.MultiIndex.from_product(axes, names=["split", "reference", "position"])
        error = self.kl.std(2) / n**0.5
        columns = {"kl": self.kl.mean(2).flatten(), "standard_error": error.flatten()}
        return pd.DataFrame(columns, index).assign(n=n).reset_index()

    @property
    def _axes(self) -> dict[str, tuple[str, ...]]:
        return {"split": self.splits, "reference": self.references}


@dataclass(frozen=True)
class ReferencePredictions:
    """Sequences with the predictions of every reference, for comparison with several models.

    Attributes:
        family: the task family.
        data: sequences by split.
        predictions: predictives by split and reference.
        settings: sizes and seed.
    """

    family: Any
    data: dict[str, Data]
    predictions: dict[str, dict[str, Predictive]]
    settings: dict

    @classmethod
    def compute(
        cls,
        family: Any,
        *,
        length: int,
        sequences: int = 1024,
        splits: Sequence[Split] | None = None,
        references: Mapping[str, Reference] | None = None,
        seed: int = 0,
    ) -> "ReferencePredictions":
        """Sample each split and apply every reference; options as for `behaviour`."""
        splits = default_splits(family) if splits is None else splits
        references = default_references(family) if references is None else references
        if len(references) < 2:
            raise TvlensError("give at least two references: the first two are compared")
        data = {s: family.sample(sequences, length, split=s, seed=seed) for s in splits}
        predictions = {s: _apply_references(family, data[s], references, s) for s in splits}
        settings = {"family": str(family), "sequences": sequences, "seed": seed}
        return cls(family, data, predictions, settings)

    def compare(self, model: Any, *, batch_size: int = 256) -> Behaviour:
        """Compute the KL from a model to every reference."""
        kls, reference_kls = [], []
        for split, predictives in self.predictions.items():
            output = predict(model, self.family, self.data[split], batch_size=batch_size)
            kls.append(
                torch.stack([predictive_kl(self.family, output, r) for r in predictives.values()])
            )
            reference_kls.append(self._reference_kl(*list(predictives.values())[:2]))
        kl, names = torch.stack(kls), tuple(next(iter(self.predictions.values())))
        if not bool(kl.isfinite().all()):
            split, reference, *_ = (~kl.isfinite()).nonzero()[0].tolist()
            raise TvlensError(
                f"the KL to {names[reference]} is infinite on {list(self.data)[split]} sequences: "
                "the reference rules out an observation that the model allows; leave it out"
            )
        settings = self.settings | {"model": model_name(model)}
        return Behaviour(kl, torch.stack(reference_kls), tuple(self.data), names, settings)

    def _reference_kl(self, first: Predictive, second: Predictive) -> Float[Tensor, "n position"]:
        values = [p.mean if isinstance(p, Moments) else p for p in (first, second)]
        forward = predictive_kl(self.family, values[0], second)
        return (forward + predictive_kl(self.family, values[1], first)) / 2


def behaviour(
    model: Any,
    family: Any,
    *,
    length: int | None = None,
    sequences: int = 1024,
    splits: Sequence[Split] | None = None,
    references: Mapping[str, Reference] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Behaviour:
    """Compare a model's predictions with Bayesian references: KL(model || reference) by position.

    For a regression the KL is (mean - reference mean)^2 / (2 sigma^2). For `Dyck`, whose references
    rule out brackets, it is KL(reference || model). Use `ReferencePredictions` to compare several
    models on the same sequences.

    Args:
        length: observations per sequence; the longest that fits the context by default.
        sequences: number of sequences per split.
        splits: "train", "major", "minor", "ood"; by default "major", "minor" if the family has
            minors, and "ood".
        references: references by name, `default_references` by default. `relative_distance`,
            `blend_weight` and `log_ratio` compare the first two.
        seed: random seed of the sequences.

    Raises:
        TvlensError: the vocabularies of model and family differ, sequences exceed the context, a
            sequence is impossible under a reference, or a KL is infinite.
    """
    require_compatible(model, family)
    length = max_length(model, family) if length is None else length
    options = dict(sequences=sequences, splits=splits, references=references, seed=seed)
    predictions = ReferencePredictions.compute(family, length=length, **options)
    return predictions.compare(model, batch_size=batch_size)


def _apply_references(
    family: Any, data: Data, references: Mapping[str, Reference], split: str
) -> dict[str, Predictive]:
    try:
        return {
            name: predict_in_batches(reference, family, data).predictive
            for name, reference in references.items()
        }
    except TvlensError as error:
        raise TvlensError(f"on {split} sequences: {error}") from error
