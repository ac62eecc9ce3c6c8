"""Does a subspace carry what a learner counts? Its coordinates from log counts, by ridge."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ... import viz
from ...activations import collect
from ...errors import TvlensError
from ...geometry import Subspace
from ...models.loading import model_name
from ...saved import Saved
from ..pool import at_least
from ..references import counts
from ..regression import LinearRegression
from ..sequences import Data, Pairs
from .predictives import check_model, inputs_of, longest

if TYPE_CHECKING:
    import pandas

_RIDGES = tuple(10.0**k for k in range(-4, 5))


@dataclass(frozen=True)
class Explained(Saved):
    """How much of a subspace's coordinates the learner's statistics explain.

    Attributes:
        share: cross-validated R^2 over all coordinates together, at each number seen; negative
            where the prediction is worse than the mean.
        null: the same with the statistics of other sequences.
        seen: observations before each state.
        layer: the block whose output was read.
        settings: features, model, family, numbers and seed.
    """

    share: Float[Tensor, " seen"]
    null: Float[Tensor, "seen draw"]
    seen: Int[Tensor, " seen"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Explained(layer {self.layer}, {int(self.seen[-1])} seen: R^2 "
            f"{float(self.share[-1]):.3f}, by chance {float(self.null[-1].mean()):.3f})"
        )

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figure:
        """R^2 by the number seen, with its null."""
        from .show import explained_figure

        return explained_figure(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per number seen: R^2, mean and largest of the null."""
        import pandas as pd

        columns = {"seen": self.seen, "share": self.share}
        columns |= {"null_mean": self.null.mean(1), "null_max": self.null.amax(1)}
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def explained_by_counts(
    model: Any,
    family: Any,
    subspace: Subspace,
    *,
    layer: int = -1,
    seen: tuple[int, ...] | None = None,
    sequences: int = 512,
    folds: int = 5,
    null: int = 10,
    seed: int = 0,
) -> Explained:
    """Regress a state's coordinates in a subspace on the learner's statistics, on new tasks.

    The features are log(1 + count) of tokens, with transitions of a chain and their row of the
    current state; of a regression X'X and X'y. The current token is a feature too. Ridge with a
    strength chosen inside each fold; R^2 = 1 - missed / total over all coordinates.

    Args:
        subspace: such as `learning_directions(...).subspace`.
        seen: observations before the state; a quarter, half and all of the context by default.
        sequences: of fresh tasks, each with one state per number seen.
        folds: of the cross-validation.
        null: draws in which sequences swap their statistics.

    Raises:
        TvlensError: fewer sequences than features in a fit, a subspace of another width, or more
            observations than the context holds.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    check_model(model, family)
    at_least(2, folds=folds, null=null)
    if subspace.dim != model.cfg.d_model:
        raise TvlensError(
            f"the subspace lies in {subspace.dim} dimensions; the model has {model.cfg.d_model}"
        )
    most = longest(model, family)
    seen = seen or tuple(sorted({max(1, most // 4), max(1, most // 2), most}))
    for count in seen:
        if not 1 <= count <= most:
            raise TvlensError(f"no state has {count} observations before it: seen is 1 to {most}")
    data = family.sample(sequences, most, split="ood", seed=seed + 5)
    features = _features(family, data)
    needed = features.shape[-1] + 1
    if sequences * (folds - 1) // folds < needed:
        raise TvlensError(
            f"{sequences} sequences in {folds} folds cannot fit {needed} features: give at least "
            f"{-(-needed * folds // (folds - 1))}"
        )
    coordinates = _coordinates(model, family, data, subspace, seen, layer)
    rng = np.random.default_rng(seed)
    split = KFold(folds, shuffle=True, random_state=seed)

    def share(x: np.ndarray, y: np.ndarray) -> float:
        scale = x.std(0)
        x = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
        told = cross_val_predict(RidgeCV(_RIDGES), x, y, cv=split).reshape(y.shape)
        return 1 - float(((y - told) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())

    shares, chance = [], []
    for count, y in zip(seen, coordinates, strict=True):
        x = features[:, count - 1].numpy()
        shares.append(share(x, y))
        chance.append([share(x[rng.permutation(sequences)], y) for _ in range(null)])
    settings = {"model": model_name(model), "family": str(family), "features": needed - 1}
    return Explained(
        torch.tensor(shares),
        torch.tensor(chance),
        torch.tensor(seen),
        layer % model.cfg.n_layers,
        settings | {"sequences": sequences, "folds": folds, "seed": seed},
    )


def _features(family: Any, data: Data) -> Float[Tensor, "n length feature"]:
    """The learner's statistics at every position, flat."""
    found = counts(family, data)
    if isinstance(family, LinearRegression):
        return found.flatten(2)
    vocabulary = family.vocabulary
    tokens = torch.nn.functional.one_hot(inputs_of(data), vocabulary).double()
    parts = [found.flatten(2).log1p(), tokens]
    if found.ndim == 4:  # transitions: also how often each token was seen, and the current row
        row = inputs_of(data)[..., None, None].expand(-1, -1, 1, vocabulary)
        parts += [tokens.cumsum(1).log1p(), found.gather(2, row)[:, :, 0].log1p()]
    return torch.cat(parts, -1)


def _coordinates(
    model: Any, family: Any, data: Data, subspace: Subspace, seen: tuple[int, ...], layer: int
) -> list[np.ndarray]:
    """Coordinates [n r] of the state after each number of observations."""
    # Of a regression, the state at the target that completes the pair.
    places = [2 * count - 1 for count in seen] if isinstance(data, Pairs) else [c - 1 for c in seen]
    rows = inputs_of(data)
    places = [min(place, rows.shape[1] - 1) for place in places]
    options = dict(layers=layer, positions=places, batch_size=256, progress=False)
    (found,) = collect(model, rows, "resid_post", **options).tensors.values()
    inside = found.double() @ subspace.basis.double()
    return [part.numpy() for part in inside.unbind(1)]
