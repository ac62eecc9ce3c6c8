"""`novel_tasks`: share of the states of new tasks inside the span of the known task vectors."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ...errors import NamedValues
from ...geometry import Effects, Subspace, balanced_effects
from ...geometry.orthogonality import Orthogonality
from ...integers import require_at_least
from ...results import Result
from ...stats import bootstrap_counts, percentiles
from ..ideal_states import ReferenceKind
from .probing import Probes, ProbeStates, allowed_last_tokens, force_last_token, probes
from .states import StateSource, state_source

if TYPE_CHECKING:
    import pandas

# Codes of a perfect learner: its estimate, and the logarithm of its estimate (of probabilities).
LearnerCode = Literal["estimate", "logarithm"]
_RESAMPLES = 2000


@dataclass(frozen=True)
class NovelTasks(Result):
    """Mean states of new tasks relative to the span of the known task vectors.

    The null is a perfect learner: the mean states of new tasks lie partly inside the span of the
    known ones for any code of the estimated task, because the code has few dimensions (5 for a die
    of 6 faces).

    Attributes:
        means: mean state of each new task, minus mean and token effects.
        squared_norm_in_span: squared norm of each mean's projection onto the span.
        squared_norm: squared norm of each mean.
        learner_in_span, learner_norm: the same two for the codes of a perfect learner.
        codes: "estimate", and "logarithm" where the estimate is of probabilities.
        angles: principal angles between the task span and the principal directions of the means;
            none where the states have no further dimensions.
        null_angles: smallest angles between random subspaces of the same ranks.
        rank: dimension of the task span.
        layer: the block whose output is read.
        settings: model, family, sizes and seed.
    """

    former_names = ("tvlens.Newcomers",)

    means: Float[Tensor, "task d"]
    squared_norm_in_span: Float[Tensor, " task"]
    squared_norm: Float[Tensor, " task"]
    learner_in_span: Float[Tensor, "code task"]
    learner_norm: Float[Tensor, "code task"]
    codes: tuple[str, ...]
    angles: Float[Tensor, " angle"]
    null_angles: Float[Tensor, " draw"]
    rank: int
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"NovelTasks(layer {self.layer}: {self.share:.3f} in the span, a learner "
            f"{self.null:.3f})"
        )

    @property
    def share(self) -> float:
        """Share of the means' squared norm inside the task span, over all tasks."""
        return float(self.squared_norm_in_span.sum() / self.squared_norm.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the share over tasks."""
        low, high = percentiles(self._resample(self.squared_norm_in_span, self.squared_norm))
        return float(low), float(high)

    @cached_property
    def learner_share(self) -> NamedValues[float]:
        """Share inside the span of its own known task vectors, by code of a perfect learner."""
        shares = self.learner_in_span.sum(1) / self.learner_norm.sum(1)
        return NamedValues({"code": self.codes}, shares.tolist())

    @property
    def null(self) -> float:
        """Smallest share of a perfect learner over its codes."""
        return min(self.learner_share.values())

    @property
    def random_share(self) -> float:
        """Expected share of random directions: (K - 1) / d."""
        return self.rank / self.means.shape[1]

    def difference(self, code: LearnerCode = "estimate") -> tuple[float, tuple[float, float]]:
        """Compute the share minus that of a perfect learner.

        Returns:
            The difference, and its 95% bootstrap interval over tasks, resampled in pairs.
        """
        learner_share = self.learner_share[code]
        row = self.codes.index(code)
        draws = self._resample(self.squared_norm_in_span, self.squared_norm)
        learner_draws = self._resample(self.learner_in_span[row], self.learner_norm[row])
        low, high = percentiles(draws - learner_draws)
        return self.share - learner_share, (float(low), float(high))

    @property
    def orthogonality(self) -> Orthogonality:
        """The angles with their null."""
        ranks = (self.rank, max(len(self.angles), self.settings["directions"]))
        width, seed = self.means.shape[1], self.settings["seed"]
        return Orthogonality(self.angles, self.null_angles, width, ranks, seed)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per new task: share inside the span, squared norm, shares of a learner."""
        import pandas as pd

        shares = self.squared_norm_in_span / self.squared_norm
        columns = {"share": shares, "squared_norm": self.squared_norm}
        learner_shares = self.learner_in_span / self.learner_norm
        columns |= {f"learner, {c}": s for c, s in zip(self.codes, learner_shares, strict=True)}
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})

    def _resample(
        self, inside: Float[Tensor, " task"], total: Float[Tensor, " task"]
    ) -> Float[np.ndarray, " draw"]:
        counts = bootstrap_counts(len(total), _RESAMPLES, seed=0)
        sums = counts @ inside.double().numpy(), counts @ total.double().numpy()
        return np.asarray(sums[0] / sums[1])


