"""`ablation`: the cost of removing the task span from a model's states, on known and new tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...activations import collect
from ...errors import NamedValues
from ...geometry import Effects, Subspace
from ...geometry.ablation import Mode
from ...integers import require_at_least
from ...models.forward import Batch
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval, permutation_p_value
from ..pool import Split
from ..sequences import Data
from .model_predictions import (
    Edit,
    default_splits,
    edited_forward,
    inputs_within_context,
    max_length,
    model_inputs,
    next_observation_cost,
    require_compatible,
    to_predictive,
)
from .probing import task_effects

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Ablation(Result):
    """Increase of the cost of the next observation, in nats, when a subspace is removed.

    Attributes:
        cost_increase: mean over positions, for every sequence of each split.
        null: mean increase when random subspaces of the same rank are removed.
        splits: names of the splits.
        rank: dimension of the subspace.
        layer: the block whose output is edited, at all positions.
        settings: subspace, model, family, mode, sizes and seed.
    """

    former_names = ("tvlens.Removal",)

    cost_increase: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
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
        """Share of random subspaces of the same rank whose removal costs at least as much."""
        pairs = zip(self.null, self.mean.values(), strict=True)
        p_values = (permutation_p_value(null, mean) for null, mean in pairs)
        return NamedValues({"split": self.splits}, p_values)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split: mean increase, interval, mean and maximum of the null."""
        import pandas as pd

        rows = []
        for split, null in zip(self.splits, self.null, strict=True):
            low, high = self.interval[split]
            row = {"split": split, "cost_increase": self.mean[split], "low": low, "high": high}
            row |= {"null_mean": float(null.mean()), "null_max": float(null.max())}
            rows.append(row | {"p_value": self.p_value[split]})
        return pd.DataFrame(rows)


def ablation(
    model: Any,
    family: Any,
    *,
    subspace: Subspace | None = None,
    inside: Subspace | None = None,
    layer: int = -1,
    mode: Mode = "mean",
    splits: Sequence[Split] | None = None,
    sequences: int = 256,
    null: int = 20,
    effects: Effects | None = None,
    seed: int = 0,
) -> Ablation:
    """Remove a subspace from a block's output at every position and measure the cost.

    Args:
        subspace: the subspace to remove; the span of the task vectors by default.
        inside: subspace from which the random subspaces of the null are sampled; the whole space
            by default.
        layer: the block.
        mode: replacement of the removed part: "mean" (of training sequences), "zero" or "resample".
        splits: "major", "minor" if the family has minors, and "ood" by default.
        sequences: number of sequences per split.
        null: number of random subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, or the
            mode is unknown.
    """
    require_compatible(model, family)
    require_at_least(2, sequences=sequences, null=null)
    splits = default_splits(family) if splits is None else splits
    name = "the given subspace"
    if subspace is None:
        name = "the task span"
        effects = effects or task_effects(model, family, layer=layer, seed=seed)
        subspace = Subspace.span(effects.task)
    length = max_length(model, family)
    mean = compute_mean_state(model, family.sample(sequences, length, seed=seed), layer=layer)
    options = dict(mode=mode, mean=mean.float(), seed=seed)
    random_subspaces = [_random_subspace(inside, subspace, seed + i) for i in range(null)]

    increases, null_increases = [], []
    for split in splits:
        data = family.sample(sequences, length, split=split, seed=seed + 3)
        cost = _make_cost(model, family, data, layer)
        baseline = cost(lambda h: h)
        hooks = [space.hook(model, layer, **options)[1] for space in (subspace, *random_subspaces)]
        ablated = [cost(partial(hook, hook=None)) for hook in hooks]
        increases.append(ablated[0] - baseline)
        null_increases.append(torch.stack([(each - baseline).mean() for each in ablated[1:]]))
    settings = {"subspace": name, "mode": mode, "model": model_name(model), "family": str(family)}
    return Ablation(
        cost_increase=torch.stack(increases),
        null=torch.stack(null_increases),
        splits=tuple(splits),
        rank=subspace.rank,
        layer=layer % model.cfg.n_layers,
        settings=settings | {"sequences": sequences, "seed": seed},
    )


def compute_mean_state(model: Any, data: Data, *, layer: int) -> Float[Tensor, " d"]:
    """Average a block's output over sequences and positions."""
    options = dict(layers=layer, batch_size=256, progress=False)
    (states,) = collect(model, model_inputs(data), "resid_post", **options).tensors.values()
    return states.double().mean((0, 1))


def _random_subspace(inside: Subspace | None, like: Subspace, seed: int) -> Subspace:
    """Sample a subspace of the same rank, within another one.

    It is sampled in the whole space and projected, so that the result does not depend on the basis
    of `inside`.
    """
    sampled = Subspace.random(like.dim, like.rank, seed=seed)
    return sampled if inside is None else Subspace.span(inside.project(sampled.basis.T.double()))


def _make_cost(
    model: Any, family: Any, data: Data, layer: int
) -> Callable[[Edit], Float[Tensor, " n"]]:
    """Return the mean cost over positions as a function of an edit of the block's output."""
    forward = edited_forward(model, Batch.of(model, inputs_within_context(model, data)), layer)

    def cost(edit: Edit) -> Float[Tensor, " n"]:
        with torch.no_grad():
            predictive = to_predictive(family, forward(edit)).cpu()
        return next_observation_cost(family, predictive, data).mean(1)

    return cost
