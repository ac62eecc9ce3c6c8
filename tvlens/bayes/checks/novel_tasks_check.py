"""`novel_tasks`: share of the states of new tasks inside the span of the known task vectors."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ...geometry import Effects, Subspace
from ...geometry.orthogonality import Orthogonality
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval
from .model_predictions import require_compatible
from .probing import (
    allowed_last_tokens,
    force_last_token,
    max_observations,
    read_states,
    task_effects,
)

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class NovelTasks(Result):
    """Mean states of new tasks relative to the span of the known task vectors.

    Attributes:
        means: mean state of each new task, minus mean and token effects.
        squared_norm_in_span: squared norm of each mean's projection onto the span.
        squared_norm: squared norm of each mean.
        angles: principal angles between the task span and the principal directions of the means.
        null_angles: smallest angles between random subspaces of the same ranks.
        rank: dimension of the task span.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    former_names = ("tvlens.Newcomers",)

    means: Float[Tensor, "task d"]
    squared_norm_in_span: Float[Tensor, " task"]
    squared_norm: Float[Tensor, " task"]
    angles: Float[Tensor, " angle"]
    null_angles: Float[Tensor, " draw"]
    rank: int
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"NovelTasks(layer {self.layer}: {self.share:.3f} in the span, null {self.null:.3f})"

    @property
    def share(self) -> float:
        """Share of the means' squared norm inside the task span, over all tasks."""
        return float(self.squared_norm_in_span.sum() / self.squared_norm.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the share over tasks."""
        norms = torch.stack([self.squared_norm_in_span, self.squared_norm], 1).numpy()

        def share(rows: np.ndarray, axis: int) -> np.ndarray:
            sums = norms[rows.astype(int)].sum(-2 if axis == -1 else axis)
            return sums[..., 0] / sums[..., 1]

        return bootstrap_interval(np.arange(len(norms)), statistic=share)

    @property
    def null(self) -> float:
        """Expected share of random directions: (K - 1) / d."""
        return self.rank / self.means.shape[1]

    @property
    def orthogonality(self) -> Orthogonality:
        """The angles with their null."""
        ranks = (self.rank, max(len(self.angles), self.settings["directions"]))
        width, seed = self.means.shape[1], self.settings["seed"]
        return Orthogonality(self.angles, self.null_angles, width, ranks, seed)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per new task: share inside the span, squared norm."""
        import pandas as pd

        shares = self.squared_norm_in_span / self.squared_norm
        return pd.DataFrame({"share": shares.numpy(), "squared_norm": self.squared_norm.numpy()})


def novel_tasks(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    tasks: int = 128,
    sequences: int = 128,
    observations: int | None = None,
    directions: int | None = None,
    null: int = 1000,
    effects: Effects | None = None,
    seed: int = 0,
) -> NovelTasks:
    """Measure the share of new tasks' mean states inside the task span, and the angles to it.

    Every last token is equally frequent for every new task, and token effects are subtracted.

    Args:
        layer: the block whose output is read.
        tasks: number of new tasks.
        sequences: sequences per task, rounded up to a multiple of the number of tokens.
        observations: observations before the state; by default the most that fit into the context.
        directions: number of principal directions of the means; the rank of the task span by
            default.
        null: number of random pairs of subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            family has one major task only, or there are fewer tasks than directions.
    """
    require_compatible(model, family)
    require_at_least(2, tasks=tasks)
    require_at_least(1, sequences=sequences)
    observations = max_observations(model, family) if observations is None else observations
    if effects is None:
        effects = task_effects(model, family, layer=layer, observations=observations, seed=seed)
    span = Subspace.span(effects.task)
    tokens = allowed_last_tokens(family)
    per_task = -(-sequences // len(tokens)) * len(tokens)
    task = repeat(torch.arange(tasks), "task -> (task each)", each=per_task)
    token = torch.tensor(tokens).repeat(len(task) // len(tokens))
    pool = family.with_new_tasks(tasks, seed=seed)
    probes = force_last_token(pool, task, token, observations=observations, seed=seed + 6)
    residual = effects.residual(read_states(model, probes, layer=layer), probes.token).double()
    means = rearrange(residual, "(task each) d -> task each d", task=tasks).mean(1)
    directions = span.rank if directions is None else directions
    angles = span.orthogonality(Subspace.pca(means, rank=directions), null=null, seed=seed)
    settings = {"model": model_name(model), "family": str(family), "sequences": per_task}
    settings |= {"observations": observations, "directions": directions, "seed": seed}
    return NovelTasks(
        means=means,
        squared_norm_in_span=span.project(means).square().sum(1),
        squared_norm=means.square().sum(1),
        angles=angles.angles,
        null_angles=angles.null,
        rank=span.rank,
        layer=layer % model.cfg.n_layers,
        settings=settings,
    )
