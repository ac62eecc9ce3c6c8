"""`learner_subspace`: directions outside task and token spans on which new tasks depend."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
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
from ...stats import bootstrap_counts, percentiles
from ..pool import Split
from ..sequences import Data
from .ablation_check import Ablation, ablation, make_cost, mean_states, orthogonal_rest
from .model_predictions import (
    edited_forward,
    max_length,
    model_inputs,
    next_observation_cost,
    predict_without_context,
    require_compatible,
    to_predictive,
)
from .position_means import PositionMeans
from .probing import task_effects, task_span
from .subspace_optimization import maximize_over_subspaces

if TYPE_CHECKING:
    import pandas

# Cost increase on major tasks, in nats, below which the penalty is quadratic.
_PENALTY_WIDTH = 1e-3
# Known tasks are spared where their cost rises by less than this share of the rise on new tasks.
EQUIVALENCE_BOUND = 0.1
_RESAMPLES = 2000
# Sequences of the stopping rule for each sequence of a search: they need no gradients.
_VALIDATION_FACTOR = 4
# Offset of the seeds of the search, one for every rank.
_SEARCH_SEED = 100


@dataclass(frozen=True)
class LearnerSubspace(Result):
    """Directions outside the task and token spans whose removal costs most on new tasks.

    Attributes:
        basis: orthonormal basis, one direction per search, in the order of the searches.
        cost_increase: increase of the cost on removal, by split and sequence; measured on other
            tasks than those of the searches.
        context_gain: cost without context (predictions from the current token alone) minus cost.
        null: mean increase for random subspaces of the same variance, outside task and token spans.
        variance: variance of the states inside the subspace, by split.
        null_variance: variance inside each random subspace, by split.
        splits: "major", "minor" if the family has minors, "ood".
        share_by_rank: share of the gain from context lost with the first directions, on the new
            tasks of the stopping rule; the last entry may be that of a rejected direction.
        layer: the block whose output is edited, at all positions.
        settings: model, family, sizes and seed; `maxima` are the final objectives of all starts, by
            rank.
    """

    former_names = ("tvlens.Learning",)

    basis: Float[Tensor, "d r"]
    cost_increase: Float[Tensor, "split n"]
    context_gain: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
    variance: Float[Tensor, " split"]
    null_variance: Float[Tensor, "split draw"]
    splits: tuple[str, ...]
    share_by_rank: Float[Tensor, " searched"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shares = ", ".join(f"{split} {share:.2f}" for split, share in self.share.items())
        return f"LearnerSubspace(rank {self.rank}, layer {self.layer}, share of the gain: {shares})"

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.basis.shape[1]

    @property
    def subspace(self) -> Subspace:
        """The span of the directions."""
        return Subspace(self.basis)

    @property
    def ablation(self) -> Ablation:
        """The cost of removing the directions, with random subspaces as null."""
        settings = self.settings | {"subspace": "the learner's directions"}
        variances = self.variance, self.null_variance
        increases = self.cost_increase, self.null
        return Ablation(*increases, *variances, self.splits, self.rank, self.layer, settings)

    @property
    def mean(self) -> NamedValues[float]:
        """Mean increase by split."""
        return self.ablation.mean

    @property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences, by split."""
        return self.ablation.interval

    @cached_property
    def share(self) -> NamedValues[float]:
        """Share of the gain from context that removal costs, by split: 1 where all is lost."""
        shares = self.cost_increase.sum(1) / self.context_gain.sum(1)
        return NamedValues({"split": self.splits}, shares.tolist())

    @cached_property
    def share_interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the share over sequences, by split."""
        counts = bootstrap_counts(self.cost_increase.shape[1], _RESAMPLES, seed=0)
        shares = (counts @ self.cost_increase.numpy().T) / (counts @ self.context_gain.numpy().T)
        return NamedValues({"split": self.splits}, map(_central_interval, shares.T))

    @property
    def null_share(self) -> NamedValues[float]:
        """Largest share of the gain from context that a random subspace costs, by split."""
        shares = self.null.amax(1) / self.context_gain.mean(1)
        return NamedValues({"split": self.splits}, shares.tolist())

    @property
    def known_ratio(self) -> float:
        """Increase on major tasks over that on new tasks; infinite if the latter is not > 0."""
        return float(_divide_increases(self.mean["major"], self.mean["ood"]))

    @cached_property
    def known_ratio_interval(self) -> tuple[float, float]:
        """95% bootstrap interval of `known_ratio`, with both kinds of sequences resampled."""
        major, new = (self.cost_increase[self.splits.index(s)].numpy() for s in ("major", "ood"))
        resampled = [
            bootstrap_counts(len(increase), _RESAMPLES, seed=seed) @ increase
            for seed, increase in enumerate((major, new))
        ]
        return _central_interval(_divide_increases(*resampled))

    @property
    def spares_known_tasks(self) -> bool:
        """Whether known tasks are spared: the interval of `known_ratio` ends below a tenth.

        This is a test of equivalence, which few data cannot pass.
        """
        return self.known_ratio_interval[1] < EQUIVALENCE_BOUND

    @property
    def ratio_to_null(self) -> float:
        """Mean increase on new tasks over the largest of the null; infinite if that is not > 0."""
        largest = float(self.null[self.splits.index("ood")].max())
        return self.mean["ood"] / largest if largest > 0 else float("inf")

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split, as for `Ablation`, with the share of the gain from context."""
        intervals = [self.share_interval[split] for split in self.splits]
        columns = {"share": list(self.share.values()), "share_low": [low for low, _ in intervals]}
        columns |= {"share_high": [high for _, high in intervals]}
        return self.ablation.to_dataframe().assign(**columns)


