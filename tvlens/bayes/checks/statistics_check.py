"""`statistics_regression`: whether states encode what a learner of a new task has estimated."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues, TvlensError
from ...geometry import Subspace
from ...integers import require_at_least
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from ..ideal_states import ReferenceKind, compute_estimate, last_observation
from ..references import learner
from ..regression import LinearRegression
from ..sequences import Data
from .states import fit_by_position, last_features, predict_by_position, state_source

if TYPE_CHECKING:
    import pandas

StatisticsMeasure = Literal["coordinates", "estimate"]
STATISTICS_MEASURES = get_args(StatisticsMeasure)

_RIDGES = tuple(10.0**k for k in range(-4, 5))
_RESAMPLES = 1000


@dataclass(frozen=True)
class StatisticsRegression(Result):
    """Cross-validated R^2 between states and the learner's estimate, by number of observations.

    The measures may be negative:

    - "coordinates": share of the variance of the state's coordinates that the statistics explain.
    - "estimate": share of the variance of the learner's estimate that is linear in the coordinates.

    Attributes:
        r_squared: by measure and number of observations.
        intervals: 95% bootstrap intervals over sequences.
        nulls: the same with the statistics of other sequences.
        observations: numbers of observations that each state has read.
        layer: the block whose output is read.
        settings: number of features, model, family, sizes and seed.
    """

    r_squared: Float[Tensor, "measure count"]
    intervals: Float[Tensor, "measure count 2"]
    nulls: Float[Tensor, "measure count draw"]
    observations: Int[Tensor, " count"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        values = ", ".join(f"{m} {float(self[m][-1]):.3f}" for m in STATISTICS_MEASURES)
        count = int(self.observations[-1])
        return f"StatisticsRegression(layer {self.layer}, {count} observations, R^2: {values})"

    def __getitem__(self, measure: StatisticsMeasure) -> Float[Tensor, " count"]:
        """Return a measure by number of observations."""
        return self.value[measure]

    @cached_property
    def value(self) -> NamedValues[Tensor]:
        """R^2 [count] by measure."""
        return NamedValues({"measure": STATISTICS_MEASURES}, self.r_squared)

    @cached_property
    def interval(self) -> NamedValues[Tensor]:
        """Intervals [count 2] by measure."""
        return NamedValues({"measure": STATISTICS_MEASURES}, self.intervals)

    @cached_property
    def null(self) -> NamedValues[Tensor]:
        """Null distributions [count draw] by measure."""
        return NamedValues({"measure": STATISTICS_MEASURES}, self.nulls)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per measure and number of observations: R^2, interval, null."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [STATISTICS_MEASURES, self.observations.tolist()], names=["measure", "observations"]
        )
        parts = [self.r_squared, *self.intervals.unbind(-1)]
        parts += [self.nulls.mean(-1), self.nulls.amax(-1)]
        names = ["r_squared", "low", "high", "null_mean", "null_max"]
        columns = {name: part.flatten() for name, part in zip(names, parts, strict=True)}
        return pd.DataFrame(columns, index).reset_index()


def statistics_regression(
    model: Any | ReferenceKind,
    family: Any,
    subspace: Subspace | None = None,
    *,
    layer: int = -1,
    observations: tuple[int, ...] | None = None,
    sequences: int = 512,
    folds: int = 5,
    null: int = 10,
    seed: int = 0,
    length: int | None = None,
) -> StatisticsRegression:
    """Regress a state's coordinates on what a learner holds, and its estimate on them.

    On new tasks, at the positions from which observations are predicted. The statistics are what a
    learner can carry after the observations that the state has read: its estimate (frequencies,
    the table of a chain, ridge weights), its prediction, and for probabilities the logarithms of
    both. What the last token or input predicts, linearly, is subtracted from coordinates,
    statistics and estimate. The ridge strength is selected within each fold.

    Args:
        model: a model, or the name of an ideal one (see `reference_states`). A perfect learner
            scores 1.
        subspace: such as `learner_subspace(...).subspace`; all coordinates by default.
        layer: the block whose output is read.
        observations: numbers of observations that the state has read; a quarter, half and all of
            the context by default.
        sequences: number of new tasks, with one sequence each and one state per number of
            observations.
        folds: number of folds of the cross-validation.
        null: number of permutations of the statistics over sequences.
        length: context of an ideal model.

    Raises:
        TvlensError: there are fewer sequences than features, the subspace has the wrong width, no
            state has read that many observations, or the ideal model is "label".
    """
    source = state_source(model, family, layer=layer, length=length)
    require_at_least(2, folds=folds, null=null)
    if subspace is not None and subspace.dim != source.width:
        raise TvlensError(
            f"the subspace lies in {subspace.dim} dimensions; the states have {source.width}"
        )
    longest = source.longest
    counts = observations or tuple(sorted({max(1, longest // 4), max(1, longest // 2), longest}))
    for count in counts:
        if not 1 <= count <= longest:
            raise TvlensError(
                f"observations must be between 1 and {longest}, not {count}: no state of a context "
                f"of {source.length} has read more"
            )
    data = family.sample(sequences, source.length, split="ood", seed=seed + 5)
    estimate = compute_estimate(family, data)
    features = _compute_statistics(family, data, estimate)
    needed = features.shape[-1] + 1
    if sequences * (folds - 1) // folds < needed:
        raise TvlensError(
            f"{sequences} sequences in {folds} folds cannot fit {needed} features: give at least "
            f"{-(-needed * folds // (folds - 1))}"
        )
    states = source.read(data).double()
    coordinates = states if subspace is None else states @ subspace.basis.double()
    last = last_features(family, data)
    parts = [
        part - predict_by_position(last, fit_by_position(last, part))
        for part in (coordinates, features, estimate)
    ]
    rng = np.random.default_rng(seed)
    values, intervals, nulls = [], [], []
    for count in counts:
        position = count - 1 + source.length - longest
        h, x, y = (part[:, position].numpy() for part in parts)
        for predictor, target in ((x, h), (h, y)):
            columns = _cross_validate(predictor, target, folds, seed)
            draws = _r_squared(bootstrap_counts(sequences, _RESAMPLES, seed=seed) @ columns)
            values.append(float(_r_squared(columns.sum(0)[None])[0]))
            intervals.append([float(end) for end in percentiles(draws)])
            permuted = [
                _cross_validate(predictor[rng.permutation(sequences)], target, folds, seed)
                for _ in range(null)
            ]
            nulls.append(_r_squared(np.stack([each.sum(0) for each in permuted])).tolist())
    shape = len(counts), len(STATISTICS_MEASURES)
    by_measure = [
        torch.tensor(part, dtype=torch.float64).unflatten(0, shape).transpose(0, 1)
        for part in (values, intervals, nulls)
    ]
    settings = {"model": source.name, "family": str(family), "features": needed - 1}
    return StatisticsRegression(
        *by_measure,
        observations=torch.tensor(counts),
        layer=source.layer,
        settings=settings | {"sequences": sequences, "folds": folds, "seed": seed},
    )


def _compute_statistics(
    family: Any, data: Data, estimate: Float[Tensor, "n position f"]
) -> Float[Tensor, "n position feature"]:
    """Compute what a learner with this estimate can carry at every position of prediction."""
    if isinstance(family, LinearRegression):
        mean = (estimate * last_observation(family, data)).sum(-1, keepdim=True)
        return torch.cat([estimate, mean], -1)
    if not hasattr(family, "alpha"):
        return estimate
    prediction = learner(family, data).predictive
    parts = [estimate] if prediction.shape == estimate.shape else [estimate, prediction]
    return torch.cat([*parts, *(part.log() for part in parts)], -1)


def _cross_validate(
    x: Float[np.ndarray, "n f"], y: Float[np.ndarray, "n t"], folds: int, seed: int
) -> Float[np.ndarray, "n 2"]:
    """Return the squared residual of every row out of sample, and its squared deviation."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    scale = x.std(0)
    x = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
    split = KFold(folds, shuffle=True, random_state=seed)
    prediction = cross_val_predict(RidgeCV(_RIDGES), x, y, cv=split).reshape(y.shape)
    parts = [((y - center) ** 2).sum(1) for center in (prediction, y.mean(0))]
    return np.stack(parts, 1)


def _r_squared(sums: Float[np.ndarray, "draw 2"]) -> Float[np.ndarray, " draw"]:
    return np.asarray(1 - sums[..., 0] / sums[..., 1])
