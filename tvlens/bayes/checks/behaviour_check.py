"""Behaviour: how far a model's predictions are from each reference, at every position."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...errors import TvlensError, unknown
from ...models.loading import model_name
from ...saved import Saved
from ...stats import bootstrap_interval
from ..chains import unigram_inference, unigram_retrieval
from ..divergence import relative_distance
from ..markov import Markov
from ..pool import Split
from ..prediction import Moments, Prediction, Predictive
from ..references import extrapolation, learner, retrieval, streamed
from ..sequences import Data
from .predictives import check_model, gap, longest, predicted

if TYPE_CHECKING:
    import pandas

Reference = Callable[[Any, Data], Prediction]


def default_references(family: Any) -> dict[str, Reference]:
    """The predictors that a model of this family is held against, by name.

    Always M1 ("retrieval", the full pool), M2 ("extrapolation", majors and one new task) and the
    pure "learner". With minors also retrieval under a uniform prior and among the majors alone,
    which without minors are M1 itself. For chains also the two that look at single tokens; those
    that look at transitions are "retrieval" and "learner".
    """
    found: dict[str, Reference] = {"retrieval": retrieval, "extrapolation": extrapolation}
    found["learner"] = learner
    if family.minors:
        found["uniform retrieval"] = lambda family, data: retrieval(family.with_prior(None), data)
        found["major retrieval"] = lambda family, data: retrieval(family.known(), data)
    if isinstance(family, Markov):
        found |= {"unigram retrieval": unigram_retrieval, "unigram learner": unigram_inference}
    return found


@dataclass(frozen=True)
class Behaviour(Saved):
    """KL in nats from a model to each reference, sequence by sequence.

    Attributes:
        kl: entry t of a sequence predicts observation t + 1 from all up to t.
        between: KL between the first two references, averaged over both directions.
        splits: where the sequences come from ("major", "minor", "ood").
        references: names of the references; the first two are M1 and M2 by default.
        settings: model, family, numbers and seed.
    """

    kl: Float[Tensor, "split reference n position"]
    between: Float[Tensor, "split n position"]
    splits: tuple[str, ...]
    references: tuple[str, ...]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(f"{s} {self.mean(s, self.references[0]):.4f}" for s in self.splits)
        return f"Behaviour(KL to {self.references[0]}: {shown})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figures:
        """KL by position, a chart for each split."""
        from .show import behaviour_figure

        return behaviour_figure(self)

    def each(self, split: str, reference: str) -> Float[Tensor, "n position"]:
        """KL to a reference in every sequence of a split."""
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        if reference not in self.references:
            raise unknown("reference", reference, self.references)
        return self.kl[self.splits.index(split), self.references.index(reference)]

    def mean(self, split: str, reference: str) -> float:
        """Mean KL over sequences and positions."""
        return float(self.each(split, reference).mean())

    def interval(self, split: str, reference: str) -> tuple[float, float]:
        """95% bootstrap interval of the mean, over sequences."""
        return bootstrap_interval(self.each(split, reference).mean(1).numpy())

    def ratio(self, split: str) -> float:
        """log(KL to the first / KL to the second reference): above 0, the model is M2.

        Source: the phase diagram of arXiv 2605.03780.
        """
        first, second = (self.mean(split, name) for name in self.references[:2])
        return float(torch.tensor(first / second).log())

    def relative(self, split: str) -> Float[Tensor, " position"]:
        """Relative distance by position: 1 at the first reference, -1 at the second.

        Raises:
            TvlensError: the two agree everywhere at some position.
        """
        first, second = (self.each(split, name).mean(0) for name in self.references[:2])
        return relative_distance(first, second, self.between[self.splits.index(split)].mean(0))

    def weight(self, split: str) -> float:
        """Weight of the first reference in the blend of the two that fits a split, (r + 1) / 2."""
        first, second = (self.each(split, name).mean() for name in self.references[:2])
        between = self.between[self.splits.index(split)].mean()
        return float(relative_distance(first, second, between) + 1) / 2

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per split, reference and position: KL, its standard error, n."""
        import pandas as pd

        _, _, n, length = self.kl.shape
        axes = [self.splits, self.references, range(length)]
        index = pd.MultiIndex.from_product(axes, names=["split", "reference", "position"])
        error = self.kl.std(2) / n**0.5
        columns = {"kl": self.kl.mean(2).flatten(), "standard_error": error.flatten()}
        return pd.DataFrame(columns, index).assign(n=n).reset_index()


