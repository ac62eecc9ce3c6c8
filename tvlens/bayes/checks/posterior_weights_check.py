"""`posterior_weights`: weights of task vectors in a state against the posterior (P2, P3)."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from ...errors import NamedValues, TvlensError, unknown
from ...integers import require_at_least
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from ..ideal_states import ReferenceKind, compute_posterior
from ..sequences import Pairs
from .convex_weights import combine_task_vectors, fit_convex_weights, fit_task_vectors
from .probing import require_several_tasks
from .states import (
    fit_by_position,
    last_features,
    predict_by_position,
    state_source,
)

if TYPE_CHECKING:
    import pandas

WeightMeasure = Literal[
    "explained share",
    "explained variance",
    "total variation",
    "correlation",
    "explained share by token",
    "explained variance by token",
    "total variation by token",
    "correlation by token",
]
WEIGHT_MEASURES = get_args(WeightMeasure)
WeightNull = Literal["label", "last observation", "other sequences"]
WEIGHT_NULLS = get_args(WeightNull)

# Mean entropy in nats below which a posterior leaves nothing to follow.
_SMALLEST_ENTROPY = 0.01
# Observations after which uncertainty counts: before, it is mostly that of the prior.
_FIRST_OBSERVATIONS = 3
# Sums of squared weights, and shares of variance, that are only rounding errors in float32.
_ROUNDING, _RELATIVE_ROUNDING = 1e-8, 1e-9
_BY_TOKEN = " by token"


@dataclass(frozen=True)
class PosteriorWeights(Result):
    """Weights of the nearest convex combination of task vectors, by sequence and position.

    Entry t of every position axis is the place from which observation t + 1 is predicted.

    The measures, by position:

    - "explained share" (P2): 1 - ``|h - nu - sum_k beta_k theta_k|^2`` over the variance of the
      state h that the last observation leaves, summed over sequences; may be negative. nu are mean
      and token effect of the position.
    - "explained variance" (P2): the same squared distance relative to the whole variance of the
      state, so that token effects count as explained.
    - "total variation" (P3): mean of half the sum over k of ``|beta_k - alpha_k|``.
    - "correlation" (P3): Pearson correlation of beta and alpha over sequences and tasks, after
      subtracting from both what the last observation predicts of them: a state that knows the last
      token only scores 0.
    - the same four "by token": the task vectors depend on the last token (or linearly on the last
      input).

    A share is NaN where the last observation determines the state, and a correlation where it
    determines alpha, as after the first token.

    Attributes:
        observations: number of observations that each position has read.
        weights: beta, for shared task vectors and for those by token.
        posterior: alpha, the Bayesian posterior over the major tasks.
        squared_residual: squared distance of each state from its combination.
        label_residual: the same with all weight on the true task.
        squared_remainder: squared distance of each state from its mean given the last observation.
        squared_deviation: squared distance of each state from the mean state of its position.
        last: last token at each position, or the last input of a regression.
        task: true task of each sequence.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    observations: Int[Tensor, " position"]
    weights: Float[Tensor, "2 n position major"]
    posterior: Float[Tensor, "n position major"]
    squared_residual: Float[Tensor, "2 n position"]
    label_residual: Float[Tensor, "2 n position"]
    squared_remainder: Float[Tensor, "n position"]
    squared_deviation: Float[Tensor, "n position"]
    last: Tensor
    task: Int[Tensor, " n"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        position = int(self.entropy.argmax())
        measures = ", ".join(f"{m} {float(self[m][position]):.3f}" for m in WEIGHT_MEASURES[-2:])
        count = int(self.observations[position])
        return f"PosteriorWeights(layer {self.layer}, {count} observations: {measures})"

    def __getitem__(self, measure: WeightMeasure) -> Float[Tensor, " position"]:
        """Return a measure by position."""
        return self.values[measure]

    @cached_property
    def values(self) -> NamedValues[Tensor]:
        """Values [position] by measure."""
        values = (_finish(m, self._columns(m).sum(0)) for m in WEIGHT_MEASURES)
        return NamedValues({"measure": WEIGHT_MEASURES}, values)

    @cached_property
    def interval(self) -> NamedValues[Tensor]:
        """95% bootstrap intervals over sequences, [position 2], by measure."""
        draws = (_finish(m, self._resample(self._columns(m))) for m in WEIGHT_MEASURES)
        intervals = (percentiles(each, axis=0).T for each in draws)
        return NamedValues({"measure": WEIGHT_MEASURES}, intervals)

    @cached_property
    def null(self) -> NamedValues[Tensor]:
        """Values [position] by measure and by reader of the sequences.

        - "label": all weight on the true task.
        - "last observation": what the last token, or linearly the last input, predicts of the
          posterior.
        - "other sequences": the posterior of another sequence at the same position.

        Only the label has explained shares; those of the others are NaN.
        """
        axes = {"measure": WEIGHT_MEASURES, "null": WEIGHT_NULLS}
        pairs = ((measure, null) for measure in WEIGHT_MEASURES for null in WEIGHT_NULLS)
        return NamedValues(axes, (_finish(m, self._columns(m, null).sum(0)) for m, null in pairs))

    @cached_property
    def entropy(self) -> Float[Tensor, " position"]:
        """Mean entropy of the posterior in nats."""
        entropy: Tensor = torch.special.entr(self.posterior.double()).sum(-1).mean(0)
        return entropy

    @property
    def uncertain_position(self) -> int:
        """Position of the largest mean entropy among those after the first two observations.

        It depends on the sequences only, not on the model.
        """
        return find_uncertain_position(self.posterior, self.observations)

    def difference(
        self, measure: WeightMeasure, other: "WeightNull | PosteriorWeights", position: int
    ) -> tuple[float, tuple[float, float]]:
        """Compute by how much a measure exceeds that of a null or of another result.

        Args:
            measure: name of the measure.
            other: name of a null, or a result on the same sequences, such as that of an ideal
                model.
            position: index of the position.

        Returns:
            The difference, and its 95% bootstrap interval over sequences, resampled in pairs.

        Raises:
            TvlensError: a name is unknown, or the other result is on other sequences.
        """
        if isinstance(other, PosteriorWeights):
            if not torch.equal(self.posterior, other.posterior):
                raise TvlensError("a difference in pairs needs two results on the same sequences")
            columns = other._columns(measure)
        elif other in WEIGHT_NULLS:
            columns = self._columns(measure, other)
        else:
            raise unknown("null", other, WEIGHT_NULLS)
        both = torch.stack([self._columns(measure)[:, position], columns[:, position]], 1)
        values, draws = (_finish(measure, s) for s in (both.sum(0), self._resample(both)))
        low, high = percentiles(draws[:, 0] - draws[:, 1])
        return float(values[0] - values[1]), (float(low), float(high))

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per measure and position: entropy, value, interval, every null."""
        import pandas as pd

        index = pd.MultiIndex.from_product(
            [WEIGHT_MEASURES, self.observations.tolist()], names=["measure", "observations"]
        )
        columns = {"entropy": self.entropy.repeat(len(WEIGHT_MEASURES))}
        columns["value"] = torch.cat(list(self.values.values()))
        columns["low"], columns["high"] = torch.cat(list(self.interval.values())).unbind(-1)
        for null in WEIGHT_NULLS:
            columns[null] = torch.cat([self.null[measure, null] for measure in WEIGHT_MEASURES])
        return pd.DataFrame({k: v.numpy() for k, v in columns.items()}, index).reset_index()

    def _columns(
        self, measure: WeightMeasure, null: WeightNull | None = None
    ) -> Float[Tensor, "n position c"]:
        """Return the contribution of every sequence to the sums that determine a measure."""
        if measure not in WEIGHT_MEASURES:
            raise unknown("measure", measure, WEIGHT_MEASURES)
        row = int(measure.endswith(_BY_TOKEN))
        if measure.startswith("explained"):
            total = self.squared_remainder if "share" in measure else self.squared_deviation
            residuals = {None: self.squared_residual[row], "label": self.label_residual[row]}
            residual = residuals.get(null, torch.full_like(total, torch.nan))
            return torch.stack([residual, total], -1).double()
        weights = self.weights[row].double() if null is None else self._null_weights(null)
        posterior = self.posterior.double()
        if measure.startswith("total"):
            distance = (weights - posterior).abs().sum(-1) / 2
            return torch.stack([distance, torch.ones_like(distance)], -1)
        a, b = (x - self._predict_from_last(x) for x in (weights, posterior))
        return torch.stack([(a * a).sum(-1), (b * b).sum(-1), (a * b).sum(-1)], -1)

    def _null_weights(self, null: WeightNull) -> Float[Tensor, "n position major"]:
        posterior = self.posterior.double()
        if null == "label":
            labels = one_hot(self.task, posterior.shape[-1]).to(posterior)
            return labels[:, None].expand_as(posterior)
        if null == "last observation":
            return self._predict_from_last(posterior)
        order = np.random.default_rng(self.settings["seed"]).permutation(len(posterior))
        return posterior[torch.from_numpy(order)]

    def _predict_from_last(
        self, values: Float[Tensor, "n position major"]
    ) -> Float[Tensor, "n position major"]:
        """Predict values from the last observation, linearly and in these sequences."""
        last = self.last if self.last.is_floating_point() else one_hot(self.last)
        features = pad(last.double(), (1, 0), value=1.0)
        return predict_by_position(features, fit_by_position(features, values))

    def _resample(self, columns: Float[Tensor, "n ..."]) -> Float[Tensor, "draw ..."]:
        """Sum over bootstrap samples of the sequences."""
        counts = bootstrap_counts(
            len(columns), self.settings["resamples"], seed=self.settings["seed"]
        )
        sums: Tensor = torch.from_numpy(counts) @ columns.flatten(1)
        unflattened: Tensor = sums.unflatten(1, columns.shape[1:])
        return unflattened


def _finish(measure: WeightMeasure, sums: Float[Tensor, "*more c"]) -> Float[Tensor, "*more"]:
    """Compute a measure from its sums over sequences."""
    if measure.startswith("correlation"):
        a, b, ab = sums.unbind(-1)
        # Rounding errors of readers or posteriors that the last observation determines.
        ratio = torch.where(a > _ROUNDING, ab / (a * b).sqrt(), 0.0)
        return torch.where(b > _ROUNDING, ratio, torch.nan)
    part, total = sums.unbind(-1)
    ratio = torch.where(total > 0, part / total, torch.nan)
    return 1 - ratio if measure.startswith("explained") else ratio


def posterior_weights(
    model: Any | ReferenceKind,
    family: Any,
    *,
    layer: int = -1,
    sequences: int = 1024,
    resamples: int = 1000,
    seed: int = 0,
    length: int | None = None,
) -> PosteriorWeights:
    """Compare the weights of task vectors in a state with the posterior at every position.

    A state is h = mean_t + token effect_t + sum_k beta_k theta_k. The task vectors theta are
    estimated at the end of the context, where the posterior is certain, on sequences with a forced
    last token (of a regression, by least squares on task and last input); mean and token effects
    at each position t by least squares of h - sum_k alpha_k theta_k on the last observation, which
    is unbiased for a model that follows the posterior and for one that knows the label. Both use
    other sequences than the measures. The weights beta are those of the nearest convex combination
    (exact constrained least squares); where several are nearest, as for a state of few dimensions,
    those closest to equal weights.

    Args:
        model: a model, or the name of an ideal one (see `reference_states`).
        layer: the block whose output is read.
        sequences: number of sequences of major tasks to measure, as many for means and token
            effects, and about as many for task vectors.
        resamples: number of bootstrap samples of the intervals.
        seed: random seed of sequences, intervals and nulls.
        length: context of an ideal model.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            family has one major task only, its posterior is certain at every position, or there
            are fewer sequences than effects.

    Example:
        >>> dice = tv.bayes.Dice(tasks=3, faces=4, seed=0)
        >>> options = dict(sequences=128, length=16)
        >>> retrieval = tv.bayes.posterior_weights("retrieval", dice, **options)
        >>> label = tv.bayes.posterior_weights("label", dice, **options)
        >>> t = retrieval.uncertain_position
        >>> bool(retrieval["correlation"][t] > 0.95 > label["correlation"][t])
        True
    """
    source = state_source(model, family, layer=layer, length=length)
    require_at_least(2, sequences=sequences, resamples=resamples)
    require_several_tasks(family)
    majors = family.with_major_tasks()
    fitted, test = (
        family.sample(sequences, source.length, split="major", seed=seed + i) for i in (7, 8)
    )
    posterior = compute_posterior(majors, test)
    observations = torch.arange(source.length) + 1 - (source.length - source.longest)
    find_uncertain_position(posterior, observations)
    vectors = fit_task_vectors(source, sequences, seed)
    states, features = source.read(fitted).double(), last_features(family, fitted)
    alpha = compute_posterior(majors, fitted)
    mean = fit_by_position(features, states)
    task_parts = [combine_task_vectors(alpha, features, theta) for theta in vectors]
    effects = [fit_by_position(features, states - part) for part in task_parts]
    states, features = source.read(test).double(), last_features(family, test)
    residuals = [states - predict_by_position(features, effect) for effect in effects]
    parts = [
        fit_convex_weights(residual, features, theta, test.task)
        for residual, theta in zip(residuals, vectors, strict=True)
    ]
    weights, squared, label = (torch.stack(part).float() for part in zip(*parts, strict=True))
    deviation = (states - states.mean(0)).square().sum(-1)
    remainder = (states - predict_by_position(features, mean)).square().sum(-1)
    # Rounding errors of states that the last observation determines.
    remainder *= remainder.sum(0) > _RELATIVE_ROUNDING * deviation.sum(0)
    last = test.inputs.float() if isinstance(test, Pairs) else test.tokens
    settings = {"model": source.name, "family": str(family), "sequences": sequences}
    return PosteriorWeights(
        observations=observations,
        weights=weights,
        posterior=posterior.float(),
        squared_residual=squared,
        label_residual=label,
        squared_remainder=remainder.float(),
        squared_deviation=deviation.float(),
        last=last,
        task=test.task,
        layer=source.layer,
        settings=settings | {"resamples": resamples, "seed": seed},
    )


def find_uncertain_position(
    posterior: Float[Tensor, "n position k"], observations: Int[Tensor, " position"]
) -> int:
    """Return the position of the largest mean entropy after the first two observations.

    Raises:
        TvlensError: the posterior is certain at all of them, or there are none.
    """
    entropy = torch.special.entr(posterior.double()).sum(-1).mean(0)
    entropy = torch.where(observations >= _FIRST_OBSERVATIONS, entropy, 0.0)
    position = int(entropy.argmax())
    if float(entropy[position]) < _SMALLEST_ENTROPY:
        raise TvlensError(
            "no uncertainty at any position after the first two observations: the mean entropy of "
            f"the posterior is at most {float(entropy[position]):.1g} nats"
        )
    return position
