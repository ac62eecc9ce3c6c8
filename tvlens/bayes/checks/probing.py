"""`probes`: balanced sequences with a forced last observation, which separate task from token."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import TvlensError
from ...geometry import Effects, Subspace, balanced_effects
from ...geometry.cells import Cells
from ...integers import require_at_least
from ..dyck import Dyck
from ..ideal_states import ReferenceKind, compute_posterior
from ..regression import LinearRegression
from ..sequences import Pairs, Sequences
from .model_predictions import ModelPredictive, max_length, model_inputs
from .states import StateSource, state_source

# Number of fixed last inputs of a regression, whose inputs are continuous: x and -x in pairs.
_N_FIXED_INPUTS = 8


@dataclass(frozen=True)
class Probes:
    """Sequences with a given task and last token.

    Attributes:
        data: the sequences; the last target of a regression is not read.
        task: index of each sequence's task in its pool.
        token: the forced last token; of a regression, the index of the fixed last input.
    """

    data: Sequences | Pairs
    task: Int[Tensor, " n"]
    token: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.task)

    def posterior(self, family: Any) -> Float[Tensor, "n major"]:
        """Compute the Bayesian posterior over the major tasks at the last position."""
        return compute_posterior(family.with_major_tasks(), self.data)[:, -1]

    def mixture_predictive(self, family: Any, weights: Float[Tensor, "n major"]) -> ModelPredictive:
        """Compute the predictive of a mixture of the major tasks, [n 1 vocab] or [n 1]."""
        is_regression = isinstance(self.data, Pairs)
        length = len(self.data.targets[0]) if is_regression else model_inputs(self.data).shape[1]
        weights = weights[:, None].double().expand(-1, length, -1)
        predictive = family.with_major_tasks().mixture_predictive(weights, self.data)
        last: Tensor = (predictive.mean if is_regression else predictive)[:, -1:]
        return last


@dataclass(frozen=True)
class ProbeStates:
    """States of a model at the last position of probes.

    Attributes:
        values: the states.
        task: task of each probe.
        token: last token of each probe.
    """

    values: Float[Tensor, "n d"]
    task: Int[Tensor, " n"]
    token: Int[Tensor, " n"]

    @classmethod
    def read(cls, source: StateSource, probes: Probes) -> "ProbeStates":
        """Read the states of probes."""
        return cls(source.read_last(probes.data), probes.task, probes.token)

    def effects(self) -> Effects:
        """Compute mean, task vectors and token effects."""
        return balanced_effects(self.values, self.task, self.token)

    def token_task_vectors(self) -> Float[Tensor, "token task d"]:
        """Compute the mean state of each task and token minus the mean of the token."""
        means = Cells.from_labels(self.task, self.token).means(self.values.double())
        return rearrange(means - means.mean(0), "task token d -> token task d")


def probes(family: Any, *, observations: int, per_cell: int, seed: int = 0) -> Probes:
    """Sample `per_cell` sequences for every pair of a major task and a last token.

    Args:
        observations: tokens per sequence, including the forced one; of a regression, complete
            pairs before the forced input.
        per_cell: sequences for each pair of task and token.
        seed: random seed of the sequences.

    Raises:
        TvlensError: the family has one major task only, or a number is below 1.
    """
    require_at_least(1, observations=observations, per_cell=per_cell)
    require_several_tasks(family)
    tokens = allowed_last_tokens(family)
    task = torch.arange(family.majors).repeat_interleave(len(tokens) * per_cell)
    token = torch.tensor(tokens).repeat(family.majors * per_cell)
    return force_last_token(family, task, token, observations=observations, seed=seed)


def require_several_tasks(family: Any) -> None:
    """Raise TvlensError where there is one major task only."""
    if family.majors < 2:
        raise TvlensError(f"{family} has one major task: at least two are needed to compare tasks")


def force_last_token(
    pool: Any, task: Int[Tensor, " n"], token: Int[Tensor, " n"], *, observations: int, seed: int
) -> Probes:
    """Sample one sequence for each given task and last token."""
    if isinstance(pool, LinearRegression):
        data = pool.sample_tasks(task, observations + 1, seed=seed)
        inputs = data.inputs.clone()
        inputs[:, -1] = _fixed_inputs(pool.dim)[token]
        return Probes(replace(data, inputs=inputs), task, token)
    data = pool.sample_tasks(task, observations, seed=seed)
    tokens = data.tokens.clone()
    tokens[:, -1] = token
    return Probes(replace(data, tokens=tokens), task, token)


def allowed_last_tokens(family: Any) -> list[int]:
    """List the tokens that can be forced: brackets of `Dyck` are not, as they rule out tasks."""
    if isinstance(family, LinearRegression):
        return list(range(_N_FIXED_INPUTS))
    return list(range(family.symbols if isinstance(family, Dyck) else family.vocabulary))


def draw_last_tokens(family: Any, count: int, rng: np.random.Generator) -> Int[Tensor, " n"]:
    """Draw last tokens, uniformly among those that can be forced."""
    tokens = torch.tensor(allowed_last_tokens(family))
    return tokens[torch.from_numpy(rng.integers(len(tokens), size=count))]


def read_probe_states(
    model: Any | ReferenceKind,
    family: Any,
    *,
    layer: int = -1,
    observations: int,
    per_cell: int,
    seed: int,
    length: int | None = None,
) -> ProbeStates:
    """Sample probes and read the states of a model, or of an ideal one, at their last position."""
    source = state_source(model, family, layer=layer, length=length)
    sampled = probes(family, observations=observations, per_cell=per_cell, seed=seed)
    return ProbeStates.read(source, sampled)


def task_effects(
    model: Any | ReferenceKind,
    family: Any,
    *,
    layer: int = -1,
    observations: int | None = None,
    per_cell: int = 32,
    seed: int = 0,
    length: int | None = None,
) -> Effects:
    """Estimate mean, task vectors and token effects of a model's states from balanced probes.

    Args:
        model: a model, or the name of an ideal one (see `reference_states`).
        layer: the block whose output is read; negative numbers count from the last.
        observations: observations per probe, as for `probes`; by default the most that fit into
            the context.
        per_cell: sequences for each pair of task and token.
        length: context of an ideal model.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist,
            sequences exceed the context, or the family has one major task only.
    """
    source = state_source(model, family, layer=layer, length=length)
    observations = source.longest if observations is None else observations
    sampled = probes(family, observations=observations, per_cell=per_cell, seed=seed)
    return ProbeStates.read(source, sampled).effects()


def task_span(
    model: Any,
    family: Any,
    *,
    layer: int,
    effects: Effects,
    by_token: bool = False,
    seed: int = 0,
) -> Subspace:
    """Return the span of the task vectors, or of the separate task vectors of all last tokens.

    Where the answer depends on the token, as in Markov chains, a task vector shared by all tokens
    holds little of what a state says about the task.

    Args:
        layer: the block whose output is read.
        effects: result of `task_effects` at the same layer.
        by_token: whether to use separate task vectors for each last token.
        seed: seed of the probes from which these are estimated.
    """
    if not by_token:
        return Subspace.span(effects.task)
    options = dict(observations=max_observations(model, family), per_cell=32, seed=seed)
    fitted = read_probe_states(model, family, layer=layer, **options)
    return Subspace.span(fitted.token_task_vectors().flatten(0, 1))


def max_observations(model: Any, family: Any) -> int:
    """Return the number of observations of a probe that fills the model's context."""
    return max_length(model, family) - isinstance(family, LinearRegression)


def _fixed_inputs(dim: int) -> Float[Tensor, "input dim"]:
    """Return the fixed last inputs, equal for every model, family and seed; their mean is 0."""
    half = torch.from_numpy(np.random.default_rng(0).standard_normal((_N_FIXED_INPUTS // 2, dim)))
    return torch.cat([half, -half])
