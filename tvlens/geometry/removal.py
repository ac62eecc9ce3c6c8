"""Removing a subspace from a model's activations."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from ..integers import Integer, Integers
from ..models.hooks import Hook, replace_at, row_positions
from ..models.loading import model_name
from ..sites import COMPONENTS, Site
from . import checks

Mode = Literal["mean", "zero", "resample"]
MODES = get_args(Mode)

# Coordinates inside the subspace -> what stands in their place.
Fill = Callable[[Float[Tensor, "batch pos r"]], Float[Tensor, "batch pos r"]]


def removal(
    model: Any,
    basis: Float[Tensor, "d r"],
    layer: Integer,
    *,
    site: str,
    mode: Mode,
    mean: Float[Tensor, " width"] | None,
    positions: Integers | None,
    seed: int,
) -> Hook:
    """The hook that replaces the part of an activation inside a subspace."""
    address = Site(site, layer).on(model)
    if address.axes[-1] != "d_model":
        fitting = [name for name, (_, axes) in COMPONENTS.items() if axes[-1] == "d_model"]
        raise TvlensError(
            f"{address.component} is not as wide as the model: choose from {', '.join(fitting)}"
        )
    if len(basis) != model.cfg.d_model:
        raise TvlensError(
            f"the subspace lies in {len(basis)} dimensions; {model_name(model)} has "
            f"{model.cfg.d_model}"
        )
    fill = _fill(mode, basis, mean, seed)

    def remove(activation: Tensor) -> Tensor:
        # Half precision would leave visible parts of the subspace behind.
        precise = activation.to(checks.kept_dtype(activation))
        inside = precise @ basis.to(precise)
        return (precise + (fill(inside) - inside) @ basis.to(precise).T).to(activation)

    def remove_at_positions(activation: Tensor) -> Tensor:
        edited, selected = activation.clone(), row_positions(positions, activation)
        edited[selected] = remove(activation)[selected]
        return edited

    return replace_at(address.hook(model), remove if positions is None else remove_at_positions)


def _fill(
    mode: Mode, basis: Float[Tensor, "d r"], mean: Float[Tensor, " width"] | None, seed: int
) -> Fill:
    if mode == "zero":
        return torch.zeros_like
    if mode == "resample":
        return lambda inside: inside.roll(_shift(len(inside), seed), dims=0)
    if mode != "mean":
        raise unknown("mode", mode, MODES)
    if mean is None:
        raise TvlensError(
            "mode 'mean' needs mean=, the mean activation at the site (only Subspace.pca keeps "
            "one); or choose mode 'zero' or 'resample'"
        )
    checks.same_width("mean", mean, "the subspace", basis.T)
    inside_mean = checks.exact("mean", mean) @ basis.to(mean.device, torch.float64)
    return lambda inside: inside_mean.to(inside).expand_as(inside)


def _shift(rows: int, seed: int) -> int:
    """How far rows move; never all the way round."""
    if rows < 2:
        raise TvlensError("resampling needs at least two rows in a batch")
    return int(np.random.default_rng(seed).integers(1, rows))
