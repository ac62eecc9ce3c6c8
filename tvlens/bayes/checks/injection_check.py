"""`injection`: whether a model predicts the mixture whose task vectors are injected."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues, TvlensError, unknown
from ...geometry import Effects
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval
from ..distributions import kl
from ..prediction import Moments
from .model_predictions import (
    ModelPredictive,
    predict_from_last_state,
    predictive_kl,
    require_compatible,
)
from .probing import (
    Probes,
    draw_last_tokens,
    force_last_token,
    max_observations,
    read_probe_states,
)
from .simplex_projection import project_on_shared_simplex, project_on_token_simplices
from .states import state_source

if TYPE_CHECKING:
    import pandas

CONDITIONS = (
    "unsteered",
    "injected",
    "injected by token",
    "whole state",
    "most likely task",
    "random vectors",
    "geometric mixture",
)


Mixtures = Literal["random", "posterior of new tasks"]


@dataclass(frozen=True)
class Injection(Result):
    """KL in nats from the model's prediction to the mixture that was injected.

    Attributes:
        kl: by condition and sequence.
        conditions: "unsteered"; "injected", the combination of task vectors; "injected by token",
            the combination of the task vectors of each last token, which replaces the state's part
            in their span; "whole state", the same without the rest of the state: mean of the token
            plus combination; "most likely task", only the vector with the largest weight; "random
            vectors", the same combination of vectors with the same norms and angles; "geometric
            mixture", the normalized product of p_k^alpha_k without a model, which a perfect
            combination predicts where logits are linear in the state (0 for a regression, whose
            means are linear).
        layer: the block whose output is replaced.
        settings: model, family, sizes and seed.
    """

    kl: Float[Tensor, "condition n"]
    conditions: tuple[str, ...]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {mean:.3f}" for name, mean in self.mean.items())
        return f"Injection(layer {self.layer}: {means})"

    def kl_under(self, condition: str) -> Float[Tensor, " n"]:
        """Return the KL under a condition for every sequence."""
        if condition not in self.conditions:
            raise unknown("condition", condition, self.conditions)
        return self.kl[self.conditions.index(condition)]

    @cached_property
    def mean(self) -> NamedValues[float]:
        """Mean KL by condition."""
        return NamedValues({"condition": self.conditions}, (float(row.mean()) for row in self.kl))

    @cached_property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences, by condition."""
        intervals = (bootstrap_interval(row.numpy()) for row in self.kl)
        return NamedValues({"condition": self.conditions}, intervals)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per condition: mean KL, interval, n."""
        import pandas as pd

        rows = []
        for name in self.conditions:
            low, high = self.interval[name]
            rows.append({"condition": name, "kl": self.mean[name], "low": low, "high": high})
        return pd.DataFrame(rows).assign(n=self.kl.shape[1])


def injection(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    mixtures: Mixtures = "random",
    sequences: int = 512,
    observations: int | None = None,
    effects: Effects | None = None,
    per_cell: int = 32,
    seed: int = 0,
) -> Injection:
    """Replace the task part of the last state by a mixture of task vectors.

    The target is the mixture of the tasks' predictives, sum alpha_k p_k, with the same weights.
    Random weights are uniform on the simplex, alpha ~ Dir(1), and independent of the sequence's
    task. The "posterior of new tasks" is that of retrieval among the major tasks on sequences of
    new tasks, written into the state on the same sequence: does the model then predict as
    retrieval does?

    The task part is the projection of the state, after subtracting mean and token effect, onto the
    task span; "by token", the projection of the state minus the mean of its token's cells onto the
    span of these cells. At the last layer, where logits are linear in the state, even a perfect
    combination predicts the geometric mixture: that condition is then a bound, not a finding.

    Args:
        layer: the block whose output is replaced, at the last position.
        mixtures: the weights that are injected.
        sequences: number of sequences, each with a random last token and a random major task, or a
            new one.
        observations: observations before the state; by default the most that fit into the context.
        effects: effects shared by all tokens, such as those of `task_effects` at the same layer;
            estimated from the probes by default.
        per_cell: probes for each pair of task and token, from which task vectors are estimated.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            family has one major task only, or the kind of mixtures is unknown.
    """
    require_compatible(model, family)
    if mixtures not in get_args(Mixtures):
        raise unknown("kind of mixtures", mixtures, get_args(Mixtures))
    require_at_least(2, sequences=sequences)
    observations = max_observations(model, family) if observations is None else observations
    options = dict(layer=layer, observations=observations, per_cell=per_cell, seed=seed)
    fitted = read_probe_states(model, family, **options)
    effects = fitted.effects() if effects is None else effects
    sample = sample_major_probes if mixtures == "random" else _sample_new_probes
    probes, rng = sample(family, sequences, observations, seed)
    if mixtures == "random":
        alpha = torch.from_numpy(rng.dirichlet(np.ones(family.majors), sequences))
    else:
        alpha = probes.posterior(family)
    one_hot = torch.nn.functional.one_hot(alpha.argmax(1), family.majors).double()

    states = state_source(model, family, layer=layer).read_last(probes.data).double()
    shared = project_on_shared_simplex(states, probes.token, effects)
    by_token = project_on_token_simplices(states, probes.token, fitted)
    remainder, residual = states - shared.project(), by_token.states
    replacements = [
        states,
        remainder + shared.combine(alpha),
        states - by_token.project() + by_token.combine(alpha),
        states - residual + by_token.combine(alpha),
        remainder + shared.combine(one_hot),
        remainder + shared.rotate_vertices(rng).combine(alpha),
    ]
    target = probes.mixture_predictive(family, alpha)
    predict_last = predict_from_last_state(model, family, probes.data, layer)
    outputs = [predict_last(replacement) for replacement in replacements]
    outputs.append(geometric_mixture(probes, family, alpha))
    settings = {"model": model_name(model), "family": str(family), "observations": observations}
    return Injection(
        torch.stack([kl_to_last(family, output, target) for output in outputs]),
        CONDITIONS,
        layer % model.cfg.n_layers,
        settings | {"mixtures": mixtures, "seed": seed},
    )


def sample_major_probes(
    family: Any, sequences: int, observations: int, seed: int
) -> tuple[Probes, np.random.Generator]:
    """Sample sequences of random major tasks and last tokens; also returns the generator."""
    rng = np.random.default_rng(seed)
    task = torch.from_numpy(rng.integers(family.majors, size=sequences))
    return _force_random_token(family, task, observations, rng, seed)


def _sample_new_probes(
    family: Any, sequences: int, observations: int, seed: int
) -> tuple[Probes, np.random.Generator]:
    """Sample sequences of new tasks with random last tokens; also returns the generator."""
    pool = family.with_new_tasks(sequences, seed=seed)
    rng = np.random.default_rng(seed)
    return _force_random_token(pool, torch.arange(sequences), observations, rng, seed)


def _force_random_token(
    pool: Any, task: Int[Tensor, " n"], observations: int, rng: np.random.Generator, seed: int
) -> tuple[Probes, np.random.Generator]:
    token = draw_last_tokens(pool, len(task), rng)
    return force_last_token(pool, task, token, observations=observations, seed=seed + 2), rng


def geometric_mixture(
    probes: Probes, family: Any, alpha: Float[Tensor, "n major"]
) -> ModelPredictive:
    """Compute the geometric mixture of the tasks' predictives; of a regression, mix the means."""
    one_hots = torch.eye(family.majors, dtype=torch.float64)
    by_task = [probes.mixture_predictive(family, row.expand(len(alpha), -1)) for row in one_hots]
    if by_task[0].ndim == 2:
        mean: Tensor = sum(a[:, None] * mean for a, mean in zip(alpha.T, by_task, strict=True))
        return mean
    log: Tensor = sum(a[:, None, None] * p.log() for a, p in zip(alpha.T, by_task, strict=True))
    return log.softmax(-1)


def kl_to_last(family: Any, output: Tensor, target: Tensor) -> Float[Tensor, " n"]:
    """Compute the KL from the last prediction to the target."""
    if output.ndim == 2:  # means of a regression
        empty = target.new_zeros(len(target), 1, 0)
        target = Moments(empty, target, torch.full_like(target, family.noise**2))
        return predictive_kl(family, output[:, -1:], target)[:, 0]
    # Rounding can make entries slightly negative.
    divergence = kl(output[:, -1:], target.clamp(min=0))[:, 0]
    if not bool(divergence.isfinite().all()):
        raise TvlensError("a mixture of the tasks rules out an observation that the model allows")
    return divergence
