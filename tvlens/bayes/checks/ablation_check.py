"""`ablation`: the cost of removing the task span from a model's states, on known and new tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import NamedValues, TvlensError
from ...geometry import Effects, Subspace
from ...geometry.ablation import Mode
from ...integers import require_at_least
from ...models.forward import Batch
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval, permutation_p_value
from ..pool import Split
from ..sequences import Data
from .matched_subspaces import covariance, matched_subspaces, variance_inside
from .model_predictions import (
    Edit,
    default_splits,
    edited_forward,
    inputs_within_context,
    max_length,
    next_observation_cost,
    require_compatible,
    to_predictive,
)
from .position_means import PositionMeans, fit_position_means, read_all_states
from .probing import task_effects, task_span

if TYPE_CHECKING:
    import pandas


# Fewest sequences from which mean and token effects of each position are fitted.
_MIN_FIT_SEQUENCES = 256


@dataclass(frozen=True)
class Ablation(Result):
    """Increase of the cost of the next observation, in nats, when a subspace is removed.

    Attributes:
        cost_increase: mean over positions, for every sequence of each split.
        null: mean increase when random subspaces that hold as much variance are removed.
        variance: variance of the states inside the removed subspace, by split.
        null_variance: variance inside each random subspace, by split.
        splits: names of the splits.
        rank: dimension of the subspace.
        layer: the block whose output is edited, at all positions.
        settings: subspace, model, family, mode, sizes and seed.
    """

    former_names = ("tvlens.Removal",)

    cost_increase: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
    variance: Float[Tensor, " split"]
    null_variance: Float[Tensor, "split draw"]
    splits: tuple[str, ...]
    rank: int
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        means = ", ".join(f"{split} {mean:+.3f}" for split, mean in self.mean.items())
        return f"Ablation({self.settings.get('subspace', 'subspace')}, layer {self.layer}: {means})"

    @cached_property
    def mean(self) -> NamedValues[float]:
        """Mean increase by split."""
        return NamedValues(
            {"split": self.splits}, (float(row.mean()) for row in self.cost_increase)
        )

    @cached_property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences, by split."""
        intervals = (bootstrap_interval(row.numpy()) for row in self.cost_increase)
        return NamedValues({"split": self.splits}, intervals)

    @cached_property
    def p_value(self) -> NamedValues[float]:
        """Share of random subspaces of the same variance whose removal costs at least as much."""
        pairs = zip(self.null, self.mean.values(), strict=True)
        p_values = (permutation_p_value(null, mean) for null, mean in pairs)
        return NamedValues({"split": self.splits}, p_values)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split: mean increase, interval, null, and the removed variances."""
        import pandas as pd

        rows = []
        for i, (split, null) in enumerate(zip(self.splits, self.null, strict=True)):
            low, high = self.interval[split]
            row = {"split": split, "cost_increase": self.mean[split], "low": low, "high": high}
            row |= {"null_mean": float(null.mean()), "null_max": float(null.max())}
            row |= {"p_value": self.p_value[split], "variance": float(self.variance[i])}
            rows.append(row | {"null_variance": float(self.null_variance[i].mean())})
        return pd.DataFrame(rows)


def ablation(
    model: Any,
    family: Any,
    *,
    subspace: Subspace | None = None,
    inside: Subspace | None = None,
    layer: int = -1,
    mode: Mode = "mean",
    by_token: bool = False,
    splits: Sequence[Split] | None = None,
    sequences: int = 256,
    null: int = 20,
    effects: Effects | None = None,
    seed: int = 0,
) -> Ablation:
    """Remove a subspace from a block's output at every position and measure the cost.

    The removal is corrected for tokens: the part of the state minus mean and token effect of its
    position (`PositionMeans`) that lies in the subspace is removed, so that token effects, which
    overlap with the task span, remain.

    The null removes random subspaces of the same variance instead: spans of C^s Z, where C is the
    covariance of the corrected states of the split outside the removed subspace, Z is standard
    normal and s is set by bisection, so that the removed variance equals that of the subspace
    within 1%. The rank is the same where the states allow it; where directions distributed as the
    states (s = 1/2) hold too little variance, further ones are added, up to all that is outside,
    which is then removed in every draw: `null_variance` below `variance` shows this.

    Args:
        subspace: the subspace to remove; the span of the task vectors by default.
        inside: subspace from which the random subspaces of the null are sampled; the whole space
            by default. The part outside the removed subspace is used.
        layer: the block.
        mode: replacement of the removed part: "mean" (of the position and its token), "zero" (also
            of token effects) or "resample" (the part of another sequence).
        by_token: whether the task span is that of separate task vectors for each last token.
        splits: "major", "minor" if the family has minors, and "ood" by default.
        sequences: number of sequences per split.
        null: number of random subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.
        seed: seed of sequences and random subspaces.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            mode is unknown, or the subspace is all of `inside`.
    """
    require_compatible(model, family)
    require_at_least(2, sequences=sequences, null=null)
    splits = default_splits(family) if splits is None else splits
    effects = effects or task_effects(model, family, layer=layer, seed=seed)
    name = "the given subspace"
    if subspace is None:
        name = "the task span"
        options = dict(layer=layer, effects=effects, by_token=by_token, seed=seed)
        subspace = task_span(model, family, **options)
    rest = orthogonal_rest(subspace, inside)
    length = max_length(model, family)
    means = mean_states(model, family, sequences, layer=layer, effects=effects, seed=seed)

    results = []
    for split in splits:
        data = family.sample(sequences, length, split=split, seed=seed + 3)
        mean = means.at(data)
        moments = covariance(read_all_states(model, data, layer=layer) - mean)
        random_subspaces = matched_subspaces(subspace, moments, inside=rest, draws=null, seed=seed)
        cost = make_cost(model, family, data, layer)
        options = dict(mode=mode, mean=mean.float(), seed=seed)
        spaces = (subspace, *random_subspaces)
        # Where the random subspaces are all that is outside, they are one object.
        hooks = {id(space): space.hook(model, layer, **options)[1] for space in spaces}
        baseline = cost(lambda h: h)
        increase = {key: cost(partial(hook, hook=None)) - baseline for key, hook in hooks.items()}
        increases = torch.stack([increase[id(space)] for space in spaces])
        variances = torch.tensor([variance_inside(space, moments) for space in spaces])
        results.append((increases[0], increases[1:].mean(1), variances[0], variances[1:]))
    settings = {"subspace": name, "mode": mode, "model": model_name(model), "family": str(family)}
    return Ablation(
        *(torch.stack(column) for column in zip(*results, strict=True)),
        splits=tuple(splits),
        rank=subspace.rank,
        layer=layer % model.cfg.n_layers,
        settings=settings | {"sequences": sequences, "seed": seed},
    )


def mean_states(
    model: Any, family: Any, sequences: int, *, layer: int, effects: Effects, seed: int
) -> PositionMeans:
    """Fit mean and token effects on sequences of the training mixture that fill the context."""
    count = max(sequences, _MIN_FIT_SEQUENCES)
    data = family.sample(count, max_length(model, family), seed=seed)
    return fit_position_means(model, family, data, layer=layer, effects=effects)


def orthogonal_rest(subspace: Subspace, inside: Subspace | None = None) -> Subspace:
    """Return the part of a subspace, or of the whole space, that is orthogonal to another one."""
    outside = subspace.complement()
    if inside is None:
        return outside
    if inside.rank <= subspace.rank:
        raise TvlensError(
            f"nothing is left of {inside.rank} dimensions outside the {subspace.rank} removed ones"
        )
    # Directions of `inside` that are removed have a norm of 0, up to rounding.
    _, norms, axes = torch.linalg.svd(outside.project(inside.basis.T.double()), full_matrices=False)
    return Subspace(axes[: int((norms > 1e-3).sum())].T)


def make_cost(
    model: Any, family: Any, data: Data, layer: int
) -> Callable[[Edit], Float[Tensor, " n"]]:
    """Return the mean cost over positions as a function of an edit of the block's output."""
    forward = edited_forward(model, Batch.of(model, inputs_within_context(model, data)), layer)

    def cost(edit: Edit) -> Float[Tensor, " n"]:
        with torch.no_grad():
            predictive = to_predictive(family, forward(edit)).cpu()
        return next_observation_cost(family, predictive, data).mean(1)

    return cost
