"""`learner_subspace`: directions outside task and token spans on which new tasks depend."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import polar
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from ...errors import NamedValues, TvlensError
from ...geometry import Effects, Subspace
from ...integers import require_at_least
from ...models.families import input_device
from ...models.forward import Batch
from ...models.loading import model_name
from ...results import Result
from ..sequences import Data
from .ablation_check import Ablation, ablation, compute_mean_state
from .model_predictions import (
    edited_forward,
    max_length,
    model_inputs,
    next_observation_cost,
    require_compatible,
    to_predictive,
)
from .probing import task_effects
from .subspace_optimization import maximize_over_subspaces

if TYPE_CHECKING:
    import pandas

# Cost increase on major tasks, in nats, below which the penalty is quadratic.
_PENALTY_WIDTH = 1e-3


@dataclass(frozen=True)
class LearnerSubspace(Result):
    """Directions outside the task and token spans whose removal costs most on new tasks.

    Attributes:
        basis: orthonormal basis of the directions.
        cost_increase: increase of the cost on removal, by split and sequence; measured on other
            sequences than those of the search.
        null: mean increase for random directions of the same rank, outside task and token spans.
        splits: "major", "minor" if the family has minors, "ood".
        objective: objective by step of the selected search: mean increase on new tasks minus the
            penalty.
        layer: the block whose output is edited, at all positions.
        settings: model, family, sizes and seed; `maxima` are the final objectives of all starts.
    """

    former_names = ("tvlens.Learning",)

    basis: Float[Tensor, "d r"]
    cost_increase: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
    splits: tuple[str, ...]
    objective: Float[Tensor, " step"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        means = ", ".join(f"{split} {mean:+.3f}" for split, mean in self.mean.items())
        return f"LearnerSubspace(rank {self.basis.shape[1]}, layer {self.layer}: {means})"

    @property
    def subspace(self) -> Subspace:
        """The span of the directions."""
        return Subspace(self.basis)

    @property
    def ablation(self) -> Ablation:
        """The cost of removing the directions, with random ones as null."""
        settings = self.settings | {"subspace": "the learner's directions"}
        rank = self.basis.shape[1]
        return Ablation(self.cost_increase, self.null, self.splits, rank, self.layer, settings)

    @property
    def mean(self) -> NamedValues[float]:
        """Mean increase by split."""
        return self.ablation.mean

    @property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences, by split."""
        return self.ablation.interval

    @property
    def ratio_to_null(self) -> float:
        """Mean increase on new tasks over the largest of the null; infinite if that is not > 0."""
        largest = float(self.null[self.splits.index("ood")].max())
        return self.mean["ood"] / largest if largest > 0 else float("inf")

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split, as for `Ablation`."""
        return self.ablation.to_dataframe()


def learner_subspace(
    model: Any,
    family: Any,
    *,
    rank: int = 4,
    layer: int = -1,
    steps: int = 500,
    restarts: int = 8,
    tolerance: float = 1e-6,
    penalty: float = 10.0,
    sequences: int = 128,
    null: int = 50,
    effects: Effects | None = None,
    seed: int = 0,
) -> LearnerSubspace:
    """Search the complement of task and token spans for directions on which new tasks depend.

    The objective is the increase of the cost on new tasks when the directions are replaced by their
    mean, minus `penalty` times any increase on the major tasks. L-BFGS maximizes it in float64 from
    several random starts until the gradient is below a tolerance, and the highest maximum is
    selected, so that the result does not depend on a processor's rounding. It is evaluated on
    other sequences, against random directions of the same rank in the same complement.

    Args:
        rank: number of directions.
        layer: the block whose output is edited, at every position.
        steps: maximum number of iterations from each start.
        restarts: number of random starts; there are several local maxima.
        tolerance: largest gradient entry at convergence, in nats per radian.
        penalty: weight of the increase on major tasks; quadratic below a thousandth of a nat.
        sequences: number of sequences per split, in the search and in the evaluation.
        null: number of random subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the rank
            exceeds the dimension of the complement, or the model does not run in float64.

    Warns:
        UserWarning: the search has not converged within `steps`.
    """
    require_compatible(model, family)
    require_at_least(1, rank=rank, steps=steps, restarts=restarts)
    effects = effects or task_effects(model, family, layer=layer, seed=seed)
    complement = Subspace.span(torch.cat([effects.task, effects.token])).complement()
    if rank > complement.rank:
        raise TvlensError(
            f"{rank} directions do not fit into the {complement.rank} dimensions outside the task "
            "and token spans"
        )
    length = max_length(model, family)
    data = {s: family.sample(sequences, length, split=s, seed=seed + 4) for s in ("major", "ood")}
    mean = compute_mean_state(model, family.sample(sequences, length, seed=seed), layer=layer)
    increase = _make_cost_increase(copy_in_float64(model), family, data, complement, mean, layer)
    # Sampled in the space of states: a basis of the complement may differ between processors.
    samples = np.random.default_rng(seed).standard_normal((restarts, complement.dim, rank))
    starts = complement.basis.double().T @ torch.from_numpy(samples)
    maximum = maximize_over_subspaces(
        partial(_objective, increase, penalty), starts, steps=steps, tolerance=tolerance
    )
    subspace = _align_basis(complement.basis.double() @ maximum.basis, torch.from_numpy(samples[0]))
    options = dict(inside=complement, layer=layer, sequences=sequences, null=null, seed=seed)
    ablated = ablation(model, family, subspace=subspace, **options)
    settings = {"model": model_name(model), "family": str(family), "penalty": penalty}
    settings |= {"restarts": restarts, "maxima": maximum.maxima.tolist()}
    return LearnerSubspace(
        basis=subspace.basis,
        cost_increase=ablated.cost_increase,
        null=ablated.null,
        splits=ablated.splits,
        objective=maximum.history,
        layer=ablated.layer,
        settings=settings | {"sequences": sequences, "tolerance": tolerance, "seed": seed},
    )


# Coordinates in the complement -> mean cost increase on major and on new tasks.
CostIncrease = Callable[[Float[Tensor, "m r"]], tuple[Tensor, Tensor]]


def copy_in_float64(model: Any) -> Any:
    """Copy a model and convert the copy to float64."""
    # A forward with gradients may leave non-leaf tensors in the model, which cannot be copied.
    values = [value for module in model.modules() for value in vars(module).values()]
    non_leaves = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    memo = {id(tensor): tensor.detach() for tensor in non_leaves}
    copied = copy.deepcopy(model, memo).double()
    if hasattr(copied.cfg, "dtype"):
        copied.cfg.dtype = torch.float64
    return copied


def _make_cost_increase(
    model: Any, family: Any, data: dict[str, Data], complement: Subspace, mean: Tensor, layer: int
) -> CostIncrease:
    """Return the cost increase on removal of directions as a differentiable function."""
    inputs = torch.cat([model_inputs(part) for part in data.values()])
    batch = Batch.of(model, inputs.double() if inputs.is_floating_point() else inputs)
    device = input_device(model)
    sizes = [len(part) for part in data.values()]

    def cost(basis: Tensor | None) -> list[Tensor]:
        def remove(h: Tensor) -> Tensor:
            if basis is None:
                return h
            return h - (h - mean.to(h)) @ basis.to(h) @ basis.to(h).T

        predictive = to_predictive(family, forward(remove))
        parts = zip(predictive.split(sizes), data.values(), strict=True)
        return [next_observation_cost(family, p, part.to(device)).mean() for p, part in parts]

    try:
        forward = edited_forward(model, batch, layer)
        with torch.no_grad():
            baseline = cost(None)
    except RuntimeError as error:
        raise TvlensError(f"{model_name(model)} does not run in float64: {error}") from error

    def increase(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        ablated = cost(complement.basis.to(coordinates) @ coordinates)
        return ablated[0] - baseline[0], ablated[1] - baseline[1]

    return increase


def _objective(
    increase: CostIncrease, penalty: float, basis: Float[Tensor, "m r"]
) -> Float[Tensor, ""]:
    """Compute the objective of the search; the penalty is smooth at 0 for the optimizer."""
    on_major, on_new = increase(basis)
    harm = on_major.clamp(min=0)
    return on_new - penalty * smooth_l1_loss(harm, torch.zeros_like(harm), beta=_PENALTY_WIDTH)


def _align_basis(basis: Float[Tensor, "d r"], like: Float[Tensor, "d r"]) -> Subspace:
    """Return the same subspace with its orthonormal basis that is nearest to a matrix."""
    nearest, _ = polar((basis @ (basis.T @ like)).numpy())
    return Subspace(torch.from_numpy(nearest))
