"""Removal: what does it cost a model to lose its task span, on known and on new tasks?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...activations import collect
from ...errors import unknown
from ...geometry import Effects, Subspace
from ...geometry.removal import Mode
from ...models.forward import Batch
from ...models.loading import model_name
from ...saved import Saved
from ...stats import bootstrap_interval
from ..pool import Split, at_least
from ..sequences import Data
from .predictives import (
    Edit,
    after,
    as_predicted,
    check_model,
    costs,
    fitting_inputs,
    inputs_of,
    longest,
)
from .probing import task_effects

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Removal(Saved):
    """Rise of the cost of the next observation, in nats, when a subspace is removed.

    Attributes:
        rise: mean over positions, in every sequence of each split.
        null: mean rise when random subspaces of the same rank are removed instead.
        splits: where the sequences come from.
        rank: dimensions of the subspace.
        layer: the block whose output lost them, at all positions.
        settings: what was removed, model, family, mode, numbers and seed.
    """

    rise: Float[Tensor, "split n"]
    null: Float[Tensor, "split draw"]
    splits: tuple[str, ...]
    rank: int
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(f"{s} {self.mean(s):+.3f}" for s in self.splits)
        return f"Removal({self.settings.get('of', 'subspace')}, layer {self.layer}: {shown})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figure:
        """Mean rise with its interval by split, beside random subspaces."""
        from .show import removal_figure

        return removal_figure(self)

    def mean(self, split: str) -> float:
        """Mean rise on a split."""
        return float(self.rise[self._index(split)].mean())

    def interval(self, split: str) -> tuple[float, float]:
        """95% bootstrap interval of the mean rise, over sequences."""
        return bootstrap_interval(self.rise[self._index(split)].numpy())

    def p_value(self, split: str) -> float:
        """How often random subspaces of the same rank cost at least as much."""
        null = self.null[self._index(split)]
        return (1 + int((null >= self.mean(split)).sum())) / (1 + len(null))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per split: mean rise, interval, mean and largest rise of random subspaces."""
        import pandas as pd

        rows = []
        for split, null in zip(self.splits, self.null, strict=True):
            low, high = self.interval(split)
            row = {"split": split, "rise": self.mean(split), "low": low, "high": high}
            row |= {"null_mean": float(null.mean()), "null_max": float(null.max())}
            rows.append(row | {"p_value": self.p_value(split)})
        return pd.DataFrame(rows)

    def _index(self, split: str) -> int:
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        return self.splits.index(split)


def removal(
    model: Any,
    family: Any,
    *,
    subspace: Subspace | None = None,
    inside: Subspace | None = None,
    layer: int = -1,
    mode: Mode = "mean",
    splits: Sequence[Split] | None = None,
    sequences: int = 256,
    null: int = 20,
    effects: Effects | None = None,
    seed: int = 0,
) -> Removal:
    """Remove a subspace from a block's output at every position and measure what it costs.

    Args:
        subspace: what to remove; the span of the task vectors by default.
        inside: random subspaces of the null are drawn within this one; within the whole space by
            default.
        layer: the block.
        mode: what replaces the removed part: "mean" (of training sequences), "zero", "resample".
        splits: majors, minors where there are any, and fresh tasks by default.
        sequences: in each split.
        null: how many random subspaces.
        effects: from `task_effects` of the same layer, which is called by default.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, or an unknown mode.
    """
    check_model(model, family)
    at_least(2, sequences=sequences, null=null)
    if splits is None:
        splits = ["major", "minor", "ood"] if family.minors else ["major", "ood"]
    of = "the given subspace"
    if subspace is None:
        of = "the task span"
        effects = effects or task_effects(model, family, layer=layer, seed=seed)
        subspace = Subspace.span(effects.task)
    length = longest(model, family)
    mean = mean_state(model, family.sample(sequences, length, seed=seed), layer=layer)
    options = dict(mode=mode, mean=mean.float(), seed=seed)
    randoms = [_random(inside, subspace, seed + i) for i in range(null)]

    rises, chance = [], []
    for split in splits:
        data = family.sample(sequences, length, split=split, seed=seed + 3)
        cost = _costs(model, family, data, layer)
        base = cost(lambda h: h)
        hooks = [one.hook(model, layer, **options)[1] for one in (subspace, *randoms)]
        removed = [cost(partial(hook, hook=None)) for hook in hooks]
        rises.append(removed[0] - base)
        chance.append(torch.stack([(one - base).mean() for one in removed[1:]]))
    settings = {"of": of, "mode": mode, "model": model_name(model), "family": str(family)}
    settings |= {"sequences": sequences, "seed": seed}
    at = layer % model.cfg.n_layers
    stacked = torch.stack(rises), torch.stack(chance)
    return Removal(*stacked, tuple(splits), subspace.rank, at, settings)


def mean_state(model: Any, data: Data, *, layer: int) -> Float[Tensor, " d"]:
    """Mean of a block's output over sequences and positions."""
    options = dict(layers=layer, batch_size=256, progress=False)
    (found,) = collect(model, inputs_of(data), "resid_post", **options).tensors.values()
    return found.double().mean((0, 1))


def _random(inside: Subspace | None, like: Subspace, seed: int) -> Subspace:
    """A random subspace of the same rank, within another one.

    It is drawn in the whole space and projected, so that it does not depend on which basis the
    other one has.
    """
    drawn = Subspace.random(like.dim, like.rank, seed=seed)
    return drawn if inside is None else Subspace.span(inside.project(drawn.basis.T.double()))


def _costs(
    model: Any, family: Any, data: Data, layer: int
) -> Callable[[Edit], Float[Tensor, " n"]]:
    """Mean cost over positions, as a function of an edit of the block's output."""
    finish = after(model, Batch.of(model, fitting_inputs(model, data)), layer)

    def cost(edit: Edit) -> Float[Tensor, " n"]:
        with torch.no_grad():
            told = as_predicted(family, finish(edit)).cpu()
        return costs(family, told, data).mean(1)

    return cost
