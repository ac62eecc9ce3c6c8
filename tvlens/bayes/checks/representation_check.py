"""`representation`: states as mean, token effect and posterior-weighted task vectors (P0 to P3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues, TvlensError, unknown
from ...geometry import Effects, between_cell_variance, two_way_variance
from ...geometry.cells import Cells
from ...geometry.variance import between_cell_share, two_way_shares
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from .model_predictions import require_compatible
from .probing import Probes, max_observations, probes, read_probe_states, read_states
from .simplex_projection import (
    SimplexProjection,
    project_on_shared_simplex,
    project_on_token_simplices,
)

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

# Contribution of each sequence [n column], and the measure from their sums [draw column] -> [draw].
# A bootstrap of such a measure is one matrix product.
SumStatistic = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]

# Value, low and high end of the interval.
Estimate = tuple[float, float, float]


@dataclass(frozen=True)
class Representation(Result):
    """P0 to P3 at one layer, by number of observations.

    The measures, on balanced probes with a forced last token:

    - "within-cell share" (P0): share of variance within cells of equal task and token; near 0 where
      the state depends on nothing else.
    - "interaction" (P1): share of the variance of cell means that is not additive.
    - "explained share" (P2): share of the squared norm of the token-corrected states that the
      nearest convex combination of task vectors explains; may be negative.
    - "total variation", "correlation" (P3): between the weights of that combination and the
      posterior over the major tasks: mean total variation and Pearson correlation over all entries.
    - the same three "by token": with separate task vectors for each last token (the cell means),
      which require no additivity. Additivity fails where the answer depends on the token, as for
      Markov chains.

    Task vectors, mean and token effects are estimated on other sequences with the largest number of
    observations.

    Attributes:
        observations: numbers of observations before each state.
        values: by measure and number of observations.
        intervals: 95% bootstrap intervals over sequences.
        nulls: the measures under permuted tasks (P0), permuted cells (P1), random vectors of equal
            norms and angles (P2) and posteriors of other sequences (P3).
        weights: of the nearest convex combination, one row per test sequence.
        posterior: Bayesian posterior over the major tasks.
        residuals: the test states minus mean and token effect.
        task: true task of each test sequence.
        mean: mean effect.
        task_vectors: task effects.
        token_vectors: token effects.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    observations: Int[Tensor, " count"]
    values: Float[Tensor, "measure count"]
    intervals: Float[Tensor, "measure count 2"]
    nulls: Float[Tensor, "measure count draw"]
    weights: Float[Tensor, "count n major"]
    posterior: Float[Tensor, "count n major"]
    residuals: Float[Tensor, "count n d"]
    task: Int[Tensor, " n"]
    mean: Float[Tensor, " d"]
    task_vectors: Float[Tensor, "major d"]
    token_vectors: Float[Tensor, "token d"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        measures = ", ".join(f"{m} {float(self[m][-1]):.3f}" for m in MEASURES)
        count = int(self.observations[-1])
        return f"Representation(layer {self.layer}, {count} observations: {measures})"

    def __getitem__(self, measure: Measure) -> Float[Tensor, " count"]:
        """Return a measure by number of observations."""
        if measure not in MEASURES:
            raise unknown("measure", measure, MEASURES)
        return self.values[MEASURES.index(measure)]

    @cached_property
    def interval(self) -> NamedValues[Tensor]:
        """Intervals [count 2] by measure."""
        return NamedValues({"measure": MEASURES}, self.intervals)

    @cached_property
    def null(self) -> NamedValues[Tensor]:
        """Null distributions [count draw] by measure."""
        return NamedValues({"measure": MEASURES}, self.nulls)

    @property
    def effects(self) -> Effects:
        """Mean, task vectors and token effects as one object, for the other checks."""
        rows = (torch.arange(len(part)) for part in (self.task_vectors, self.token_vectors))
        return Effects(self.mean, self.task_vectors, self.token_vectors, *rows)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per measure and number of observations: value, interval, null."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [MEASURES, self.observations.tolist()], names=["measure", "observations"]
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
    observations: Sequence[int] | None = None,
    per_cell: int = 32,
    resamples: int = 1000,
    null: int = 100,
    seed: int = 0,
) -> Representation:
    """Measure P0 to P3 of "Task Vector Geometry Underlies Dual Modes of Task Inference" at a layer.

    Args:
        layer: the block whose output is read; negative numbers count from the last.
        observations: numbers of observations before the state, as for `probes`; by default 2, 4,
            8, ... and the most that fit into the context.
        per_cell: test sequences for each pair of task and token, and as many others for the
            estimation of task vectors.
        resamples: number of bootstrap samples.
        null: number of draws of each null.
        seed: random seed of sequences, intervals and nulls.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist,
            sequences exceed the context, the family has one major task only, or task vectors are
            affinely dependent.
    """
    require_compatible(model, family)
    require_at_least(2, per_cell=per_cell, null=null, resamples=resamples)
    longest = max_observations(model, family)
    counts = _powers_of_two(longest) if observations is None else sorted(observations)
    options = dict(layer=layer, observations=counts[-1], per_cell=per_cell, seed=seed)
    fitted = read_probe_states(model, family, **options)
    effects, rng = fitted.effects(), np.random.default_rng(seed)
    estimates, nulls, parts = [], [], []
    for count in counts:
        test = probes(family, observations=count, per_cell=per_cell, seed=seed + 1)
        states, posterior = read_states(model, test, layer=layer), test.posterior(family)
        projections = (
            project_on_shared_simplex(states, test.token, effects),
            project_on_token_simplices(states, test.token, fitted),
        )
        weights = [projection.fit_weights() for projection in projections]
        bootstrap = dict(resamples=resamples, seed=seed)
        estimates.append(_estimate_additivity(states, test, **bootstrap))
        for projection, fit in zip(projections, weights, strict=True):
            estimates[-1] += _estimate_convexity(projection, fit, posterior, **bootstrap)
        options = dict(draws=null, rng=rng)
        nulls.append(_sample_nulls(states, test, projections, weights, posterior, **options))
        parts.append((weights[0], posterior, projections[0].states.float()))
    numbers = torch.tensor(estimates, dtype=torch.float64).transpose(0, 1)
    weights, posteriors, residuals = map(torch.stack, zip(*parts, strict=True))
    settings = {"model": model_name(model), "family": str(family), "per_cell": per_cell}
    return Representation(
        observations=torch.tensor(counts),
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


def _estimate_convexity(
    projection: SimplexProjection,
    weights: Float[Tensor, "n k"],
    posterior: Float[Tensor, "n k"],
    *,
    resamples: int,
    seed: int,
) -> list[Estimate]:
    """Estimate P2, the explained share, and P3, total variation and correlation."""
    draws = bootstrap_counts(len(weights), resamples, seed=seed)
    estimates = []
    statistics = _explained_share(projection, weights), *_posterior_agreement(weights, posterior)
    for columns, measure in statistics:
        low, high = percentiles(measure(draws @ columns))
        estimates.append((float(measure(columns.sum(0)[None])[0]), float(low), float(high)))
    return estimates


def _explained_share(projection: SimplexProjection, weights: Float[Tensor, "n k"]) -> SumStatistic:
    """1 - squared residual / squared norm."""
    columns = [projection.squared_residual(weights), projection.states.square().sum(1)]
    return torch.stack(columns, 1).numpy(), lambda sums: 1 - sums[..., 0] / sums[..., 1]


def _posterior_agreement(weights: Tensor, posterior: Tensor) -> tuple[SumStatistic, SumStatistic]:
    """Mean total variation, and Pearson correlation over all entries."""
    distance = (weights - posterior).abs().sum(1) / 2
    distances = torch.stack([distance, torch.ones_like(distance)], 1).numpy()
    a, b = weights, posterior
    products = [torch.ones_like(a), a, b, a * a, b * b, a * b]
    moments = torch.stack([product.sum(1) for product in products], 1).numpy()
    return (distances, lambda sums: sums[..., 0] / sums[..., 1]), (moments, _pearson)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, a, b, aa, bb, ab = np.moveaxis(sums, -1, 0)
    variances = (n * aa - a**2) * (n * bb - b**2)
    if (variances <= 0).any():
        raise TvlensError("weights or posterior are constant: their correlation is undefined")
    return (n * ab - a * b) / np.sqrt(variances)


def _sample_nulls(
    states: Float[Tensor, "n d"],
    probes: Probes,
    projections: Sequence[SimplexProjection],
    weights: Sequence[Float[Tensor, "n k"]],
    posterior: Float[Tensor, "n k"],
    *,
    draws: int,
    rng: np.random.Generator,
) -> Float[Tensor, "measure draw"]:
    """Sample every measure from its null distribution, as described in `Representation.nulls`."""
    centered = (states - states.mean(0)).double().numpy()
    ones = np.ones((1, len(centered)))
    samples = []
    for _ in range(draws):
        order = torch.from_numpy(rng.permutation(len(states)))
        tasks = Cells.from_labels(probes.task[order], probes.token)
        cells = Cells.from_labels(probes.task[order], probes.token[order])
        within = 1 - between_cell_share(centered, tasks, ones)[0, 0]
        sample = [within, two_way_shares(centered, cells, ones)[0, 2]]
        for projection, fit in zip(projections, weights, strict=True):
            rotated = projection.rotate_vertices(rng)
            explained = _explained_share(rotated, rotated.fit_weights())
            for columns, measure in (explained, *_posterior_agreement(fit, posterior[order])):
                sample.append(float(measure(columns.sum(0)[None])[0]))
        samples.append(sample)
    return torch.tensor(samples, dtype=torch.float64).T
