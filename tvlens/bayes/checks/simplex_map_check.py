"""`simplex_map`: predictions under injected mixtures of three tasks, over the whole simplex."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError
from ...geometry import Effects
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_interval
from .injection_check import geometric_mixture, kl_to_last, sample_major_probes
from .model_predictions import predict_from_last_state, require_compatible
from .probing import max_observations, read_probe_states
from .simplex_projection import project_on_shared_simplex, project_on_token_simplices
from .states import state_source

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class SimplexMap(Result):
    """KL in nats from the model's prediction to mixtures of three tasks, over a grid of weights.

    At the last layer, where logits are linear in the state, a convex combination of task vectors
    predicts the geometric mixture, whatever the model does with tasks: `to_geometric` is 0 and
    `to_arithmetic` equals `between`. Earlier layers can do either.

    Attributes:
        weights: points of the grid, weights of the three major tasks.
        to_arithmetic: KL to the mixture sum alpha_k p_k, by point and sequence.
        to_geometric: KL to the normalized product of p_k^alpha_k.
        between: KL from the geometric to the arithmetic mixture, the null of `to_arithmetic`.
        layer: the block whose output is replaced, at the last position.
        settings: model, family, sizes and seed.
    """

    weights: Float[Tensor, "point 3"]
    to_arithmetic: Float[Tensor, "point n"]
    to_geometric: Float[Tensor, "point n"]
    between: Float[Tensor, "point n"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        kls = (
            f"KL {self.to_arithmetic.mean():.3f} to the arithmetic, {self.to_geometric.mean():.3f}"
        )
        return f"SimplexMap(layer {self.layer}: {kls} to the geometric mixture)"

    @property
    def preference(self) -> float:
        """Mean of KL to the geometric minus KL to the arithmetic mixture; above 0 for the latter.

        At the corners of the simplex, both mixtures are equal.
        """
        return float(self._differences.mean())

    @property
    def preference_interval(self) -> tuple[float, float]:
        """95% bootstrap interval of `preference` over sequences."""
        return bootstrap_interval(self._differences.numpy())

    @property
    def _differences(self) -> Float[Tensor, " n"]:
        return (self.to_geometric - self.to_arithmetic).mean(0)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per point: weights, and means over sequences."""
        import pandas as pd

        columns = {f"task {k}": column for k, column in enumerate(self.weights.T)}
        for name in ("to_arithmetic", "to_geometric", "between"):
            columns[name] = getattr(self, name).mean(1)
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def simplex_map(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    resolution: int = 10,
    sequences: int = 32,
    by_token: bool = False,
    observations: int | None = None,
    effects: Effects | None = None,
    per_cell: int = 32,
    seed: int = 0,
) -> SimplexMap:
    """Inject every mixture of three tasks and compare predictions with two kinds of mixtures.

    The task part of the last state is replaced as by `injection`, for every point of a grid over
    the simplex and the same sequences.

    Args:
        layer: the block whose output is replaced, at the last position.
        resolution: steps along each side of the simplex: (r + 1) (r + 2) / 2 points.
        sequences: number of sequences, each with a random major task and last token.
        by_token: use separate task vectors for each last token.
        observations: observations before the state; by default the most that fit into the context.
        effects: result of `task_effects` at the same layer; estimated from the probes by default.
        per_cell: probes for each pair of task and token, from which task vectors are estimated.
        seed: seed of the sequences.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, or the
            family does not have three major tasks.
    """
    require_compatible(model, family)
    require_at_least(2, sequences=sequences, resolution=resolution)
    if family.majors != 3:
        raise TvlensError(f"a simplex map needs three major tasks; {family} has {family.majors}")
    observations = max_observations(model, family) if observations is None else observations
    options = dict(layer=layer, observations=observations, per_cell=per_cell, seed=seed)
    fitted = read_probe_states(model, family, **options)
    probes, _ = sample_major_probes(family, sequences, observations, seed)
    states = state_source(model, family, layer=layer).read_last(probes.data).double()
    if by_token:
        projection = project_on_token_simplices(states, probes.token, fitted)
    else:
        effects = fitted.effects() if effects is None else effects
        projection = project_on_shared_simplex(states, probes.token, effects)
    remainder = states - projection.project()
    predict_last = predict_from_last_state(model, family, probes.data, layer)
    weights = _grid(resolution)
    kls = []
    for point in weights:
        alpha = point.expand(sequences, -1)
        arithmetic = probes.mixture_predictive(family, alpha)
        geometric = geometric_mixture(probes, family, alpha)
        output = predict_last(remainder + projection.combine(alpha))
        pairs = ((output, arithmetic), (output, geometric), (geometric, arithmetic))
        kls.append(torch.stack([kl_to_last(family, first, second) for first, second in pairs]))
    settings = {"model": model_name(model), "family": str(family), "observations": observations}
    settings |= {"resolution": resolution, "by_token": by_token, "seed": seed}
    return SimplexMap(
        weights, *torch.stack(kls, 1), layer=layer % model.cfg.n_layers, settings=settings
    )


def _grid(resolution: int) -> Float[Tensor, "point 3"]:
    """Return all weights that are multiples of 1 / resolution, by first and second weight."""
    pairs = np.argwhere(np.add.outer(range(resolution + 1), range(resolution + 1)) <= resolution)
    return torch.from_numpy(np.column_stack([pairs, resolution - pairs.sum(1)]) / resolution)
