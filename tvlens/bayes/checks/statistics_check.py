"""`statistics_regression`: whether a subspace encodes the sufficient statistics of a learner."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...activations import collect
from ...errors import TvlensError
from ...geometry import Subspace
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ..references import sufficient_statistics
from ..regression import LinearRegression
from ..sequences import Data, Pairs
from .model_predictions import max_length, model_inputs, require_compatible

if TYPE_CHECKING:
    import pandas

_RIDGES = tuple(10.0**k for k in range(-4, 5))


@dataclass(frozen=True)
class StatisticsRegression(Result):
    """Share of a subspace's coordinates that the learner's sufficient statistics explain.

    Attributes:
        r_squared: cross-validated R^2 over all coordinates, by number of observations; may be
            negative.
        null: the same with the statistics of other sequences.
        observations: numbers of observations before each state.
        layer: the block whose output is read.
        settings: number of features, model, family, sizes and seed.
    """

    former_names = ("tvlens.Explained",)

    r_squared: Float[Tensor, " count"]
    null: Float[Tensor, "count draw"]
    observations: Int[Tensor, " count"]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"StatisticsRegression(layer {self.layer}, {int(self.observations[-1])} observations: "
            f"R^2 {float(self.r_squared[-1]):.3f}, null {float(self.null[-1].mean()):.3f})"
        )

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per number of observations: R^2, mean and maximum of the null."""
        import pandas as pd

        columns = {"observations": self.observations, "r_squared": self.r_squared}
        columns |= {"null_mean": self.null.mean(1), "null_max": self.null.amax(1)}
        return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def statistics_regression(
    model: Any,
    family: Any,
    subspace: Subspace,
    *,
    layer: int = -1,
    observations: tuple[int, ...] | None = None,
    sequences: int = 512,
    folds: int = 5,
    null: int = 10,
    seed: int = 0,
) -> StatisticsRegression:
    """Regress a state's coordinates in a subspace on the learner's statistics, on new tasks.

    The features are log(1 + count) of tokens, for chains also of all transitions and of those from
    the current state; for a regression, X'X and X'y. The current token is an additional feature.
    The ridge strength is selected within each fold; R^2 = 1 - residual / total over all
    coordinates.

    Args:
        subspace: such as `learner_subspace(...).subspace`.
        observations: numbers of observations before the state; a quarter, half and all of the
            context by default.
        sequences: number of new tasks, with one sequence each and one state per number of
            observations.
        folds: number of folds of the cross-validation.
        null: number of permutations of the statistics over sequences.

    Raises:
        TvlensError: there are fewer sequences than features, the subspace has the wrong width, or
            observations exceed the context.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    require_compatible(model, family)
    require_at_least(2, folds=folds, null=null)
    if subspace.dim != model.cfg.d_model:
        raise TvlensError(
            f"the subspace lies in {subspace.dim} dimensions; the model has {model.cfg.d_model}"
        )
    longest = max_length(model, family)
    counts = observations or tuple(sorted({max(1, longest // 4), max(1, longest // 2), longest}))
    for count in counts:
        if not 1 <= count <= longest:
            raise TvlensError(f"observations must be between 1 and {longest}, not {count}")
    data = family.sample(sequences, longest, split="ood", seed=seed + 5)
    features = _compute_features(family, data)
    needed = features.shape[-1] + 1
    if sequences * (folds - 1) // folds < needed:
        raise TvlensError(
            f"{sequences} sequences in {folds} folds cannot fit {needed} features: give at least "
            f"{-(-needed * folds // (folds - 1))}"
        )
    coordinates = _read_coordinates(model, data, subspace, counts, layer)
    rng = np.random.default_rng(seed)
    split = KFold(folds, shuffle=True, random_state=seed)

    def r_squared(x: np.ndarray, y: np.ndarray) -> float:
        scale = x.std(0)
        x = (x - x.mean(0)) / np.where(scale > 0, scale, 1)
        prediction = cross_val_predict(RidgeCV(_RIDGES), x, y, cv=split).reshape(y.shape)
        return 1 - float(((y - prediction) ** 2).sum() / ((y - y.mean(0)) ** 2).sum())

    values, nulls = [], []
    for count, y in zip(counts, coordinates, strict=True):
        x = features[:, count - 1].numpy()
        values.append(r_squared(x, y))
        nulls.append([r_squared(x[rng.permutation(sequences)], y) for _ in range(null)])
    settings = {"model": model_name(model), "family": str(family), "features": needed - 1}
    return StatisticsRegression(
        r_squared=torch.tensor(values),
        null=torch.tensor(nulls),
        observations=torch.tensor(counts),
        layer=layer % model.cfg.n_layers,
        settings=settings | {"sequences": sequences, "folds": folds, "seed": seed},
    )


def _compute_features(family: Any, data: Data) -> Float[Tensor, "n length feature"]:
    """Compute the features of the regression at every position."""
    statistics = sufficient_statistics(family, data)
    if isinstance(family, LinearRegression):
        return statistics.flatten(2)
    vocabulary = family.vocabulary
    tokens = torch.nn.functional.one_hot(model_inputs(data), vocabulary).double()
    parts = [statistics.flatten(2).log1p(), tokens]
    if statistics.ndim == 4:  # transitions: add token counts and those from the current state
        row = model_inputs(data)[..., None, None].expand(-1, -1, 1, vocabulary)
        parts += [tokens.cumsum(1).log1p(), statistics.gather(2, row)[:, :, 0].log1p()]
    return torch.cat(parts, -1)


def _read_coordinates(
    model: Any, data: Data, subspace: Subspace, counts: tuple[int, ...], layer: int
) -> list[np.ndarray]:
    """Read the coordinates [n r] of the state after each number of observations."""
    inputs = model_inputs(data)
    # In a regression, an observation ends with its target; the last target is not read.
    positions = [2 * count - 1 if isinstance(data, Pairs) else count - 1 for count in counts]
    positions = [min(position, inputs.shape[1] - 1) for position in positions]
    options = dict(layers=layer, positions=positions, batch_size=256, progress=False)
    (states,) = collect(model, inputs, "resid_post", **options).tensors.values()
    coordinates = states.double() @ subspace.basis.double()
    return [part.numpy() for part in coordinates.unbind(1)]
