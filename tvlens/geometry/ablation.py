"""The hook that ablates a subspace of a model's activations."""

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

# Coordinates in the subspace -> their replacement.
Replacement = Callable[[Float[Tensor, "batch pos r"]], Float[Tensor, "batch pos r"]]


def make_ablation_hook(
    model: Any,
    basis: Float[Tensor, "d r"],
    layer: Integer,
    *,
    site: str,
    mode: Mode,
    mean: Float[Tensor, "*pos width"] | None,
    positions: Integers | None,
    seed: int,
) -> Hook:
    """Create the hook that replaces the part of an activation inside a subspace."""
    address = Site(site, layer).on(model)
    if address.axes[-1] != "d_model":
        names = [name for name, (_, axes) in COMPONENTS.items() if axes[-1] == "d_model"]
        raise TvlensError(
            f"{address.component} is not as wide as the model: choose from {', '.join(names)}"
        )
    if len(basis) != model.cfg.d_model:
        raise TvlensError(
            f"the subspace lies in {len(basis)} dimensions; {model_name(model)} has "
            f"{model.cfg.d_model}"
        )
    replace = _make_replacement(mode, basis, mean, seed)

    def ablate(activation: Tensor) -> Tensor:
        # In half precision, rounding would leave part of the subspace in place.
        precise = activation.to(checks.result_dtype(activation))
        inside = precise @ basis.to(precise)
        return (precise + (replace(inside) - inside) @ basis.to(precise).T).to(activation)

    def ablate_positions(activation: Tensor) -> Tensor:
        edited, selected = activation.clone(), row_positions(positions, activation)
        edited[selected] = ablate(activation)[selected]
        return edited

    return replace_at(address.hook(model), ablate if positions is None else ablate_positions)


def _make_replacement(
    mode: Mode, basis: Float[Tensor, "d r"], mean: Float[Tensor, "*pos width"] | None, seed: int
) -> Replacement:
    if mode == "zero":
        return torch.zeros_like
    if mode == "resample":
        return lambda inside: inside.roll(_draw_shift(len(inside), seed), dims=0)
    if mode != "mean":
        raise unknown("mode", mode, MODES)
    if mean is None:
        raise TvlensError(
            "mode 'mean' needs mean=, the mean activation at the site (only Subspace.pca stores "
            "one); or choose mode 'zero' or 'resample'"
        )
    checks.check_same_width("mean", mean, "the subspace", basis.T)
    inside_mean = checks.as_float64("mean", mean) @ basis.to(mean.device, torch.float64)
    return lambda inside: inside_mean.to(inside).expand_as(inside)


def _draw_shift(rows: int, seed: int) -> int:
    """Draw by how many rows the batch is rolled; never a multiple of its length."""
    if rows < 2:
        raise TvlensError("resampling needs at least two rows in a batch")
    return int(np.random.default_rng(seed).integers(1, rows))
