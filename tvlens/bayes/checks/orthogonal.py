"""The learner's subspace: orthogonal to tasks and tokens, and needed where the task is new."""

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

from ... import viz
from ...errors import TvlensError
from ...geometry import Effects, Subspace
from ...models.forward import Batch
from ...models.loading import model_name
from ...saved import Saved
from ..pool import at_least
from ..sequences import Data
from .ablation import Removal, mean_state, removal
from .ascent import maximize_over_subspaces
from .predictives import after, as_predicted, check_model, costs, inputs_of, longest
from .probing import task_effects

if TYPE_CHECKING:
    import pandas

# Nats of harm to the major tasks over which the penalty sets in.
_CORNER = 1e-3


@dataclass(frozen=True)
class Learning(Saved):
    """Directions outside the task and token spans whose removal hurts new tasks most.

    Attributes:
        basis: the directions that were found, orthonormal.
        rise: rise of the cost when they are removed, by split and sequence; other sequences than
            those of the search.
        null: mean rise for random directions of the same rank, also outside task and token spans.
        splits: "major", "minor" where there are any, "ood".
        curve: what the search climbed, by step of the start that was taken: mean rise on new
            tasks less the penalty.
        layer: the block whose output lost them, at all positions.
        settings: model, family, numbers and seed; `heights` is where each start ended.
    """

    basis: Float[Tensor, "d r"]
    rise: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
    splits: tuple[str, ...]
    curve: Float[Tensor, " step"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(f"{s} {self.removal.mean(s):+.3f}" for s in self.splits)
        return f"Learning(rank {self.basis.shape[1]}, layer {self.layer}: {shown})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figures:
        """What removing the directions costs, beside random ones, and the search."""
        from .show import learning_figure

        return learning_figure(self)

    @property
    def subspace(self) -> Subspace:
        """The span of the directions."""
        return Subspace(self.basis)

    @property
    def removal(self) -> Removal:
        """What removing the directions costs, with random ones as null."""
        settings = self.settings | {"of": "the learner's directions"}
        parts = self.rise, self.null, self.splits
        return Removal(*parts, self.basis.shape[1], self.layer, settings)

    @property
    def gain(self) -> float:
        """How many times more their removal hurts new tasks than the worst random removal does.

        Infinite where no random removal hurts.
        """
        worst = float(self.null[self.splits.index("ood")].max())
        mean = self.removal.mean("ood")
        return mean / worst if worst > 0 else float("inf")

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per split, as for `Removal`."""
        return self.removal.to_dataframe()


def learning_directions(
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
) -> Learning:
    """Search the complement of task and token spans for what new tasks need.

    Maximises the rise of the cost on fresh tasks, when the directions are replaced by their mean,
    less `penalty` times any rise on the major tasks. L-BFGS climbs in float64 from several random
    starts until its slope is below a tolerance, and the highest end is taken; so the directions
    are those of the model and the sequences, not of a processor's rounding. The result is measured
    on other sequences, against random directions of the same rank in the same complement.

    Args:
        rank: how many directions.
        layer: the block whose output loses them, at every position.
        steps: of the search, from each start at most.
        restarts: from how many random starts; there are several maxima, some lower than others.
        tolerance: slope at which a climb ends, in nats per radian.
        penalty: nats of new-task cost that a nat of major-task cost is worth; the first
            thousandth of a nat, over which the penalty sets in, counts for less.
        sequences: of each kind, in every step of the search and in the measurement.
        null: how many random subspaces.
        effects: from `task_effects` of the same layer, which is called by default.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, a rank for which the
            complement has no room, or a model that does not run in float64.

    Warns:
        UserWarning: the search has not converged in `steps`.
    """
    check_model(model, family)
    at_least(1, rank=rank, steps=steps, restarts=restarts)
    effects = effects or task_effects(model, family, layer=layer, seed=seed)
    outside = unprotected(effects)
    if rank > outside.rank:
        raise TvlensError(
            f"{rank} directions do not fit into the {outside.rank} dimensions outside the task and "
            "token spans"
        )
    length = longest(model, family)
    kinds = {s: family.sample(sequences, length, split=s, seed=seed + 4) for s in ("major", "ood")}
    mean = mean_state(model, family.sample(sequences, length, seed=seed), layer=layer)
    rise = _rises(in_float64(model), family, kinds, outside, mean, layer)
    # Drawn in the space of states: a basis of the complement may differ between processors.
    draws = np.random.default_rng(seed).standard_normal((restarts, outside.dim, rank))
    starts = outside.basis.double().T @ torch.from_numpy(draws)
    maximum = maximize_over_subspaces(
        partial(_height, rise, penalty), starts, steps=steps, tolerance=tolerance
    )
    found = _canonical(outside.basis.double() @ maximum.basis, torch.from_numpy(draws[0]))
    measured = removal(
        model,
        family,
        subspace=found,
        inside=outside,
        layer=layer,
        sequences=sequences,
        null=null,
        seed=seed,
    )
    settings = {"model": model_name(model), "family": str(family), "penalty": penalty}
    settings |= {"restarts": restarts, "heights": maximum.heights.tolist()}
    return Learning(
        found.basis,
        measured.rise,
        measured.null,
        measured.splits,
        maximum.curve,
        measured.layer,
        settings | {"sequences": sequences, "tolerance": tolerance, "seed": seed},
    )


def unprotected(effects: Effects) -> Subspace:
    """Everything orthogonal to all task vectors and token effects."""
    return Subspace.span(torch.cat([effects.task, effects.token])).complement()


# Coordinates in the complement -> mean rise of the cost on major and on new tasks.
Rises = Callable[[Float[Tensor, "m r"]], tuple[Tensor, Tensor]]


def in_float64(model: Any) -> Any:
    """A copy of a model that computes in float64."""
    # A forward with gradients may have left tensors in the model that cannot be copied.
    held = [value for module in model.modules() for value in vars(module).values()]
    left = [one for one in held if isinstance(one, Tensor) and not one.is_leaf]
    copied = copy.deepcopy(model, {id(tensor): tensor.detach() for tensor in left}).double()
    if hasattr(copied.cfg, "dtype"):
        copied.cfg.dtype = torch.float64
    return copied


def _rises(
    model: Any, family: Any, kinds: dict[str, Data], outside: Subspace, mean: Tensor, layer: int
) -> Rises:
    """What removing directions costs, as a function that gradients can follow."""
    rows = torch.cat([inputs_of(data) for data in kinds.values()])
    batch = Batch.of(model, rows.double() if rows.is_floating_point() else rows)
    device = next(model.parameters()).device
    sizes = [len(data) for data in kinds.values()]

    def cost(basis: Tensor | None) -> list[Tensor]:
        def without(h: Tensor) -> Tensor:
            if basis is None:
                return h
            return h - (h - mean.to(h)) @ basis.to(h) @ basis.to(h).T

        output = as_predicted(family, finish(without))
        parts = zip(output.split(sizes), kinds.values(), strict=True)
        return [costs(family, told, data.to(device)).mean() for told, data in parts]

    try:
        finish = after(model, batch, layer)
        with torch.no_grad():
            base = cost(None)
    except RuntimeError as error:
        raise TvlensError(f"{model_name(model)} does not run in float64: {error}") from error

    def rise(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        removed = cost(outside.basis.to(coordinates) @ coordinates)
        return removed[0] - base[0], removed[1] - base[1]

    return rise


def _height(rise: Rises, penalty: float, basis: Float[Tensor, "m r"]) -> Float[Tensor, ""]:
    """What the search climbs; the corner of the penalty is rounded, since gradients follow it."""
    on_major, on_new = rise(basis)
    harm = on_major.clamp(min=0)
    return on_new - penalty * smooth_l1_loss(harm, torch.zeros_like(harm), beta=_CORNER)


def _canonical(basis: Float[Tensor, "d r"], like: Float[Tensor, "d r"]) -> Subspace:
    """The same span by the one of its bases that is nearest to a matrix."""
    nearest, _ = polar((basis @ (basis.T @ like)).numpy())
    return Subspace(torch.from_numpy(nearest))
