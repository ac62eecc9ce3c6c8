"""Newcomers: where do the states of new tasks lie, in the span of the known ones or outside?"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...geometry import Effects, Subspace
from ...geometry.orthogonality import Orthogonality
from ...models.loading import model_name
from ...saved import Saved
from ...stats import bootstrap_interval
from ..pool import at_least
from .predictives import check_model
from .probing import alphabet, forced, most_seen, states, task_effects

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Newcomers(Saved):
    """Mean states of new tasks against the span of the task vectors.

    Attributes:
        means: mean state of each new task, less mean and token effects.
        inside: squared length of each task's mean inside the span.
        total: squared length of each task's mean.
        angles: principal angles between the task span and the main directions of the means.
        null: smallest angles between random subspaces of the same ranks.
        rank: dimensions of the task span.
        layer: the block whose output was read.
        settings: model, family, numbers and seed.
    """

    means: Float[Tensor, "task d"]
    inside: Float[Tensor, " task"]
    total: Float[Tensor, " task"]
    angles: Float[Tensor, " angle"]
    null: Float[Tensor, " draw"]
    rank: int
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Newcomers(layer {self.layer}: {self.share:.3f} inside, chance {self.chance:.3f})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figures:
        """Shares of the single tasks, and the angles against random subspaces."""
        from .show import newcomers_figure

        return newcomers_figure(self)

    @property
    def share(self) -> float:
        """Share of the means' squared length inside the task span, all tasks together."""
        return float(self.inside.sum() / self.total.sum())

    @property
    def chance(self) -> float:
        """The share of random directions: (K - 1) / d."""
        return self.rank / self.means.shape[1]

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the share, over tasks."""
        both = torch.stack([self.inside, self.total], 1).numpy()
        return _ratio_interval(both)

    @property
    def orthogonality(self) -> Orthogonality:
        """The angles with their null."""
        rank = len(self.angles)
        ranks = (self.rank, max(rank, self.settings["directions"]))
        parts = self.angles, self.null, self.means.shape[1]
        return Orthogonality(*parts, ranks, self.settings["seed"])

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per new task: share inside, squared length."""
        import pandas as pd

        shares = self.inside / self.total
        return pd.DataFrame({"share": shares.numpy(), "squared_length": self.total.numpy()})


def newcomers(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    tasks: int = 128,
    sequences: int = 128,
    seen: int | None = None,
    directions: int | None = None,
    null: int = 1000,
    effects: Effects | None = None,
    seed: int = 0,
) -> Newcomers:
    """Share of new tasks' mean states inside the task span, and the angles between the two.

    Every new task has the same last tokens equally often, whose effects are taken out.

    Args:
        layer: the block whose output is read.
        tasks: how many fresh tasks.
        sequences: of each; rounded up to a multiple of the number of tokens.
        seen: observations before the state; as many as the context holds by default.
        directions: principal directions of the means to compare; as many as the task span has by
            default.
        null: random pairs of subspaces.
        effects: from `task_effects` of the same layer, which is called by default.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, one major task only, or
            fewer tasks than directions.
    """
    check_model(model, family)
    at_least(2, tasks=tasks)
    at_least(1, sequences=sequences)
    seen = most_seen(model, family) if seen is None else seen
    if effects is None:
        effects = task_effects(model, family, layer=layer, seen=seen, seed=seed)
    span = Subspace.span(effects.task)
    tokens = alphabet(family)
    each = -(-sequences // len(tokens)) * len(tokens)
    task = repeat(torch.arange(tasks), "task -> (task each)", each=each)
    token = torch.tensor(tokens).repeat(len(task) // len(tokens))
    probed = forced(family.fresh(tasks, seed=seed), task, token, seen=seen, seed=seed + 6)
    rest = effects.residual(states(model, probed, layer=layer), probed.token).double()
    means = rearrange(rest, "(task each) d -> task each d", task=tasks).mean(1)
    inside = span.project(means).square().sum(1)
    directions = span.rank if directions is None else directions
    main = Subspace.pca(means, rank=directions)
    compared = span.orthogonality(main, null=null, seed=seed)
    settings = {"model": model_name(model), "family": str(family), "sequences": each}
    return Newcomers(
        means,
        inside,
        means.square().sum(1),
        compared.angles,
        compared.null,
        span.rank,
        layer % model.cfg.n_layers,
        settings | {"seen": seen, "directions": directions, "seed": seed},
    )


def _ratio_interval(both: Any) -> tuple[float, float]:
    """Bootstrap interval of sum / sum, drawing rows."""
    import numpy as np

    def ratio(rows: Any, axis: int) -> Any:
        taken = both[rows.astype(int)]
        sums = taken.sum(-2 if axis == -1 else axis)
        return sums[..., 0] / sums[..., 1]

    return bootstrap_interval(np.arange(len(both)), statistic=ratio)