def novel_tasks(
    model: Any | ReferenceKind,
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
    length: int | None = None,
) -> NovelTasks:
    """Measure the share of new tasks' mean states inside the task span, and the angles to it.

    Every last token is equally frequent for every new task, and token effects are subtracted. A
    perfect learner on the same sequences is the null.

    Args:
        model: a model, or the name of an ideal one (see `reference_states`).
        layer: the block whose output is read.
        tasks: number of new tasks.
        sequences: sequences per task, rounded up to a multiple of the number of tokens.
        observations: observations before the state; by default the most that fit into the context.
        directions: number of principal directions of the means; the rank of the task span by
            default, or as many as fit beside it.
        null: number of random pairs of subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.
        length: context of an ideal model.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            family has one major task only, there are fewer tasks than directions, or the ideal
            model is "label".
    """
    source = state_source(model, family, layer=layer, length=length)
    require_at_least(2, tasks=tasks)
    require_at_least(1, sequences=sequences)
    observations = source.longest if observations is None else observations
    known = probes(family, observations=observations, per_cell=32, seed=seed)
    if effects is None:
        effects = ProbeStates.read(source, known).effects()
    tokens = allowed_last_tokens(family)
    per_task = -(-sequences // len(tokens)) * len(tokens)
    task = repeat(torch.arange(tasks), "task -> (task each)", each=per_task)
    token = torch.tensor(tokens).repeat(len(task) // len(tokens))
    pool = family.with_new_tasks(tasks, seed=seed)
    sampled = force_last_token(pool, task, token, observations=observations, seed=seed + 6)
    # Indices of new tasks are no labels of known ones.
    data = replace(sampled.data, task=torch.full_like(task, -1))
    new = replace(sampled, data=data)

    span = Subspace.span(effects.task)
    means = _mean_states(source.read_last(new.data), new, effects)
    codes = _learner_codes(family, source.length, known, new)
    learner_parts = []
    for known_states, new_states in codes.values():
        learner_effects = balanced_effects(known_states, known.task, known.token)
        learner_means = _mean_states(new_states, new, learner_effects)
        inside = Subspace.span(learner_effects.task).project(learner_means)
        learner_parts.append((inside.square().sum(1), learner_means.square().sum(1)))
    in_span, norm = map(torch.stack, zip(*learner_parts, strict=True))
    directions = min(span.rank if directions is None else directions, source.width - span.rank)
    angles = null_angles = torch.zeros(0)
    if directions > 0:
        principal = Subspace.pca(means, rank=directions)
        orthogonality = span.orthogonality(principal, null=null, seed=seed)
        angles, null_angles = orthogonality.angles, orthogonality.null
    settings = {"model": source.name, "family": str(family), "sequences": per_task}
    settings |= {"observations": observations, "directions": directions, "seed": seed}
    return NovelTasks(
        means=means,
        squared_norm_in_span=span.project(means).square().sum(1),
        squared_norm=means.square().sum(1),
        learner_in_span=in_span,
        learner_norm=norm,
        codes=tuple(codes),
        angles=angles,
        null_angles=null_angles,
        rank=span.rank,
        layer=source.layer,
        settings=settings,
    )


def _mean_states(
    states: Float[Tensor, "n d"], probes: Probes, effects: Effects
) -> Float[Tensor, "task d"]:
    """Average the states of each new task after subtracting mean and token effects."""
    residual = effects.residual(states, probes.token).double()
    n_tasks = len(probes.task.unique())
    return rearrange(residual, "(task each) d -> task each d", task=n_tasks).mean(1)


def _learner_codes(
    family: Any, length: int, known: Probes, new: Probes
) -> dict[LearnerCode, tuple[Tensor, Tensor]]:
    """Compute the states of a perfect learner on known and on new tasks, by code."""
    source: StateSource = state_source("learner", family, length=length)
    states = source.read_last(known.data), source.read_last(new.data)
    codes: dict[LearnerCode, tuple[Tensor, Tensor]] = {"estimate": states}
    if hasattr(family, "alpha"):
        width = source.width - family.vocabulary
        codes["logarithm"] = states[0][:, :width].log(), states[1][:, :width].log()
    return codes
