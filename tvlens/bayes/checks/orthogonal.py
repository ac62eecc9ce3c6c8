"""The learner's subspace: orthogonal to tasks and tokens, and needed where the task is new."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...errors import TvlensError
from ...geometry import Effects, Subspace
from ...models.forward import Batch
from ...models.loading import model_name
from ...saved import Saved
from ..pool import at_least
from ..sequences import Data
from .ablation import Removal, mean_state, removal
from .predictives import after, as_predicted, check_model, costs, inputs_of, longest
from .probing import task_effects

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Learning(Saved):
    """Directions outside the task and token spans whose removal hurts new tasks most.

    Attributes:
        basis: the directions that were found, orthonormal.
        rise: rise of the cost when they are removed, by split and sequence; other sequences than
            those of the search.
        null: mean rise for random directions of the same rank, also outside task and token spans.
        splits: "major", "minor" where there are any, "ood".
        curve: what the search climbed, by step: mean rise on new tasks less the penalty.
        layer: the block whose output lost them, at all positions.
        settings: model, family, numbers and seed.
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
    steps: int = 150,
    lr: float = 0.05,
    penalty: float = 10.0,
    sequences: int = 128,
    null: int = 50,
    effects: Effects | None = None,
    seed: int = 0,
) -> Learning:
    """Search the complement of task and token spans for what new tasks need.

    Maximises the rise of the cost on fresh tasks, when the directions are replaced by their mean,
    less `penalty` times any rise on the major tasks. The basis is the orthonormal factor of a free
    matrix, which Adam moves. The result is measured on other sequences, against random directions
    of the same rank in the same complement.

    Args:
        rank: how many directions.
        layer: the block whose output loses them, at every position.
        steps, lr: of the search.
        penalty: nats of new-task cost that a nat of major-task cost is worth.
        sequences: of each kind, in every step of the search and in the measurement.
        null: how many random subspaces.
        effects: from `task_effects` of the same layer, which is called by default.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, or a rank for which the
            complement has no room.
    """
    check_model(model, family)
    at_least(1, rank=rank, steps=steps)
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
    rise = _rises(model, family, kinds, outside, mean, layer)
    free, curve = _climb(rise, (outside.rank, rank), steps, lr, penalty, seed)
    found = Subspace.span((outside.basis.double() @ torch.linalg.qr(free).Q).T)
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
    return Learning(
        found.basis,
        measured.rise,
        measured.null,
        measured.splits,
        curve,
        measured.layer,
        settings | {"sequences": sequences, "lr": lr, "seed": seed},
    )


def unprotected(effects: Effects) -> Subspace:
    """Everything orthogonal to all task vectors and token effects."""
    return Subspace.span(torch.cat([effects.task, effects.token])).complement()


# Coordinates in the complement -> mean rise of the cost on major and on new tasks.
Rises = Callable[[Float[Tensor, "m r"]], tuple[Tensor, Tensor]]


def _rises(
    model: Any, family: Any, kinds: dict[str, Data], outside: Subspace, mean: Tensor, layer: int
) -> Rises:
    """What removing directions costs, as a function that gradients can follow."""
    batch = Batch.of(model, torch.cat([inputs_of(data) for data in kinds.values()]))
    device = next(model.parameters()).device
    finish = after(model, batch, layer)
    sizes = [len(data) for data in kinds.values()]

    def cost(basis: Tensor | None) -> list[Tensor]:
        def without(h: Tensor) -> Tensor:
            if basis is None:
                return h
            return h - (h - mean.to(h)) @ basis.to(h) @ basis.to(h).T

        output = as_predicted(family, finish(without))
        parts = zip(output.split(sizes), kinds.values(), strict=True)
        return [costs(family, told, data.to(device)).mean() for told, data in parts]

    with torch.no_grad():
        base = cost(None)

    def rise(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        removed = cost(outside.basis.to(coordinates) @ coordinates)
        return removed[0] - base[0], removed[1] - base[1]

    return rise


def _climb(
    rise: Rises, shape: tuple[int, int], steps: int, lr: float, penalty: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Adam on a free matrix whose orthonormal factor is the basis; the last one and the curve."""
    start = np.random.default_rng(seed).standard_normal(shape) / shape[0] ** 0.5
    free = torch.from_numpy(start).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr)
    curve = []
    for _ in range(steps):
        on_major, on_new = rise(torch.linalg.qr(free).Q)
        height = on_new - penalty * on_major.clamp(min=0)
        (free.grad,) = torch.autograd.grad(-height, free)
        optimizer.step()
        curve.append(float(height.detach()))
    return free.detach(), torch.tensor(curve)
