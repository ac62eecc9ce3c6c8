"""`representation`: what task and token determine of a state, and whether they add (P0 to P2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues
from ...geometry import Effects, between_cell_variance, two_way_variance
from ...geometry.cells import Cells
from ...geometry.variance import between_cell_share, two_way_shares
from ...integers import require_at_least
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from ..ideal_states import ReferenceKind
from ..regression import LinearRegression
from .input_regression import regress_on_inputs
from .probing import Probes, ProbeStates, probes
from .simplex_projection import (
    SimplexProjection,
    project_on_shared_simplex,
    project_on_token_simplices,
)
from .states import state_source

if TYPE_CHECKING:
    import pandas

Measure = Literal[
    "within-cell share",
    "interaction",
    "explained share",
    "explained share by token",
    "ANCOVA residual",
    "MLP residual",
]
MEASURES = get_args(Measure)

# Value, low and high end of the interval.
Estimate = tuple[float, float, float]


@dataclass(frozen=True)
class Representation(Result):
    """P0 to P2 at one layer, by number of observations.

    The measures on balanced probes, with a forced last token (of a regression, one of eight fixed
    inputs, x and -x in pairs):

    - "within-cell share" (P0): share of variance within cells of equal task and token; near 0 where
      the state depends on nothing else.
    - "interaction" (P1): share of the variance of cell means that is not additive.
    - "explained share" (P2): share of the squared norm of the token-corrected states that the
      nearest convex combination of task vectors explains; may be negative.
    - "explained share by token": with separate task vectors for each last token (the cell means),
      which requires no additivity. Additivity fails where the answer depends on the token, as for
      Markov chains.

    The measures of a regression on natural sequences, out of sample:

    - "ANCOVA residual" (P0): share of variance that no linear function of the last input explains,
      with separate coefficients for each task.
    - "MLP residual" (P0): the same for a small neural network of task and last input.

    Task vectors, mean and token effects are estimated on other sequences with the largest number of
    observations. `posterior_weights` compares weights with posteriors (P3).

    Attributes:
        observations: numbers of observations before each state.
        measures: names of the measures.
        values: by measure and number of observations.
        intervals: 95% bootstrap intervals over sequences.
        nulls: the measures under permuted tasks (P0), permuted cells (P1), and random vectors of
            equal norms and angles (P2).
        posterior: Bayesian posterior over the major tasks, one row per test sequence.
        residuals: the test states minus mean and token effect.
        task: true task of each test sequence.
        mean: mean effect.
        task_vectors: task effects.
        token_vectors: token effects.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    observations: Int[Tensor, " count"]
    measures: tuple[str, ...]
    values: Float[Tensor, "measure count"]
    intervals: Float[Tensor, "measure count 2"]
    nulls: Float[Tensor, "measure count draw"]
    posterior: Float[Tensor, "count n major"]
    residuals: Float[Tensor, "count n d"]
    task: Int[Tensor, " n"]
    mean: Float[Tensor, " d"]
    task_vectors: Float[Tensor, "major d"]
    token_vectors: Float[Tensor, "token d"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        measures = ", ".join(f"{m} {float(self.value[m][-1]):.3f}" for m in self.measures)
        count = int(self.observations[-1])
        return f"Representation(layer {self.layer}, {count} observations: {measures})"

    def __getitem__(self, measure: Measure) -> Float[Tensor, " count"]:
        """Return a measure by number of observations."""
        return self.value[measure]

    @cached_property
    def value(self) -> NamedValues[Tensor]:
        """Values [count] by measure."""
        return NamedValues({"measure": self.measures}, self.values)

    @cached_property
    def interval(self) -> NamedValues[Tensor]:
        """Intervals [count 2] by measure."""
        return NamedValues({"measure": self.measures}, self.intervals)

    @cached_property
    def null(self) -> NamedValues[Tensor]:
        """Null distributions [count draw] by measure."""
        return NamedValues({"measure": self.measures}, self.nulls)

    @property
    def effects(self) -> Effects:
        """Mean, task vectors and token effects as one object, for the other checks."""
        rows = (torch.arange(len(part)) for part in (self.task_vectors, self.token_vectors))
        return Effects(self.mean, self.task_vectors, self.token_vectors, *rows)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per measure and number of observations: value, interval, null."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [self.measures, self.observations.tolist()], names=["measure", "observations"]
        )
        parts = [self.values, *self.intervals.unbind(-1), self.nulls.mean(-1), self.nulls.std(-1)]
        names = ["value", "low", "high", "null_mean", "null_std"]
        columns = {name: part.flatten() for name, part in zip(names, parts, strict=True)}
        return pd.DataFrame(columns, index).reset_index()