def learner_subspace(
    model: Any,
    family: Any,
    *,
    max_rank: int = 8,
    minimum_gain: float = 0.02,
    layer: int = -1,
    steps: int = 500,
    restarts: int = 8,
    tolerance: float = 1e-6,
    penalty: float = 10.0,
    by_token: bool = False,
    sequences: int = 128,
    null: int = 50,
    effects: Effects | None = None,
    seed: int = 0,
) -> LearnerSubspace:
    """Search the complement of task and token spans for directions on which new tasks depend.

    Directions are found one by one, each on fresh tasks, with all earlier ones removed. The
    objective is the increase of the cost on new tasks when the directions are replaced by their
    mean (see `ablation`), minus `penalty` times any increase on the major tasks. L-BFGS maximizes
    it in float64 from several random starts until the gradient is below a tolerance, and the
    highest maximum is selected, so that the result does not depend on a processor's rounding.

    The search ends where a direction adds less than `minimum_gain` to the share of the gain from
    context that is lost, (cost with removal - cost) / (cost without context - cost), on further new
    tasks; this direction is rejected, except the first. The result is evaluated on other tasks
    again, against random subspaces of the same variance in the same complement.

    Args:
        max_rank: maximum number of directions.
        minimum_gain: smallest increase of the share for which a direction is added.
        layer: the block whose output is edited, at every position.
        steps: maximum number of iterations from each start.
        restarts: number of random starts; there are several local maxima.
        tolerance: largest gradient entry at convergence, in nats per radian.
        penalty: weight of the increase on major tasks; quadratic below a thousandth of a nat.
        by_token: whether the task span is that of separate task vectors for each last token.
        sequences: number of sequences per split, in every search and in the evaluation; four times
            as many decide when the search ends.
        null: number of random subspaces.
        effects: result of `task_effects` at the same layer, which is computed by default.
        seed: seed of tasks, starts and random subspaces.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the rank
            exceeds the dimension of the complement, or the model does not run in float64.

    Warns:
        UserWarning: a search has not converged within `steps`.
    """
    require_compatible(model, family)
    require_at_least(1, max_rank=max_rank, steps=steps, restarts=restarts)
    effects = effects or task_effects(model, family, layer=layer, seed=seed)
    options = dict(layer=layer, effects=effects, by_token=by_token, seed=seed)
    span = task_span(model, family, **options)
    complement = Subspace.span(torch.cat([span.basis.T, effects.token.to(span.basis)])).complement()
    if max_rank > complement.rank:
        raise TvlensError(
            f"{max_rank} directions do not fit into the {complement.rank} dimensions outside the "
            "task and token spans"
        )
    length = max_length(model, family)
    means = mean_states(model, family, sequences, layer=layer, effects=effects, seed=seed)
    precise = copy_in_float64(model)

    def sample(offset: int) -> dict[str, Data]:
        kinds: tuple[Split, ...] = ("major", "ood")
        options = dict(seed=seed + _SEARCH_SEED + offset)
        return {kind: family.sample(sequences, length, split=kind, **options) for kind in kinds}

    validation = family.sample(
        _VALIDATION_FACTOR * sequences, length, split="ood", seed=seed + _SEARCH_SEED
    )
    validation_costs = _make_costs(precise, family, {"ood": validation}, means, layer)
    gain = context_gain(model, family, validation, layer).mean()
    basis = torch.zeros(complement.dim, 0, dtype=torch.float64)
    shares: list[float] = []
    maxima = []
    while basis.shape[1] < max_rank:
        rank = 1 + basis.shape[1]
        rest = orthogonal_rest(Subspace(basis), complement) if rank > 1 else complement
        costs = _make_costs(precise, family, sample(rank), means, layer)
        objective = partial(_objective, costs, penalty, basis, rest.basis.double())
        # Sampled in the space of states: a basis of the rest may differ between processors.
        rng = np.random.default_rng([seed, rank])
        samples = torch.from_numpy(rng.standard_normal((restarts, complement.dim, 1)))
        starts = rest.basis.double().T @ samples
        maximum = maximize_over_subspaces(objective, starts, steps=steps, tolerance=tolerance)
        direction = _align_basis(rest.basis.double() @ maximum.basis, samples[0])
        extended = torch.cat([basis, direction], 1)
        with torch.no_grad():
            shares.append(float(validation_costs(extended)[0] / gain))
        maxima.append(maximum.maxima.tolist())
        if rank > 1 and shares[-1] - shares[-2] < minimum_gain:
            break
        basis = extended
    options = dict(inside=complement, layer=layer, sequences=sequences, null=null, seed=seed)
    ablated = ablation(model, family, subspace=Subspace(basis), effects=effects, **options)
    evaluated = (family.sample(sequences, length, split=s, seed=seed + 3) for s in ablated.splits)
    settings = {"model": model_name(model), "family": str(family), "penalty": penalty}
    settings |= {"restarts": restarts, "maxima": maxima, "minimum_gain": minimum_gain}
    return LearnerSubspace(
        basis=basis,
        cost_increase=ablated.cost_increase,
        context_gain=torch.stack([context_gain(model, family, d, layer) for d in evaluated]),
        null=ablated.null,
        variance=ablated.variance,
        null_variance=ablated.null_variance,
        splits=ablated.splits,
        share_by_rank=torch.tensor(shares),
        layer=ablated.layer,
        settings=settings | {"sequences": sequences, "tolerance": tolerance, "seed": seed},
    )


