"""Probes: balanced sequences whose last observation is forced, so task and token do not mix."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...activations import collect
from ...errors import TvlensError
from ...geometry import Effects, balanced_effects
from ..dyck import Dyck
from ..pool import at_least
from ..references import retrieval
from ..regression import LinearRegression
from ..sequences import Pairs, Sequences
from .predictives import Predicted, check_model, fitting_inputs, inputs_of, longest

# Inputs that stand in for tokens in a regression, whose x is never twice the same.
_INPUTS = 8


@dataclass(frozen=True)
class Probes:
    """Sequences whose task and last token are chosen.

    Attributes:
        data: the sequences; of a regression, the last target is not read.
        task: index of each sequence's task in its pool.
        token: the forced last token; of a regression, which of the fixed inputs comes last.
    """

    data: Sequences | Pairs
    task: Int[Tensor, " n"]
    token: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.task)

    def posterior(self, family: Any) -> Float[Tensor, "n major"]:
        """Bayes over the major tasks after all that is read."""
        found = retrieval(family.known(), self.data).posterior
        # The last pair of a regression is not complete.
        return found[:, -2 if isinstance(self.data, Pairs) else -1]

    def mixed(self, family: Any, weights: Float[Tensor, "n major"]) -> Predicted:
        """What a mixture of the major tasks with these weights predicts next, [n 1 vocab] or
        [n 1]."""
        length = inputs_of(self.data).shape[1]
        spread = weights[:, None].double().expand(-1, length, -1)
        if isinstance(self.data, Pairs):
            spread = weights[:, None].double().expand(-1, len(self.data.targets[0]), -1)
            return family.known().mixture(spread, self.data).mean[:, -1:]
        return family.known().mixture(spread, self.data)[:, -1:]


def probes(family: Any, *, seen: int, per_cell: int, seed: int = 0) -> Probes:
    """Every major task with every token, `per_cell` sequences each, none of them shared.

    Args:
        seen: tokens in a sequence, the forced one included; complete pairs before the forced
            input of a regression.
        per_cell: sequences for each pair of task and token.
        seed: of the sequences.

    Raises:
        TvlensError: one major task only, or no sequence.
    """
    at_least(1, seen=seen, per_cell=per_cell)
    if family.majors < 2:
        raise TvlensError(f"{family} has one major task: there is nothing to tell it from")
    tokens = alphabet(family)
    task = torch.arange(family.majors).repeat_interleave(len(tokens) * per_cell)
    token = torch.tensor(tokens).repeat(family.majors * per_cell)
    return forced(family, task, token, seen=seen, seed=seed)


def forced(
    pool: Any, task: Int[Tensor, " n"], token: Int[Tensor, " n"], *, seen: int, seed: int
) -> Probes:
    """One sequence for each chosen task and last token."""
    if isinstance(pool, LinearRegression):
        data = pool.sample_tasks(task, seen + 1, seed=seed)
        inputs = data.inputs.clone()
        inputs[:, -1] = _fixed_inputs(pool.dim)[token]
        return Probes(replace(data, inputs=inputs), task, token)
    data = pool.sample_tasks(task, seen, seed=seed)
    tokens = data.tokens.clone()
    tokens[:, -1] = token
    return Probes(replace(data, tokens=tokens), task, token)


def alphabet(family: Any) -> list[int]:
    """The tokens that may be forced: a bracket at the wrong place would rule out every task."""
    if isinstance(family, LinearRegression):
        return list(range(_INPUTS))
    return list(range(family.symbols if isinstance(family, Dyck) else family.vocabulary))


def states(
    model: Any, probed: Probes, *, layer: int, batch_size: int = 256
) -> Float[Tensor, "n d"]:
    """The model's state at the last position of every probe, behind a block."""
    rows = fitting_inputs(model, probed.data)
    options = dict(layers=layer, positions=-1, batch_size=batch_size, progress=False)
    (found,) = collect(model, rows, "resid_post", **options).tensors.values()
    return found[:, 0]


def task_effects(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    seen: int | None = None,
    per_cell: int = 32,
    seed: int = 0,
) -> Effects:
    """Task vectors, token effects and mean of a model's states, from balanced probes.

    Args:
        layer: the block whose output is read; negative ones count from the last.
        seen: observations before the state, as for `probes`; as many as the context holds by
            default.
        per_cell: sequences for each pair of task and token.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, sequences beyond the
            context, or one major task only.
    """
    check_model(model, family)
    seen = most_seen(model, family) if seen is None else seen
    probed = probes(family, seen=seen, per_cell=per_cell, seed=seed)
    return balanced_effects(states(model, probed, layer=layer), probed.task, probed.token)


def most_seen(model: Any, family: Any) -> int:
    """As many observations as a probe of the model's whole context has."""
    return longest(model, family) - isinstance(family, LinearRegression)


def _fixed_inputs(dim: int) -> Float[Tensor, "input dim"]:
    """The same for every model, family and seed."""
    return torch.from_numpy(np.random.default_rng(0).standard_normal((_INPUTS, dim)))