def representation(
    model: Any | ReferenceKind,
    family: Any,
    *,
    layer: int = -1,
    observations: Sequence[int] | None = None,
    per_cell: int = 32,
    resamples: int = 1000,
    null: int = 100,
    seed: int = 0,
    length: int | None = None,
) -> Representation:
    """Measure P0 to P2 of "Task Vector Geometry Underlies Dual Modes of Task Inference" at a layer.

    Args:
        model: a model, or the name of an ideal one (see `reference_states`).
        layer: the block whose output is read; negative numbers count from the last.
        observations: numbers of observations before the state, as for `probes`; by default 2, 4,
            8, ... and the most that fit into the context.
        per_cell: test sequences for each pair of task and token, and as many others for the
            estimation of task vectors. As many natural sequences are used of a regression.
        resamples: number of bootstrap samples.
        null: number of draws of each null.
        seed: random seed of sequences, intervals and nulls.
        length: context of an ideal model.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist,
            sequences exceed the context, the family has one major task only, or task vectors are
            affinely dependent.
    """
    source = state_source(model, family, layer=layer, length=length)
    require_at_least(2, per_cell=per_cell, null=null, resamples=resamples)
    counts = _powers_of_two(source.longest) if observations is None else sorted(observations)
    options = dict(observations=counts[-1], per_cell=per_cell, seed=seed)
    fitted = ProbeStates.read(source, probes(family, **options))
    effects, rng = fitted.effects(), np.random.default_rng(seed)
    bootstrap = dict(resamples=resamples, seed=seed)
    estimates, nulls, parts = [], [], []
    for count in counts:
        test = probes(family, observations=count, per_cell=per_cell, seed=seed + 1)
        states = source.read_last(test.data)
        projections = (
            project_on_shared_simplex(states, test.token, effects),
            project_on_token_simplices(states, test.token, fitted),
        )
        estimates.append(_estimate_additivity(states, test, **bootstrap))
        estimates[-1] += [_estimate_convexity(p, **bootstrap) for p in projections]
        nulls.append(_sample_nulls(states, test, projections, draws=null, rng=rng))
        parts.append((test.posterior(family), projections[0].states.float()))
        if isinstance(family, LinearRegression):
            regressions = regress_on_inputs(source, count, len(test), draws=null, seed=seed + 9)
            estimates[-1] += [_estimate_ratio(r.columns, **bootstrap) for r in regressions]
            nulls[-1] += [r.null for r in regressions]
    numbers = torch.tensor(estimates, dtype=torch.float64).transpose(0, 1)
    posteriors, residual_states = map(torch.stack, zip(*parts, strict=True))
    settings = {"model": source.name, "family": str(family), "per_cell": per_cell}
    return Representation(
        observations=torch.tensor(counts),
        measures=MEASURES[: len(numbers)],
        values=numbers[..., 0],
        intervals=numbers[..., 1:],
        nulls=torch.tensor(nulls, dtype=torch.float64).transpose(0, 1),
        posterior=posteriors,
        residuals=residual_states,
        task=test.task,
        mean=effects.mean,
        task_vectors=effects.task,
        token_vectors=effects.token,
        layer=source.layer,
        settings=settings | {"seed": seed},
    )


def _powers_of_two(maximum: int) -> list[int]:
    """Return 2, 4, 8, ... up to a maximum, and the maximum itself."""
    return sorted({maximum, *(2**k for k in range(1, maximum.bit_length()) if 2**k <= maximum)})


def _estimate_additivity(
    states: Float[Tensor, "n d"], probes: Probes, *, resamples: int, seed: int
) -> list[Estimate]:
    """Estimate P0, the share of variance within cells, and P1, the interaction of cell means."""
    options = dict(resamples=resamples, seed=seed)
    cells = between_cell_variance(states, probes.task, probes.token, **options)
    means = two_way_variance(states, probes.task, probes.token, **options)
    low, high = cells.interval[0].tolist()
    within = 1 - float(cells["cells"]), 1 - high, 1 - low
    return [
        within,
        (float(means["interaction"]), *means.interval[means.index("interaction")].tolist()),
    ]


def _estimate_convexity(projection: SimplexProjection, *, resamples: int, seed: int) -> Estimate:
    """Estimate P2, the share that the nearest convex combination explains."""
    value, low, high = _estimate_ratio(_squared_residuals(projection), resamples, seed)
    return 1 - value, 1 - high, 1 - low


def _squared_residuals(projection: SimplexProjection) -> Float[Tensor, "n 2"]:
    """Return the squared distance from the nearest combination, and the squared norm."""
    residuals = projection.squared_residual(projection.fit_weights())
    return torch.stack([residuals, projection.states.square().sum(1)], 1)


def _estimate_ratio(columns: Float[Tensor, "n 2"], resamples: int, seed: int) -> Estimate:
    """Estimate the ratio of two sums over sequences, with a bootstrap interval."""
    draws = bootstrap_counts(len(columns), resamples, seed=seed) @ columns.numpy()
    low, high = percentiles(draws[:, 0] / draws[:, 1])
    return float(columns[:, 0].sum() / columns[:, 1].sum()), float(low), float(high)


def _sample_nulls(
    states: Float[Tensor, "n d"],
    probes: Probes,
    projections: Sequence[SimplexProjection],
    *,
    draws: int,
    rng: np.random.Generator,
) -> list[list[float]]:
    """Sample every measure [draw] from its null, as described in `Representation.nulls`."""
    centered = (states - states.mean(0)).double().numpy()
    ones = np.ones((1, len(centered)))
    samples: list[list[float]] = []
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(states)))
        tasks = Cells.from_labels(probes.task[order], probes.token)
        cells = Cells.from_labels(probes.task[order], probes.token[order])
        within = 1 - between_cell_share(centered, tasks, ones)[0, 0]
        sample = [within, two_way_shares(centered, cells, ones)[0, 2]]
        for projection in projections:
            residual, norm = _squared_residuals(projection.rotate_vertices(rng)).sum(0)
            sample.append(1 - residual / norm)
        samples.append([float(value) for value in sample])
    return [list(values) for values in zip(*samples, strict=True)]
