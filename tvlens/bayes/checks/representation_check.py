"""Representation: is the state mean + token part + convex combination, weighted like Bayes?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import viz
from ...errors import unknown
from ...geometry import Effects, balanced_effects
from ...models.loading import model_name
from ...saved import Saved
from ..pool import at_least
from .predictives import check_model
from .probing import most_seen, probes, states
from .properties import additive, by_chance, convex
from .vertices import own, shared

if TYPE_CHECKING:
    import pandas

Measure = Literal[
    "within-cell share",
    "interaction",
    "explained share",
    "total variation",
    "correlation",
    "explained share by token",
    "total variation by token",
    "correlation by token",
]
MEASURES = get_args(Measure)


@dataclass(frozen=True)
class Representation(Saved):
    """P0 to P3 at one layer, by the number of observations seen.

    The measures, from balanced probes whose last token is forced:

    - "within-cell share" (P0): share of the variance that task and token leave open; near 0 where
      the state forgets all else.
    - "interaction" (P1): share of the variance of cell means that is not additive.
    - "explained share" (P2): share of the token-corrected states' squared length that the nearest
      convex combination of task vectors explains; negative where it misses them.
    - "total variation", "correlation" (P3): between the weights of that combination and the
      posterior over the major tasks, total variation on average and Pearson over all entries.
    - the same three "by token": with task vectors of each last token's own, its cells' means. They
      need no additivity, which a task whose answer depends on the token (a Markov chain's) breaks.

    Task vectors, mean and token effects come from other sequences, at the largest number seen.

    Attributes:
        seen: observations before each state.
        values: by measure and number seen.
        intervals: 95% bootstrap intervals over sequences.
        nulls: the same measure where there is nothing to find: tasks permuted (P0), cells permuted
            (P1), random vectors of equal norms and angles (P2), posteriors of other sequences (P3).
        weights: of the nearest convex combination, one row per test sequence.
        posterior: of Bayes, over the major tasks.
        residuals: the test states less mean and token effect.
        task: true task of each test sequence.
        mean, task_vectors, token_vectors: the effects.
        layer: the block whose output was read.
        settings: model, family, numbers and seed.
    """

    seen: Int[Tensor, " seen"]
    values: Float[Tensor, "measure seen"]
    intervals: Float[Tensor, "measure seen 2"]
    nulls: Float[Tensor, "measure seen draw"]
    weights: Float[Tensor, "seen n major"]
    posterior: Float[Tensor, "seen n major"]
    residuals: Float[Tensor, "seen n d"]
    task: Int[Tensor, " n"]
    mean: Float[Tensor, " d"]
    task_vectors: Float[Tensor, "major d"]
    token_vectors: Float[Tensor, "token d"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(f"{m} {float(self[m][-1]):.3f}" for m in MEASURES)
        return f"Representation(layer {self.layer}, {int(self.seen[-1])} seen: {shown})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figures:
        """Every measure with its null, by the number seen, and the simplex of states."""
        from .show import representation_figure

        return representation_figure(self)

    def __getitem__(self, measure: Measure) -> Float[Tensor, " seen"]:
        """A measure by the number seen."""
        return self.values[_index(measure)]

    def interval(self, measure: Measure) -> Float[Tensor, "seen 2"]:
        """The interval of a measure."""
        return self.intervals[_index(measure)]

    def null(self, measure: Measure) -> Float[Tensor, "seen draw"]:
        """The null of a measure."""
        return self.nulls[_index(measure)]

    @property
    def effects(self) -> Effects:
        """Mean, task vectors and token effects together, for the other checks."""
        parts = self.mean, self.task_vectors, self.token_vectors
        rows = (torch.arange(len(part)) for part in parts[1:])
        return Effects(*parts, *rows)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per measure and number seen: value, interval, mean and spread of the null."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [MEASURES, self.seen.tolist()], names=["measure", "seen"]
        )
        parts = [self.values, *self.intervals.unbind(-1), self.nulls.mean(-1), self.nulls.std(-1)]
        names = ["value", "low", "high", "null_mean", "null_std"]
        columns = {name: part.flatten() for name, part in zip(names, parts, strict=True)}
        return pd.DataFrame(columns, index).reset_index()


def representation(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    seen: Sequence[int] | None = None,
    per_cell: int = 32,
    resamples: int = 1000,
    null: int = 100,
    seed: int = 0,
) -> Representation:
    """P0 to P3 of "Task Vector Geometry Underlies Dual Modes of Task Inference" at one layer.

    Args:
        layer: the block whose output is read; negative ones count from the last.
        seen: observations before the state, as for `probes`; 2, 4, 8, ... and as many as fit into
            the context by default.
        per_cell: test sequences for each pair of task and token; as many others are there for the
            task vectors. Together they are more than the dimensions of the state's effects need.
        resamples: of the bootstrap intervals.
        null: draws of each null.
        seed: of sequences, intervals and nulls.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, sequences beyond the
            context, one major task only, or task vectors that are affinely dependent.
    """
    check_model(model, family)
    at_least(2, per_cell=per_cell, null=null, resamples=resamples)
    seen = _doubling(most_seen(model, family)) if seen is None else sorted(seen)
    fit = probes(family, seen=seen[-1], per_cell=per_cell, seed=seed)
    fitted = states(model, fit, layer=layer), fit.task, fit.token
    effects, rng = balanced_effects(*fitted), np.random.default_rng(seed)
    estimates, nulls, parts = [], [], []
    for count in seen:
        test = probes(family, seen=count, per_cell=per_cell, seed=seed + 1)
        h, posterior = states(model, test, layer=layer), test.posterior(family)
        places = shared(h, test.token, effects), own(h, test.token, fitted)
        weights, options = [one.weights() for one in places], dict(resamples=resamples, seed=seed)
        both = zip(places, weights, strict=True)
        alike = [convex(*one, posterior, **options) for one in both]
        estimates.append([*additive(h, test, **options), *alike[0], *alike[1]])
        nulls.append(by_chance(h, test, places, weights, posterior, draws=null, rng=rng))
        parts.append((weights[0], posterior, places[0].rest.float()))
    numbers = torch.tensor(estimates, dtype=torch.float64).transpose(0, 1)
    weights, posteriors, residuals = map(torch.stack, zip(*parts, strict=True))
    settings = {"model": model_name(model), "family": str(family), "per_cell": per_cell}
    return Representation(
        seen=torch.tensor(seen),
        values=numbers[..., 0],
        intervals=numbers[..., 1:],
        nulls=torch.stack(nulls, 1),
        weights=weights,
        posterior=posteriors,
        residuals=residuals,
        task=test.task,
        mean=effects.mean,
        task_vectors=effects.task,
        token_vectors=effects.token,
        layer=layer % model.cfg.n_layers,
        settings=settings | {"seed": seed},
    )


def _doubling(most: int) -> list[int]:
    """2, 4, 8, ... and the most."""
    return sorted({most, *(2**k for k in range(1, most.bit_length()) if 2**k <= most)})


def _index(measure: Measure) -> int:
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    return MEASURES.index(measure)