def context_gain(model: Any, family: Any, data: Data, layer: int) -> Float[Tensor, " n"]:
    """Compute the cost without context minus the cost, as means over positions."""
    prediction = predict_without_context(model, family, data)
    without = next_observation_cost(family, prediction, data).mean(1)
    return without - make_cost(model, family, data, layer)(lambda h: h)


def _divide_increases(major: Any, new: Any) -> Any:
    """Divide the increase on major tasks by that on new ones; infinite if that is not above 0."""
    ratio = np.where(new > 0, major / np.where(new > 0, new, 1), np.inf)
    return ratio if np.ndim(ratio) else float(ratio)


def _central_interval(values: Float[np.ndarray, " draw"]) -> tuple[float, float]:
    """Return the 95% interval of values that may be infinite."""
    low, high = percentiles(values, method="nearest")
    return float(low), float(high)


# Orthonormal basis of the removed directions -> mean cost increase on each part of the data.
CostIncreases = Callable[[Float[Tensor, "d r"]], list[Tensor]]


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


def _make_costs(
    model: Any, family: Any, data: dict[str, Data], means: PositionMeans, layer: int
) -> CostIncreases:
    """Return the cost increases on removal of directions as a differentiable function."""
    inputs = torch.cat([model_inputs(part) for part in data.values()])
    batch = Batch.of(model, inputs.double() if inputs.is_floating_point() else inputs)
    device = input_device(model)
    mean = torch.cat([means.at(part) for part in data.values()]).to(device)
    sizes = [len(part) for part in data.values()]

    def cost(basis: Tensor | None) -> list[Tensor]:
        def remove(h: Tensor) -> Tensor:
            return h if basis is None else h - (h - mean.to(h)) @ basis.to(h) @ basis.to(h).T

        predictive = to_predictive(family, forward(remove))
        parts = zip(predictive.split(sizes), data.values(), strict=True)
        return [next_observation_cost(family, p, part.to(device)).mean() for p, part in parts]

    try:
        forward = edited_forward(model, batch, layer)
        with torch.no_grad():
            baseline = cost(None)
    except RuntimeError as error:
        raise TvlensError(f"{model_name(model)} does not run in float64: {error}") from error

    def increases(basis: Tensor) -> list[Tensor]:
        return [after - before for after, before in zip(cost(basis), baseline, strict=True)]

    return increases


def _objective(
    increases: CostIncreases,
    penalty: float,
    fixed: Float[Tensor, "d fixed"],
    rest: Float[Tensor, "d m"],
    coordinates: Float[Tensor, "m r"],
) -> Float[Tensor, ""]:
    """Compute the objective of the search; the penalty is smooth at 0 for the optimizer."""
    on_major, on_new = increases(torch.cat([fixed, rest @ coordinates], 1))
    harm = on_major.clamp(min=0)
    return on_new - penalty * smooth_l1_loss(harm, torch.zeros_like(harm), beta=_PENALTY_WIDTH)


def _align_basis(basis: Float[Tensor, "d r"], like: Float[Tensor, "d r"]) -> Float[Tensor, "d r"]:
    """Return the orthonormal basis of the same subspace that is nearest to a matrix."""
    nearest, _ = polar((basis @ (basis.T @ like)).numpy())
    return torch.from_numpy(nearest)