@dataclass(frozen=True)
class Yardstick:
    """Sequences and what every reference predicts on them, ready for any number of models.

    Attributes:
        family: the tasks.
        data: sequences by split.
        predictions: predictives by split and reference.
        settings: numbers and seed.
    """

    family: Any
    data: dict[str, Data]
    predictions: dict[str, dict[str, Predictive]]
    settings: dict

    @classmethod
    def of(
        cls,
        family: Any,
        *,
        length: int,
        sequences: int = 1024,
        splits: Sequence[Split] | None = None,
        against: Mapping[str, Reference] | None = None,
        seed: int = 0,
    ) -> "Yardstick":
        """Sample each split and ask every reference; options as for `behaviour`."""
        if splits is None:
            splits = ["major", "minor", "ood"] if family.minors else ["major", "ood"]
        against = default_references(family) if against is None else against
        if len(against) < 2:
            raise TvlensError("give at least two references to stand between")
        data = {s: family.sample(sequences, length, split=s, seed=seed) for s in splits}
        predictions = {s: _told(family, data[s], against, s) for s in splits}
        settings = {"family": str(family), "sequences": sequences, "seed": seed}
        return cls(family, data, predictions, settings)

    def measure(self, model: Any, *, batch_size: int = 256) -> Behaviour:
        """Hold one model against all references."""
        gaps, between = [], []
        for split, told in self.predictions.items():
            found = predicted(model, self.family, self.data[split], batch_size=batch_size)
            gaps.append(torch.stack([gap(self.family, found, r) for r in told.values()]))
            between.append(self._between(*list(told.values())[:2]))
        distances, names = torch.stack(gaps), tuple(next(iter(self.predictions.values())))
        if not bool(distances.isfinite().all()):
            split, reference, *_ = (~distances.isfinite()).nonzero()[0].tolist()
            raise TvlensError(
                f"the KL to {names[reference]} is infinite on {list(self.data)[split]} sequences: "
                "it rules out what the model thinks possible; leave it out"
            )
        settings = self.settings | {"model": model_name(model)}
        return Behaviour(distances, torch.stack(between), tuple(self.data), names, settings)

    def _between(self, first: Predictive, second: Predictive) -> Float[Tensor, "n position"]:
        one, other = (p.mean if isinstance(p, Moments) else p for p in (first, second))
        return (gap(self.family, one, second) + gap(self.family, other, first)) / 2


def behaviour(
    model: Any,
    family: Any,
    *,
    length: int | None = None,
    sequences: int = 1024,
    splits: Sequence[Split] | None = None,
    against: Mapping[str, Reference] | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Behaviour:
    """Does the model predict like Bayes, and like which one? KL(model || reference) by position.

    For a regression the KL is (mean - reference mean)^2 / (2 sigma^2). To measure many models on
    the same sequences, keep a `Yardstick`.

    Args:
        length: observations in a sequence; as many as fit into the context by default.
        sequences: in each split.
        splits: "train", "major", "minor", "ood"; majors, minors where there are any, and
            sequences of fresh tasks by default.
        against: references by name, `default_references` by default. The first two are the ones
            that `relative`, `weight` and `ratio` are about.
        seed: of the sequences.

    Raises:
        TvlensError: another vocabulary than the family's, sequences beyond the context, a split
            that a reference rules out, or a KL that is infinite.
    """
    check_model(model, family)
    length = longest(model, family) if length is None else length
    options = dict(sequences=sequences, splits=splits, against=against, seed=seed)
    return Yardstick.of(family, length=length, **options).measure(model, batch_size=batch_size)


def _told(family: Any, data: Data, against: Mapping[str, Reference], split: str) -> dict:
    try:
        return {name: streamed(ask, family, data).predictive for name, ask in against.items()}
    except TvlensError as error:
        raise TvlensError(f"on {split} sequences: {error}") from error
